"""The full-batch solver as an Optax transform."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tritia import _mesh as on_mesh
from tritia._arguments import (
    ScalarOrSchedule,
    check_choice,
    check_number,
    check_static,
    check_static_int,
)
from tritia._leaves import is_placeholder
from tritia._mesh import beside, vary, varying_axes, with_auto_axes
from tritia._schedules import halving
from tritia.alternating import _examples as ex
from tritia.alternating._arguments import (
    activation_of_each,
    check_layer_sharding,
    check_row_sharding,
    resolve_activations,
    resolve_loss,
    solver_dtype,
)
from tritia.alternating._blocks.activations import Activation, ActivationName
from tritia.alternating._blocks.losses import Loss, LossName
from tritia.alternating._full_batch.arrangement import Arrangement, OneByOne
from tritia.alternating._full_batch.block_order import BLOCK_ORDERS, BlockOrder
from tritia.alternating._full_batch.coefficients import (
    BlockKind,
    inertias_at,
    reads_displacement,
    resolve_inertias,
)
from tritia.alternating._full_batch.layer_parallel import layer_parallel
from tritia.alternating._full_batch.penalties import layer_penalties
from tritia.alternating._full_batch.problem import Coupling, KernelStep, Method
from tritia.alternating._full_batch.restart import (
    RestartRule,
    restart as restart_from_network,
)
from tritia.alternating._full_batch.state import (
    Kept,
    TiamState,
    advance,
    initial_state,
    placeholder_state,
    resume,
)
from tritia.alternating._network import Network, find_layers
from tritia.inertia import Inertia

NAME = "tiam"

LARGEST_SYSTEM = 2048
"""Kernel step "auto" solves exactly up to this many unknowns per output; the n x n Gram matrix that
saves the gradient steps a pass over a wide input is kept up to this many rows."""


def tiam(
    num_examples: int,
    *,
    activation: ActivationName | Activation | Sequence[ActivationName | Activation] = "relu",
    loss: LossName | Loss = "softmax_cross_entropy",
    coupling: Coupling = "penalty",
    kernel_step: KernelStep = "auto",
    block_order: BlockOrder = "backward",
    rho: ScalarOrSchedule = 1e-3,
    gamma: ScalarOrSchedule = 1e-3,
    mu: ScalarOrSchedule = 0.1,
    penalty_growth: ScalarOrSchedule = 2.0,
    tau: ScalarOrSchedule = 0.0,
    eps: ScalarOrSchedule = halving(),  # noqa: B008
    inertia: Inertia | Mapping[BlockKind, Inertia] = Inertia(0.0, 0.0, 0.3),  # noqa: B008
    safeguard: bool = True,
    restart: RestartRule | None = None,
    scale_mu: bool = True,
    standardize: bool = True,
    activation_steps: int = 5,
    layer_order: Sequence[str] | None = None,
    row_sharding: jax.sharding.Sharding | None = None,
    layer_sharding: jax.sharding.NamedSharding | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""A solver with Optax's interface, which ignores gradients and is tied to its training rows.

    It trains a multilayer perceptron by alternating minimisation with triple inertia: pre-
    activations z and activations a are variables beside the kernels and biases, and an update
    minimises

    .. math::

      R(z_L, y) + \sum_l \frac{\mu_l}{2} |W_l|^2
          + \sum_l \frac{\rho_l}{2} |z_l - a_{l-1} W_l - b_l|^2
          + \sum_{l<L} \frac{\gamma_l}{2} |a_l - h(z_l)|^2

    over one block of variables at a time. `tritia.alternating` says how, when to use it, and how
    to choose its settings.

    Args:
      num_examples: n, the rows of inputs and targets, the same ones at every update; static.
      activation: a name, an `Activation`, or a sequence of them with one for each hidden layer.
        Names: relu, leaky_relu, relu6, hard_tanh, identity, elu, selu, softplus, tanh, sigmoid, and
        under "penalty" gelu (by tanh), gelu_exact and silu.
        `tritia.alternating.leaky_relu(slope)` and
        `tritia.alternating.monotone_activation(value, inverse)` make others.
      loss: "softmax_cross_entropy" (targets: integer labels (n,) or probabilities (n, k)),
        "sigmoid_cross_entropy" or "squared_error" (half the square; targets (n, k), or (n,) for
        k = 1), or what `tritia.alternating.smooth_loss(value, gradient)` returns. Summed over rows.
      coupling: "penalty" or "inequality".
      kernel_step: "exact" solves each layer's ridge regression; "line_search" takes the best step
        along the gradient; "backtracking" doubles a step size until the step decreases the
        objective enough, as published; "auto" is "exact" up to systems of 2048 unknowns, and
        "line_search" above.
      block_order: "backward" (z_L, W_L and b_L, a_{L-1}, z_{L-1}, ...), "forward" (W_1 and b_1,
        z_1, a_1, ..., as published), "symmetric" (backward, then forward), "red_black" (every
        second layer backward, then the others), or "pipeline" (z_L, a_{L-1}, z_{L-1}, ..., z_1,
        then all W and b). "red_black" learns as "backward" does. "pipeline" starts slower with 3
        layers, learns faster with 12 and 24 of digits and MNIST, and does not with 24 of Cora.
      rho: the penalty of the last layer's fit, > 0; a number or a schedule, as all that follow.
      gamma: the penalty of |a - h(z)|^2 at the output end, > 0; coupling "penalty".
      mu: the weight decay, >= 0, relative unless `scale_mu` is False.
      penalty_growth: q, the ratio of the penalties of a layer and of the one before it, from 0.1
        to 10; 1 gives every layer the same penalties.
      tau: the proximal penalty of the exact kernel step, (tau/2) |W - c|^2, >= 0.
      eps: the width of the constraint, >= 0; coupling "inequality". The default starts at 100 and
        is halved at every update down to 1e-3.
      inertia: an `Inertia` for all blocks, or a dict of them with any of the keys "kernels",
        "biases", "pre_activations" (hidden ones), "activations", "outputs"; without a key there is
        none. Its numbers may be schedules. Coefficients that a block does not read are ignored, so
        that one `Inertia` serves all blocks; but a p_1 or p_2 of the kernels other than the number
        0 takes memory and time even where it is not read.
      safeguard: whether an accelerated block that raises the objective is replaced by the plain
        one, and by the old one where even that raises it. With constant numbers the objective then
        never rises beyond rounding; under restart "always" an update starts from the network, and
        ends at most at its loss plus its weight decay. Rows (elements, in hidden pre-activations)
        are judged one by one; static.
      restart: None, or which rows of z and a start every update from a forward pass, with the
        output from the prox of the loss around the network's outputs: "guarded", those whose part
        of the objective does not rise by it; or "always", all of them. The diagnostics then report
        the network's own loss; static.
      scale_mu: whether the weight decay is relative; static.
      standardize: whether the first layer's block problem, its weight decay included, is one of
        standardised inputs, measured at the first update; static. Params are of the inputs as they
        are: the mean and the scale are folded into the first kernel and bias. From params of the
        same function, columns of any scale and offset then give the same function, to the rounding
        of the inputs and of the params; `tritia.params_for_inputs` makes such initial params, which
        are what matters most. Each column is divided by its standard deviation, or by a third of
        its largest deviation where that is more. With fewer rows than columns the scale is left as
        it is: 0.82 would become 0.80 on Cora, and 0.63 with a scale for each column. Without a bias
        in the first layer, deviations are those from 0.
      activation_steps: projected gradient steps of an activation block; coupling "inequality";
        static.
      layer_order: the paths of the layers, such as ("encoder", "decoder"); None takes the natural
        order of their paths.
      row_sharding: the `jax.sharding.Sharding` of arrays (n, width) whose rows are spread over
        devices in equal parts, such as `NamedSharding(mesh, PartitionSpec("data"))`; z and a are
        placed by it and no n x n system is formed. It lies on the devices of the inputs, targets
        and params. None leaves where z and a are to the compiler, or, where params lie on a mesh
        with explicit axes, puts all of them on every device. Kernels that are split over devices
        are gathered for their solves; params and what is shaped like them stay split between
        updates.
      layer_sharding: None, or a `jax.sharding.NamedSharding` that names the axis of a mesh over
        which layers are spread, such as `NamedSharding(mesh, PartitionSpec("layers"))`. Params are
        then a first layer, equal layers stacked in one kernel (layers, width, width) and one bias
        (layers, width), an even number of them for each device, and a last layer. Under block_order
        "red_black" every device updates its own layers, half of them at a time, and only arrays
        (n, width) at the ends of its share go to the neighbouring devices. It goes with one
        activation for all layers, without restarts, and with all rows on every device. On a mesh of
        one device it compiles deep networks sooner.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Its `update(updates, state, params, inputs=,
      targets=, weights=None)` ignores `updates`; `weights`, (n,), are sample weights >= 0, and rows
      of weight 0 (padding) may hold anything. Its state is a `TiamState`;
      `tritia.tiam_diagnostics(state)` returns the objective and more.

    Raises:
      ValueError: a number outside its range, an unknown name, a number of activations that does not
        fit the layers; from `init` and `update`, params that are not a stack of dense layers, and
        examples that do not fit them or hold NaN (looked for at the first update outside of jit).
      TypeError: an argument of the wrong type, or a static one that is traced.

    References:
      Yan et al., `A Triple-Inertial Accelerated Alternating Optimization Method for Deep Learning
      Training <https://arxiv.org/abs/2503.08489>`_, 2025

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
      >>> bool(tritia.tiam_diagnostics(state).finite)
      True
    """
    check_static(
        num_examples=num_examples,
        safeguard=safeguard,
        restart=restart,
        scale_mu=scale_mu,
        standardize=standardize,
        activation_steps=activation_steps,
    )
    n = check_static_int("num_examples", num_examples, minimum=1)
    check_choice("coupling", coupling, get_args(Coupling))
    check_choice("kernel_step", kernel_step, get_args(KernelStep))
    check_choice("block_order", block_order, BLOCK_ORDERS)
    if restart is not None:
        check_choice("restart", restart, get_args(RestartRule))
    for name, value in (("rho", rho), ("gamma", gamma)):
        check_number(name, value, minimum=0, exclusive_minimum=True)
    check_number("penalty_growth", penalty_growth, minimum=0.1, maximum=10)
    for name, value in (("mu", mu), ("tau", tau), ("eps", eps)):
        check_number(name, value, minimum=0)
    for name, value in (
        ("safeguard", safeguard),
        ("scale_mu", scale_mu),
        ("standardize", standardize),
    ):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False; got {value!r}.")
    steps = check_static_int("activation_steps", activation_steps, minimum=1)
    check_row_sharding(row_sharding, n)
    check_layer_sharding(layer_sharding, row_sharding, block_order, restart)
    the_loss = resolve_loss(loss)
    hidden = resolve_activations(activation, invertible=coupling == "inequality")
    inertias = resolve_inertias(inertia)
    kept = Kept(
        displacement=reads_displacement(inertias.kernels),
        activation_displacements=(
            coupling == "inequality" and reads_displacement(inertias.activations)
        ),
        tau=kernel_step == "backtracking",
        standard=standardize,
    )

    def method_for(network: Network) -> Method:
        inputs = network.sizes[:-1]
        by_rows = tuple(n < width and row_sharding is None for width in inputs)
        systems = tuple(n if flag else width for flag, width in zip(by_rows, inputs, strict=True))
        kinds: tuple[KernelStep, ...] = tuple(
            kernel_step
            if kernel_step != "auto"
            else ("exact" if size <= LARGEST_SYSTEM else "line_search")
            for size in systems
        )
        return Method(
            activation_of_each(hidden, network),
            the_loss,
            coupling=coupling,
            kernel_steps=kinds,
            by_rows=by_rows,
            block_order=block_order,
            safeguard=safeguard,
            activation_steps=steps,
            restart=restart,
        )

    def place(x: jax.Array) -> jax.Array:
        return x if row_sharding is None else on_mesh.place(x, row_sharding)

    def arrangement_of(network: Network) -> Arrangement:
        if layer_sharding is None:
            return OneByOne(network, place)
        return layer_parallel(network, layer_sharding, activation_of_each(hidden, network))

    def init_fn(params: optax.Params) -> TiamState:
        if is_placeholder(params):
            return placeholder_state(params, kept)
        network = find_layers(params, layer_order, solver=NAME)
        method = method_for(network)
        # A gradient step saves a pass over a wide input by the Gram matrix; a tall one has nothing
        # to save.
        wide = method.by_rows[0] and n <= LARGEST_SYSTEM
        state = initial_state(
            method,
            arrangement_of(network),
            params,
            kept,
            sizes=network.sizes,
            num_examples=n,
            keeps_spectrum=method.kernel_steps[0] == "exact" or wide,
            dtype=solver_dtype(params),
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
    ) -> tuple[optax.Updates, TiamState]:
        del updates, extra
        network, examples = ex.receive(
            NAME,
            params,
            inputs,
            targets,
            weights,
            layer_order=layer_order,
            num_examples=n,
            loss=the_loss,
        )
        # By NumPy: a comparison inside of a trace is traced, whatever is compared.
        if ex.can_be_read(state.count, inputs, targets, weights) and np.asarray(state.count) == 0:
            ex.check_values(inputs, targets, weights, the_loss, network.sizes[-1])
        axes = varying_axes((params, state))
        shards = varying_axes(examples) - axes
        if shards:
            raise ValueError(
                f"inputs, targets or weights vary over the axes {sorted(shards)} of jax.shard_map,"
                f" and params do not: {NAME} needs all rows at once. Use jax.jit with"
                " row_sharding=, or tritia.stochastic_tiam."
            )
        result = with_auto_axes(
            functools.partial(step, network),
            (params, state),
            *vary((params, state, examples), axes),
        )
        return vary(result, axes)

    def step(
        network: Network, params: optax.Params, state: TiamState, examples: ex.Examples
    ) -> tuple[optax.Updates, TiamState]:
        method, arrangement = method_for(network), arrangement_of(network)
        numbers = layer_penalties(
            network.sizes,
            examples.inputs.dtype,
            state.count,
            rho=rho,
            gamma=gamma,
            mu=mu,
            growth=penalty_growth,
            tau=tau,
            eps=eps,
            scale_mu=scale_mu,
        )
        start = resume(method, arrangement, params, kept, state, examples)
        restarted = None
        if restart is not None:
            restarted = restart_from_network(
                method, numbers, start.variables, start.fits, start.examples
            )
            start = start._replace(variables=restarted.variables, fits=restarted.fits)
        result = arrangement.update(method, numbers, inertias_at(inertias, state.count), start)
        moved, next_state = advance(arrangement, params, kept, state, start, result, restarted)
        updates = jax.tree.map(
            lambda step, leaf: jnp.array(step, jnp.result_type(leaf), copy=kept.displacement),
            moved,
            params,
        )
        return updates, next_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
