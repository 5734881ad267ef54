"""The solver as an Optax transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import (
    ScalarOrSchedule,
    check_choice,
    check_number,
    check_static_int,
    static_message,
)
from tritia.alternating import _examples as ex
from tritia.alternating._arguments import (
    activation_of_each,
    check_row_sharding,
    inertias_at,
    is_placeholder,
    resolve_activations,
    resolve_inertias,
    resolve_loss,
    solver_dtype,
)
from tritia.alternating._blocks.activations import Activation
from tritia.alternating._blocks.losses import Loss
from tritia.alternating._blocks.rows import Spectrum
from tritia.alternating._full_batch import problem
from tritia.alternating._full_batch.block_pass import sweep as sweep_once
from tritia.alternating._full_batch.diagnostics import diagnose, no_diagnostics
from tritia.alternating._full_batch.penalties import halving, layer_penalties
from tritia.alternating._full_batch.problem import History, Method
from tritia.alternating._full_batch.state import TiamState, placeholder_state, resume
from tritia.alternating._network import Network, find_layers, layers_of, like_params
from tritia.inertia import Inertia

COUPLINGS = ("penalty", "inequality")
WEIGHT_STEPS = ("auto", "exact", "line_search", "backtracking")
SWEEPS = ("backward", "forward", "symmetric")

LARGEST_SYSTEM = 2048
"""Weight step "auto" solves exactly up to this many unknowns per output; the n x n product that
spares the gradient steps a pass over a wide input is kept up to this many rows."""

_FIRST_TAU = 1.0
_SMALLEST_TAU = 1e-10


def tiam(
    num_examples: int,
    *,
    activation: str | Activation | Sequence[str | Activation] = "relu",
    loss: str | Loss = "softmax_cross_entropy",
    coupling: str = "penalty",
    weight_step: str = "auto",
    sweep: str = "backward",
    rho: ScalarOrSchedule = 1e-3,
    gamma: ScalarOrSchedule = 1e-3,
    mu: ScalarOrSchedule = 0.1,
    penalty_growth: ScalarOrSchedule = 2.0,
    tau: ScalarOrSchedule = 0.0,
    eps: ScalarOrSchedule = halving(),  # noqa: B008
    inertia: Inertia | Mapping[str, Inertia] = Inertia(0.0, 0.0, 0.3),  # noqa: B008
    safeguard: bool = True,
    scale_mu: bool = True,
    activation_steps: int = 5,
    layer_order: Sequence[str] | None = None,
    row_sharding: jax.sharding.Sharding | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Trains a multilayer perceptron by layer-wise triple-inertial alternating minimisation.

    No gradient goes through the network and there is no learning rate. With pre-activations z and
    activations a as variables of their own, on all `num_examples` rows at once, the problem

    .. math::

      \min \; R(z_L, y) + \sum_l \frac{\mu_l}{2} |W_l|^2
          + \sum_l \frac{\rho_l}{2} |z_l - a_{l-1} W_l - b_l|^2
          + \sum_{l<L} \frac{\gamma_l}{2} |a_l - h(z_l)|^2

    falls into small blocks, each of which has a closed form or a sure iteration. An update visits
    them all. With coupling "inequality" the last sum is replaced by the constraint
    :math:`|a_l - h(z_l)| \le \epsilon`. For a block u with the last displacement
    :math:`d = u - u_{prev}`, triple inertia is

    .. math::

      c = u + p_1 d, \quad e = u + p_2 d, \quad v = step(c, e), \quad u_{next} = v + p_3 (v - u)

    where c is where the block's step starts (its proximal centre), e is where its gradient is
    taken, and the result is projected again where the block is constrained. A block that is solved
    exactly has no e, and a c only through its proximal term `tau`; the correction p_3 always acts,
    and it is what the defaults use.

    **When to use it.** When the examples fit in memory and are few and wide, and there is no time
    to tune a learning rate: it takes 5 to 50 updates. Where examples are many it loses to
    mini-batches of Adam by far. Coupling "inequality" freezes the hidden layers once eps is small,
    and is there for what is published about it.

    **Penalties.** Only ratios of penalties matter much. From the output down, rho and gamma fall by
    `penalty_growth` a layer, :math:`\rho_l = \rho \, q^{l-L}`,
    :math:`\gamma_l = \gamma \, q^{l-L+1/2}`: a block gives way more to the side of the output than
    to that of the input, or the targets would fade on their way down, and networks of 6 or more
    layers would not learn. The weight decay is relative, :math:`\mu_l = \mu \, \rho_l \, d_{l-1}`,
    because a fixed one that suits a wide input makes narrow hidden layers collapse to zero
    (`scale_mu=False` takes :math:`\mu_l = \mu`).

    **In a loop.** Pass the data as arguments of the jitted function (data closed over is folded
    into the compilation, slowly), the same data and weights in the same order at every update. The
    first update
    starts z and a from a forward pass and takes the eigendecomposition of the first layer's Gram
    matrix, of the size min(num_examples, inputs). `optax.chain(tritia.tiam(...),
    optax.scale(0.9))` damps it; put it first in a chain, where `updates` may be None. Under
    `optax.inject_hyperparams` name num_examples, activation_steps, safeguard and scale_mu in
    static_args.

    Args:
      num_examples: n, the rows of inputs and targets; static.
      activation: a name, an `Activation`, or a sequence of them with one for each hidden layer.
        Names: relu, leaky_relu, relu6, hard_tanh, identity, elu, selu, softplus, tanh, sigmoid, and
        under "penalty" gelu (by tanh), gelu_exact and silu.
        `tritia.alternating.leaky_relu(slope)` and
        `tritia.alternating.monotone_activation(value, inverse)` make others.
      loss: "softmax_cross_entropy" (targets: integer labels (n,) or probabilities (n, k)),
        "sigmoid_cross_entropy" or "squared_error" (half the square; targets (n, k), or (n,) for
        k = 1), or what `tritia.alternating.smooth_loss(value, gradient)` returns. Summed over rows.
      coupling: "penalty" or "inequality".
      weight_step: "exact" solves each layer's ridge regression; "line_search" takes the best step
        along the gradient; "backtracking" doubles a step size until it is safe (the papers');
        "auto" is "exact" up to systems of 2048 unknowns, and "line_search" above.
      sweep: "backward" (z_L, W_L and b_L, a_{L-1}, z_{L-1}, ...), "forward" (W_1 and b_1, z_1, a_1,
        ...: the papers'), or "symmetric" (backward, then forward).
      rho: the penalty of the last layer's fit, > 0; a number or a schedule, as all that follow.
      gamma: the penalty of |a - h(z)|^2 at the output end, > 0; coupling "penalty".
      mu: the weight decay, >= 0, relative unless `scale_mu` is False.
      penalty_growth: q above, > 0; 1 gives every layer the same penalties.
      tau: the proximal penalty of the exact weight step, (tau/2) |W - c|^2, >= 0.
      eps: the width of the constraint, >= 0; coupling "inequality". The default starts at 100 and
        is halved at every update down to 1e-3.
      inertia: an `Inertia` for all blocks, or a dict of them with any of the keys "weights",
        "biases", "pre_activations" (hidden ones), "activations", "outputs"; without a key there is
        none. Its numbers may be schedules. Every block reads p_3. Those that read p_1 and p_2 too
        are the weights under "line_search" and "backtracking", and the activations under
        "inequality". Exact weights read p_1 where tau > 0, never p_2. Coefficients that a block
        does not read are ignored, so that one `Inertia` serves all blocks; a p_1 or p_2 of the
        weights other than the number 0 takes memory all the same, and time.
      safeguard: whether an accelerated block that raises the objective is replaced by the plain
        one, and by the old one where even that raises it. With constant numbers the objective then
        never rises beyond rounding. Rows (elements, in hidden pre-activations) are judged one by
        one.
      scale_mu: whether the weight decay is relative; static.
      activation_steps: projected gradient steps of an activation block; coupling "inequality".
      layer_order: the paths of the layers, such as ("encoder", "decoder"); None takes the natural
        order of their paths.
      row_sharding: the `jax.sharding.Sharding` of arrays (n, width) whose rows are spread over
        devices, on a mesh with `jax.sharding.AxisType.Auto` axes; z and a are placed by it and no
        n x n system is formed. None leaves where z and a are to the compiler.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Its `update(updates, state, params, inputs=,
      targets=, weights=None)` ignores `updates`; `weights`, (n,), are sample weights >= 0, and rows
      of weight 0 (padding) may hold anything. Its state is a `TiamState`;
      `tritia.diagnostics(state)` returns the objective and more.

    Raises:
      ValueError: a number outside its range, an unknown name, a number of activations that does not
        fit the layers; from `init` and `update`, params that are no stack of dense layers, and
        examples that do not fit them or hold NaN (looked for at the first update outside of jit).
      TypeError: an argument of the wrong type, or a static one that is traced.

    References:
      Yan et al., `A Triple-Inertial Accelerated Alternating Optimization Method for Deep Learning
      Training <https://arxiv.org/abs/2503.08489>`_, 2025

      Wang et al., `Accelerated Gradient-free Neural Network Training by Multi-convex Alternating
      Optimization <https://arxiv.org/abs/1811.04187>`_ (mDLAM), 2018

      Zeng et al., `Global Convergence of Block Coordinate Descent in Deep Learning
      <https://arxiv.org/abs/1803.00225>`_, 2019

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> x = jax.random.normal(keys[0], (60, 4))
      >>> y = (x[:, 0] * x[:, 1] > 0).astype(int)
      >>> params = [
      ...   {"kernel": jax.random.normal(keys[1], (4, 20)), "bias": jnp.zeros(20)},
      ...   {"kernel": jax.random.normal(keys[2], (20, 2)), "bias": jnp.zeros(2)}]
      >>> solver = tritia.tiam(num_examples=60)
      >>> state = solver.init(params)
      >>> @jax.jit
      ... def step(params, state, x, y):
      ...   updates, state = solver.update(None, state, params, inputs=x, targets=y)
      ...   return optax.apply_updates(params, updates), state
      >>> for _ in range(20):
      ...   params, state = step(params, state, x, y)
      >>> hidden = jax.nn.relu(x @ params[0]["kernel"] + params[0]["bias"])
      >>> outputs = hidden @ params[1]["kernel"] + params[1]["bias"]
      >>> bool(jnp.mean(outputs.argmax(axis=1) == y) > 0.9)
      True
      >>> bool(tritia.diagnostics(state).finite)
      True
    """
    n = check_static_int("num_examples", num_examples, minimum=1)
    check_choice("coupling", coupling, COUPLINGS)
    check_choice("weight_step", weight_step, WEIGHT_STEPS)
    check_choice("sweep", sweep, SWEEPS)
    for name, value in (("rho", rho), ("gamma", gamma), ("penalty_growth", penalty_growth)):
        check_number(name, value, minimum=0, exclusive_minimum=True)
    for name, value in (("mu", mu), ("tau", tau), ("eps", eps)):
        check_number(name, value, minimum=0)
    for name, value in (("safeguard", safeguard), ("scale_mu", scale_mu)):
        if isinstance(value, jax.Array):
            raise TypeError(static_message(name, value))
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False; got {value!r}.")
    steps = check_static_int("activation_steps", activation_steps, minimum=1)
    check_row_sharding(row_sharding)
    the_loss = resolve_loss(loss)
    hidden = resolve_activations(activation, invertible=coupling == "inequality")
    inertias = resolve_inertias(inertia)
    keeps_kernels = problem.needs_history(inertias.weights)
    keeps_activations = coupling == "inequality" and problem.needs_history(inertias.activations)

    def method_for(network: Network) -> Method:
        inputs = network.sizes[:-1]
        by_rows = tuple(n < width and row_sharding is None for width in inputs)
        systems = tuple(n if flag else width for flag, width in zip(by_rows, inputs, strict=True))
        kinds = tuple(
            weight_step
            if weight_step != "auto"
            else ("exact" if size <= LARGEST_SYSTEM else "line_search")
            for size in systems
        )
        activations = activation_of_each(hidden, network)
        return Method(
            activations,
            the_loss,
            coupling=coupling,
            weight_steps=kinds,
            by_rows=by_rows,
            sweep=sweep,
            safeguard=safeguard,
            activation_steps=steps,
        )

    def keeps_spectrum(method: Method) -> bool:
        # A gradient step saves a pass over a wide input by it; a tall one has nothing to save.
        small = n <= LARGEST_SYSTEM
        return method.weight_steps[0] == "exact" or (method.by_rows[0] and small)

    def shard(x: jax.Array) -> jax.Array:
        return x if row_sharding is None else jax.lax.with_sharding_constraint(x, row_sharding)

    def init_fn(params: optax.Params) -> TiamState:
        if is_placeholder(params):
            return placeholder_state(params, keeps_kernels)
        network = find_layers(params, layer_order)
        method = method_for(network)
        sizes, depth = network.sizes, len(network.names)
        dtype = solver_dtype(params)

        def zeros(widths):
            return tuple(shard(jnp.zeros((n, width), dtype)) for width in widths)

        spectral: Any = ()
        if keeps_spectrum(method):
            size = n if method.by_rows[0] else sizes[0]
            spectral = Spectrum(
                jnp.zeros(size, dtype), jnp.zeros((size, size), dtype), jnp.zeros(sizes[0], dtype)
            )
        return TiamState(
            count=jnp.zeros((), jnp.int32),
            pre_activations=zeros(sizes[1:]),
            activations=zeros(sizes[1:-1]),
            fits=zeros(sizes[1:]),
            fitted=optax.tree.zeros_like(params, dtype=dtype),
            displacement=optax.tree.zeros_like(params, dtype=dtype) if keeps_kernels else (),
            activation_displacements=zeros(sizes[1:-1]) if keeps_activations else (),
            tau=jnp.full(depth, _FIRST_TAU, dtype) if weight_step == "backtracking" else (),
            spectrum=spectral,
            fingerprint=jnp.zeros(ex.fingerprint_size(n, sizes[0]), dtype),
            diagnostics=no_diagnostics(depth, dtype),
        )

    def update_fn(
        updates: Any,
        state: Any,
        params: optax.Params | None = None,
        *,
        inputs: Any = None,
        targets: Any = None,
        weights: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, TiamState]:
        del updates, extra
        network, examples = ex.receive(
            "tiam",
            params,
            inputs,
            targets,
            weights,
            layer_order=layer_order,
            num_examples=n,
            loss=the_loss,
        )
        method = method_for(network)
        dtype = examples.inputs.dtype
        first = state.count == 0
        if ex.is_concrete(first, inputs, targets, weights) and bool(first):
            ex.check_values(inputs, targets, weights, the_loss, network.sizes[-1])

        start = resume(method, network, state, params, examples)
        numbers = layer_penalties(
            network.sizes,
            dtype,
            state.count,
            rho=rho,
            gamma=gamma,
            mu=mu,
            growth=penalty_growth,
            tau=tau,
            eps=eps,
            scale_mu=scale_mu,
        )
        history = History(
            layers_of(network, state.displacement, dtype)[0] if keeps_kernels else (),
            state.activation_displacements,
            jnp.maximum(state.tau, 2 * _SMALLEST_TAU) if len(state.tau) else (),
        )
        result = sweep_once(
            method,
            numbers,
            inertias_at(inertias, state.count),
            start.variables,
            history,
            start.data,
            start.fits,
        )
        new = result.variables
        moved = result.moved
        moved_biases = tuple(
            None if x is None or y is None else x - y
            for x, y in zip(new.biases, start.variables.biases, strict=True)
        )
        displacement = like_params(network, params, moved, moved_biases)
        next_state = TiamState(
            count=cast(jax.Array, optax.safe_increment(state.count)),
            pre_activations=tuple(shard(z) for z in new.pre_activations),
            activations=tuple(shard(a) for a in new.activations),
            fits=tuple(shard(fit) for fit in result.fits),
            fitted=like_params(network, params, new.kernels, new.biases),
            displacement=displacement if keeps_kernels else (),
            activation_displacements=result.history.activations,
            tau=result.history.tau,
            spectrum=() if start.data.spectrum is None else start.data.spectrum,
            fingerprint=start.fingerprint,
            diagnostics=diagnose(method, result, moved, examples, start.inputs_changed),
        )
        updates = jax.tree.map(
            lambda step, leaf: jnp.array(step, jnp.result_type(leaf), copy=keeps_kernels),
            displacement,
            params,
        )
        return updates, next_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
