"""TIAM on minibatches, as an Optax transform."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import ScalarOrSchedule, check_choice, check_number, value_at
from tritia._leaves import is_placeholder
from tritia._mesh import Axes, beside, vary, varying_axes, with_auto_axes
from tritia._schedules import growing_period
from tritia._trees import cast_like
from tritia.alternating import _examples as ex
from tritia.alternating._arguments import (
    activation_of_each,
    resolve_activations,
    resolve_loss,
    solver_dtype,
)
from tritia.alternating._blocks.activations import Activation, ActivationName
from tritia.alternating._blocks.forward_pass import forward_pass
from tritia.alternating._blocks.losses import Loss, LossName
from tritia.alternating._minibatch import layer_grams as grams, targets as block_targets
from tritia.alternating._network import Network, check_dtypes, find_layers, layers_of, like_params
from tritia.inertia import Inertia, triple_inertia
from tritia.layerwise import InputGramState
from tritia.layerwise._damped_inverse import Inverse, times_columns, times_rows
from tritia.layerwise._running_gram import check_settings, placeholder_state

TargetStep = Literal["gradient", "exact"]
NAME = "stochastic_tiam"


class StochasticTiamState(NamedTuple):
    """State of the block step of `tritia.stochastic_tiam`, which its inertia wraps.

    Attributes:
      loss: mean loss of the last minibatch, before its step, ().
      grams: the Gram matrices of the layers' inputs, an `InputGramState`; its count is the number
        of updates so far.
    """

    loss: jax.Array
    grams: InputGramState


def stochastic_tiam(
    learning_rate: ScalarOrSchedule,
    *,
    activation: ActivationName | Activation | Sequence[ActivationName | Activation] = "relu",
    loss: LossName | Loss = "softmax_cross_entropy",
    target_step: TargetStep = "gradient",
    rho: ScalarOrSchedule = 1.0,
    damping: ScalarOrSchedule = 10.0,
    decay: ScalarOrSchedule = 0.95,
    refresh_period: ScalarOrSchedule = growing_period(1, 10),  # noqa: B008
    factor_period: ScalarOrSchedule = growing_period(5, 100),  # noqa: B008
    max_gram: int = 1024,
    rank: int | None = 32,
    input_gram: jax.Array | None = None,
    inertia: Inertia | None = Inertia(0.9, 0.0, 0.0),  # noqa: B008
    layer_order: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Trains a multilayer perceptron by alternating minimisation on minibatches.

    `tritia.tiam` keeps variables for every example; this keeps none. Each update makes a forward
    pass on its minibatch, so that all couplings hold, and takes one proximal step of every block
    from there, from the output down, with weight :math:`1/\eta`, eta the learning rate:

    .. math::

      \begin{aligned}
        z_L^* &= \arg\min_z \; R(z, y) + \tfrac1{2\eta} |z - z_L|^2, \qquad
        z_l^* \text{ from } z_{l+1}^* \text{ for } l = L - 1, \dots, 1 \\
        D_l &= \arg\min_D \; \tfrac1{2n} |a_{l-1} D - (z_l^* - z_l)|^2 + \tfrac{\lambda_l}2 |D|^2
            = (G_l + \lambda_l I)^{-1} \frac{a_{l-1}^T (z_l^* - z_l)}{n}
      \end{aligned}

    and the kernels move by D, with the bias as the kernel's row of a constant input. G is a running
    average of :math:`a_{l-1}^T a_{l-1} / n` over minibatches and :math:`\lambda_l = damping \cdot
    \operatorname{tr} G_l / d`. Triple inertia follows, around all kernels and biases together:
    with the last displacement :math:`d = u - u_{prev}`,

    .. math::

      c = u + p_1 d, \quad e = u + p_2 d, \quad v = c + D(e), \quad u_{next} = v + p_3 (v - u)

    The loop's params are e; `tritia.eval_params(state, params)` gives u.

    **Learning rate.** The loss is averaged over the rows, so that a learning rate suits any batch
    size. eta is in units of a Newton step for squared error: on a linear network eta = 1 and
    damping = 0 solve least squares in one step. As damping grows the step becomes gradient descent
    with the learning rate :math:`\eta / \lambda_l`. With the default damping and inertia 0.3 to 3
    is usual, best decayed to 0 over the run.

    **Deep networks.** With six layers or more the size of each layer's step and its weight decay
    matter more than the targets. Then let `tritia.spectral_momentum` make a step of the block's
    direction, and evaluate its average of the iterates:
    ``optax.chain(tritia.stochastic_tiam(1.0, inertia=None), optax.scale(-1.0),
    tritia.spectral_momentum(schedule))``. Without biases it is the same as
    ``tritia.spectral_momentum(schedule, input_gram=True)`` with this function's settings.

    **In a loop.** Any minibatch will do at any update, of any number of rows; under `jax.jit` a
    batch of another shape compiles anew, so pad the last one and give its padding weight 0. An
    epoch is one `jax.lax.scan`. It ignores `updates`, so it comes first in a chain, where
    they may be None. Weight decay comes after it,
    `optax.chain(tritia.stochastic_tiam(1.0), optax.add_decayed_weights(-1e-4))`, and so does
    clipping where p_2 is 0; otherwise clip the block step inside the inertia:
    `tritia.triple_inertia(optax.chain(tritia.stochastic_tiam(1.0, inertia=None),
    optax.clip_by_global_norm(1.0)), predict=0.9, evaluate=0.9)`. Under `optax.inject_hyperparams`
    name max_gram and rank in static_args.

    Args:
      learning_rate: eta > 0, a number or a schedule.
      activation: a name, an `Activation`, or a sequence of them with one for each hidden layer; as
        `tritia.tiam` with coupling "penalty".
      loss: a name or a `Loss`, as `tritia.tiam`.
      target_step: how the targets z* are found. "gradient": to first order in eta, one backward
        pass. "exact": every block is minimised; the two agree to O(eta).
      rho: the curvature with which a block pulls the one below it, > 0; "exact" alone. At
        1/eta the pulls are the targets themselves.
      damping: lambda relative to the mean diagonal entry of G, >= 0; a number or a schedule.
      decay: of the running average of G at each refresh, in [0, 1); it is debiased.
      refresh_period: steps between two refreshes of G, >= 1; a number or a schedule. By default it
        grows from 1 to 10, because G changes fastest at the start.
      factor_period: steps between two inversions of G, >= 1; a number or a schedule. By default it
        grows from 5 to 100.
      max_gram: the largest d for which the whole G is kept; its diagonal alone above; static.
      rank: None inverts G as a whole; an int r keeps its r leading eigenvectors and the mean of
        what is left, where that is cheaper: where 2 r < d; static.
      input_gram: the first layer's G where it is known, (d, d) with the row of the bias last, such
        as that of all training rows; inverted once. None averages it like the others.
      inertia: the coefficients p_1, p_2 and p_3, numbers or schedules; by default heavy ball, after
        which anything may follow in a chain. None leaves the wrapper and its memory away, for a
        wrapper of your own.
      layer_order: the paths of the layers, such as ("encoder", "decoder"); None takes the natural
        order of their paths.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Its `update(updates, state, params, inputs=,
      targets=, weights=None)` ignores `updates`; `weights`, (n,), are sample weights >= 0, and rows
      of weight 0 (padding) may hold anything. Its state is a `tritia.TripleInertiaState` around a
      `StochasticTiamState`, or the latter alone without inertia; no array of it has a row per
      example. On a mesh with rows spread over devices, only sums over them travel; the Gram
      matrices and their inverses lie where the compiler puts them, and on every device under
      explicit axes.

    Raises:
      ValueError: a number outside its range, an unknown name, a number of activations that does not
        fit the layers; from `init` and `update`, params that are not a stack of dense layers and
        examples that do not fit them.
      TypeError: an argument of the wrong type, or a static one that is traced.

    References:
      Yan et al., `A Triple-Inertial Accelerated Alternating Optimization Method for Deep Learning
      Training <https://arxiv.org/abs/2503.08489>`_, 2025

      Frerix et al., `Proximal Backpropagation <https://arxiv.org/abs/1706.04638>`_, 2018

      Benzing, `Gradient Descent on Neurons and its Link to Approximate Second-Order Optimization
      <https://arxiv.org/abs/2201.12250>`_, 2022

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> x = jax.random.normal(keys[0], (512, 4))
      >>> y = (x[:, 0] * x[:, 1] > 0).astype(int)
      >>> params = [
      ...   {"kernel": jax.random.normal(keys[1], (4, 20)), "bias": jnp.zeros(20)},
      ...   {"kernel": jax.random.normal(keys[2], (20, 2)), "bias": jnp.zeros(2)}]
      >>> solver = tritia.stochastic_tiam(1.0)
      >>> state = solver.init(params)
      >>> def step(carry, batch):
      ...   params, state = carry
      ...   updates, state = solver.update(
      ...     None, state, params, inputs=batch[0], targets=batch[1])
      ...   return (optax.apply_updates(params, updates), state), None
      >>> @jax.jit
      ... def epoch(params, state, x, y):
      ...   batches = x.reshape(-1, 64, 4), y.reshape(-1, 64)
      ...   return jax.lax.scan(step, (params, state), batches)[0]
      >>> for _ in range(20):
      ...   params, state = epoch(params, state, x, y)
      >>> best = tritia.eval_params(state, params)
      >>> hidden = jax.nn.relu(x @ best[0]["kernel"] + best[0]["bias"])
      >>> outputs = hidden @ best[1]["kernel"] + best[1]["bias"]
      >>> bool(jnp.mean(outputs.argmax(axis=1) == y) > 0.9)
      True
    """
    check_number("learning_rate", learning_rate, minimum=0, exclusive_minimum=True)
    check_number("rho", rho, minimum=0, exclusive_minimum=True)
    check_choice("target_step", target_step, get_args(TargetStep))
    settings = check_settings(
        damping=damping,
        decay=decay,
        refresh_period=refresh_period,
        factor_period=factor_period,
        max_gram=max_gram,
        rank=rank,
    )
    grams.check_input_gram(input_gram)
    the_loss = resolve_loss(loss)
    hidden = resolve_activations(activation, invertible=False)
    _check_inertia(inertia)

    def init_fn(params: optax.Params) -> StochasticTiamState:
        if is_placeholder(params):
            return StochasticTiamState(jnp.zeros(()), placeholder_state())
        network = find_layers(params, layer_order, solver=NAME)
        activation_of_each(hidden, network)
        dtype = solver_dtype(params)
        state = StochasticTiamState(
            jnp.zeros((), dtype), grams.start(settings, input_gram, grams.widths(network), dtype)
        )
        return beside(params, vary(state, varying_axes(params)))

    def update_fn(
        updates: Any,
        state: Any,
        params: optax.Params | None = None,
        *,
        inputs: jax.typing.ArrayLike | None = None,
        targets: jax.typing.ArrayLike | None = None,
        weights: jax.typing.ArrayLike | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, StochasticTiamState]:
        del updates, extra
        network, examples = ex.receive(
            NAME,
            params,
            inputs,
            targets,
            weights,
            layer_order=layer_order,
            num_examples=None,
            loss=the_loss,
        )
        axes = varying_axes((params, state))
        rows = varying_axes(examples) - axes
        result = with_auto_axes(
            functools.partial(step, network, rows),
            (params, state),
            *vary((params, state, examples), axes),
        )
        return vary(result, axes)

    def step(
        network: Network,
        axes: Axes,
        params: optax.Params,
        state: StochasticTiamState,
        examples: ex.Examples,
    ) -> tuple[optax.Updates, StochasticTiamState]:
        activations = activation_of_each(hidden, network)
        n, dtype = examples.inputs.shape[0], examples.inputs.dtype
        shares = grams.row_shares(examples.rows.weights, n, dtype, axes)

        def weighted(x: jax.Array) -> jax.Array:
            # A user's loss may be NaN on the zeros that replace padding.
            return (
                shares * x
                if examples.rows.weights is None
                else jnp.where(shares > 0, shares * x, 0)
            )

        kernels, biases = layers_of(network, params, dtype)
        z, a = forward_pass(kernels, biases, activations, examples.inputs)
        count = state.grams.count
        rate = jnp.asarray(value_at(learning_rate, count), dtype)
        if target_step == "gradient":
            moves = block_targets.gradient_displacements(
                kernels, activations, the_loss, z, examples.targets, rate
            )
        else:
            pull = jnp.asarray(value_at(rho, count), dtype)
            moves = block_targets.exact_displacements(
                kernels, activations, the_loss, z, a, examples.targets, rate, pull
            )
        layer_inputs = [grams.with_ones(x, bias) for x, bias in zip(a, biases, strict=True)]
        memory = grams.advance(
            settings, state.grams, layer_inputs, shares, axes, known=input_gram is not None
        )
        steps = [
            grams.split(_kernel_step(inverse, x, weighted(move), axes), bias is not None)
            for inverse, x, move, bias in zip(
                memory.inverses, layer_inputs, moves, biases, strict=True
            )
        ]
        displacement = like_params(network, params, *zip(*steps, strict=True))
        row_losses = the_loss.value(z[-1], examples.targets)[:, None]
        return (
            cast_like(displacement, params),
            StochasticTiamState(grams.total(weighted(row_losses), axes), memory),
        )

    block_step = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return block_step if inertia is None else _with_inertia(block_step, inertia)


def _with_inertia(
    block_step: optax.GradientTransformationExtraArgs, inertia: Inertia
) -> optax.GradientTransformationExtraArgs:
    """Wraps the step in its inertia, which leaves out integers: they are refused before it."""
    inertial = triple_inertia(block_step, **inertia._asdict())

    def init_fn(params: optax.Params) -> optax.OptState:
        check_dtypes(params, NAME)
        return inertial.init(params)

    def update_fn(
        updates: Any, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        check_dtypes(params, NAME)
        return inertial.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _kernel_step(inverse: Inverse, a: jax.Array, moves: jax.Array, axes: Axes) -> jax.Array:
    """Returns inverse a^T moves, (d, k), multiplied in the cheaper order."""
    rows, outputs = moves.shape
    if rows < outputs:
        return grams.over_all_rows(times_rows(inverse, a).T @ moves, axes)
    return times_columns(inverse, grams.over_all_rows(a.T @ moves, axes))


def _check_inertia(inertia: Inertia | None) -> None:
    if inertia is None:
        return
    if not isinstance(inertia, Inertia):
        raise TypeError(f"inertia must be a tritia.Inertia or None; got {inertia!r}.")
    for name, coefficient in inertia._asdict().items():
        check_number(f"inertia: {name}", coefficient)
