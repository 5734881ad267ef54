"""TIAM on minibatches, as an Optax transform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import optax

from tritia._arguments import ScalarOrSchedule, check_choice, check_number
from tritia._schedules import growing_period
from tritia.alternating._arguments import resolve_activations, resolve_loss
from tritia.alternating._blocks.activations import Activation, ActivationName
from tritia.alternating._blocks.losses import Loss, LossName
from tritia.alternating._minibatch import layer_grams as grams, steps
from tritia.alternating._minibatch.block_step import BlockSettings, block_step
from tritia.alternating._minibatch.steps import SpectralStep
from tritia.inertia import Inertia
from tritia.layerwise._running_gram import check_settings

TargetStep = Literal["gradient", "exact"]


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
    step: SpectralStep | Inertia | None = SpectralStep(),  # noqa: B008
    layer_order: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Trains a multilayer perceptron by alternating minimisation on minibatches.

    `tritia.tiam` keeps variables for every example; this keeps none. Each update makes a forward
    pass on its minibatch, so that all couplings hold, and finds one proximal step of every block
    from there, from the output down, with weight :math:`1/\eta`:

    .. math::

      \begin{aligned}
        z_L^* &= \arg\min_z \; R(z, y) + \tfrac1{2\eta} |z - z_L|^2, \qquad
        z_l^* \text{ from } z_{l+1}^* \text{ for } l = L - 1, \dots, 1 \\
        D_l &= \arg\min_D \; \tfrac1{2n} |a_{l-1} D - (z_l^* - z_l)|^2 + \tfrac{\lambda_l}2 |D|^2
            = (G_l + \lambda_l I)^{-1} \frac{a_{l-1}^T (z_l^* - z_l)}{n}
      \end{aligned}

    with the bias as the kernel's row of a constant input. G is a running average of
    :math:`a_{l-1}^T a_{l-1} / n` over minibatches and :math:`\lambda_l = damping \cdot
    \operatorname{tr} G_l / d`. What is made of these displacements D, `step` says.

    **A step of a fixed size**, `tritia.SpectralStep(weight_decay, momentum, rank)`, the default.
    D is the direction alone. Each layer, with d inputs (the constant one included) and k outputs,
    moves by

    .. math::

      M \leftarrow \mu M + D, \qquad
      W \leftarrow W + \eta \left( \sqrt{\min(d, k)} \frac{C(M)}{|C(M)|} - wd \cdot W \right)

    with C the clipping of the leading singular values of `tritia.scale_by_spectral_clipping`, and
    weight decay for the kernel only. An average of the iterates is kept besides: evaluate and save
    `tritia.eval_params(state, params)`. It is the step of `tritia.spectral_momentum` with
    `input_gram`, but for the biases: here they are rows of the matrices, there Adam trains them.
    One learning rate suits every width, batch size and scale of the loss; 0.01 is usual, 0.003 to
    0.03, decayed to 0 over the run. A minibatch without any weight has a direction of zero: the
    momentum and the weight decay act all the same, as with other optimizers.

    **Inertia**, `tritia.Inertia(p_1, p_2, p_3)`, such as heavy ball, ``tritia.Inertia(0.9)``. The
    layers move by D itself, with triple inertia around all kernels and biases together: with the
    last displacement :math:`d = u - u_{prev}`,

    .. math::

      c = u + p_1 d, \quad e = u + p_2 d, \quad v = c + D(e), \quad u_{next} = v + p_3 (v - u)

    The loop's params are e; `tritia.eval_params(state, params)` gives u. The learning rate is the
    eta of the proximal steps, in units of a Newton step for squared error: on a linear network eta
    = 1 and damping = 0 solve least squares in one step. As damping grows the step becomes gradient
    descent with the learning rate :math:`\eta / \lambda_l`. With the default damping and heavy
    ball 0.3 to 3 is usual, decayed to 0 over the run.

    The step of a fixed size ends ahead where the learning rate falls to 0: on MNIST after 8 epochs,
    0.9866 against 0.9828 with three layers and 0.9864 against 0.9767 with six. Inertia is cheaper
    by a quarter or more, sooner at 0.98 with three layers, moves by the minimisers themselves, and
    takes exact targets.

    **None**: the updates are D, for a chain or a wrapper of your own, and `eval_params` has nothing
    to read.

    **In a loop.** Any minibatch will do at any update, of any number of rows; under `jax.jit` a
    batch of another shape compiles anew, so pad the last one and give its padding weight 0. An
    epoch is one `jax.lax.scan`. It ignores `updates`, so it comes first in a chain, where
    they may be None. What follows the default step is not seen by its average, unless that is made
    anew by `tritia.polyak_average` at the end of a chain that begins with step=None. With inertia
    weight decay comes after it, ``optax.chain(tritia.stochastic_tiam(1.0,
    step=tritia.Inertia(0.9)), optax.add_decayed_weights(-1e-4))``, and so does clipping where p_2
    is 0; otherwise clip the block step inside the inertia:
    ``tritia.triple_inertia(optax.chain(tritia.stochastic_tiam(1.0, step=None),
    optax.clip_by_global_norm(1.0)), predict=0.9, evaluate=0.9)``. Under `optax.inject_hyperparams`
    name max_gram and rank in static_args.

    Args:
      learning_rate: eta > 0, a number or a schedule. 0.01 suits the default step, 1 inertia.
      activation: a name, an `Activation`, or a sequence of them with one for each hidden layer; as
        `tritia.tiam` with coupling "penalty".
      loss: a name or a `Loss`, as `tritia.tiam`.
      target_step: how the targets z* are found. "gradient": to first order in eta, one backward
        pass. "exact": every block is minimised; the two agree to O(eta). It goes with inertia or
        None, because a step of a fixed size has no proximal weight :math:`1/\eta`.
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
      step: what is made of the displacements: a `tritia.SpectralStep`, a `tritia.Inertia` (their
        numbers may be schedules), or None.
      layer_order: the paths of the layers, such as ("encoder", "decoder"); None takes the natural
        order of their paths.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Its `update(updates, state, params, inputs=,
      targets=, weights=None)` ignores `updates`; `weights`, (n,), are sample weights >= 0, and rows
      of weight 0 (padding) may hold anything. Its state is a `SpectralStepState` or a
      `tritia.TripleInertiaState` around a `StochasticTiamState`, or the latter alone; no array of
      it has a row per example. On a mesh with rows spread over devices, only sums over them travel;
      the Gram matrices and their inverses lie where the compiler puts them, and on every device
      under explicit axes. Kernels that are split over devices are gathered for their solves.

    Raises:
      ValueError: a number outside its range, an unknown name, exact targets with a step of a
        fixed size, a number of activations that does not fit the layers; from `init` and `update`,
        params that are not a stack of dense layers and examples that do not fit them.
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
      >>> solver = tritia.stochastic_tiam(optax.cosine_decay_schedule(0.03, 160))
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
    gram_settings = check_settings(
        damping=damping,
        decay=decay,
        refresh_period=refresh_period,
        factor_period=factor_period,
        max_gram=max_gram,
        rank=rank,
    )
    grams.check_input_gram(input_gram)
    steps.check_step(step)
    spectral = isinstance(step, SpectralStep)
    if spectral and target_step == "exact":
        raise ValueError(
            "target_step is 'exact', whose proximal weight is 1 / learning_rate, but the step of a"
            " tritia.SpectralStep has a size of its own; allowed with it: 'gradient'. Exact targets"
            " go with step=tritia.Inertia(0.9) or step=None."
        )
    displacement = block_step(
        BlockSettings(
            proximal_rate=1.0 if spectral else learning_rate,
            exact=target_step == "exact",
            rho=rho,
            activations=resolve_activations(activation, invertible=False),
            loss=resolve_loss(loss),
            grams=gram_settings,
            input_gram=input_gram,
            layer_order=layer_order,
        )
    )
    if isinstance(step, SpectralStep):
        return steps.with_spectral_step(displacement, learning_rate, step, layer_order)
    if step is None:
        return steps.alone(displacement)
    return steps.with_inertia(displacement, step)
