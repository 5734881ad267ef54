"""What is made of the block steps of `tritia.stochastic_tiam`: an update of the params."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import ScalarOrSchedule, check_number, check_static_int, value_at
from tritia._leaves import is_placeholder
from tritia._mesh import beside, vary, varying_axes, with_auto_axes
from tritia._trees import cast_like, times, zeros_like
from tritia.alternating._arguments import solver_dtype
from tritia.alternating._minibatch import layer_grams as grams
from tritia.alternating._minibatch.block_step import NAME, StochasticTiamState
from tritia.alternating._network import Network, check_dtypes, find_layers, layers_of, like_params
from tritia.inertia import Inertia, PolyakAverageState, polyak_average, triple_inertia
from tritia.layerwise import SpectralClippingState, scale_by_spectral_clipping


class SpectralStep(NamedTuple):
    """A step of a fixed size for each layer, as `tritia.spectral_momentum` makes it.

    For `tritia.stochastic_tiam(step=)`, which says what it does.

    Attributes:
      weight_decay: wd >= 0, of the kernels alone, times the learning rate; a number or a schedule.
      momentum: mu in [0, 1), a number or a schedule.
      rank: how many singular values are clipped, >= 0; static.
    """

    weight_decay: ScalarOrSchedule = 0.3
    momentum: ScalarOrSchedule = 0.9
    rank: int = 8


class SpectralStepState(NamedTuple):
    """State of `tritia.stochastic_tiam` with a `SpectralStep`.

    Attributes:
      block: of the block step, a `StochasticTiamState`.
      momentum: M, a pytree like params, in float32 at least.
      clipping: of `tritia.scale_by_spectral_clipping`, whose vectors are one for each layer.
      average: of `tritia.polyak_average`, which `tritia.eval_params` reads.
    """

    block: StochasticTiamState
    momentum: Any
    clipping: SpectralClippingState
    average: PolyakAverageState


def check_step(step: Any) -> None:
    """Checks the argument `step` of `tritia.stochastic_tiam`.

    Raises:
      TypeError: it is of another type, or one of its numbers is.
      ValueError: a number is outside its range.
    """
    if step is None:
        return
    if isinstance(step, SpectralStep):
        check_number("step: weight_decay", step.weight_decay, minimum=0)
        check_number("step: momentum", step.momentum, minimum=0, maximum=1, exclusive_maximum=True)
        check_static_int("step: rank", step.rank, minimum=0)
    elif isinstance(step, Inertia):
        for name, coefficient in step._asdict().items():
            check_number(f"step: {name}", coefficient)
    else:
        raise TypeError(
            f"step must be a tritia.SpectralStep, a tritia.Inertia or None; got {step!r}."
        )


def alone(
    displacement: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Returns the block step itself, in the dtypes of the params."""

    def update_fn(
        updates: Any, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        moves, state = displacement.update(updates, state, params, **extra)
        return cast_like(moves, params), state

    return optax.GradientTransformationExtraArgs(displacement.init, update_fn)


def with_inertia(
    displacement: optax.GradientTransformationExtraArgs, inertia: Inertia
) -> optax.GradientTransformationExtraArgs:
    """Wraps the step in its inertia, which leaves out integers: they are refused before it."""
    inertial = triple_inertia(alone(displacement), **inertia._asdict())

    def init_fn(params: optax.Params) -> optax.OptState:
        check_dtypes(params, NAME)
        return inertial.init(params)

    def update_fn(
        updates: Any, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        check_dtypes(params, NAME)
        return inertial.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def with_spectral_step(
    displacement: optax.GradientTransformationExtraArgs,
    learning_rate: ScalarOrSchedule,
    step: SpectralStep,
    layer_order: Any,
) -> optax.GradientTransformationExtraArgs:
    """Takes the displacements for directions, and makes a step of a fixed size along them."""
    clipping, average = scale_by_spectral_clipping(step.rank), polyak_average()

    def init_fn(params: optax.Params) -> SpectralStepState:
        def state(momentum: Any, matrices: Any) -> SpectralStepState:
            parts: tuple[Any, ...] = (
                displacement.init(params),
                momentum,
                clipping.init(matrices),
                average.init(params),
            )
            return SpectralStepState(*parts)

        if is_placeholder(params):
            return state(params, params)
        network, dtype = find_layers(params, layer_order, solver=NAME), solver_dtype(params)
        shapes = [
            jax.ShapeDtypeStruct((rows, columns), dtype)
            for rows, columns in zip(grams.widths(network), network.sizes[1:], strict=True)
        ]
        new = state(zeros_like(params, dtype), shapes)
        return beside(params, vary(new, varying_axes(params)))

    def update_fn(
        updates: Any, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, SpectralStepState]:
        directions, block = displacement.update(updates, state.block, params, **extra)
        assert params is not None  # or the block step would have raised
        network, count = find_layers(params, layer_order, solver=NAME), state.block.grams.count
        rate, kept, weight_decay = (
            jnp.asarray(value_at(number, count))
            for number in (learning_rate, step.momentum, step.weight_decay)
        )

        def clipped(momentum: Any, memory: Any) -> tuple[Any, Any]:
            matrices, memory = clipping.update(_joined(network, momentum), memory)
            return _apart(network, momentum, matrices), memory

        momentum = jax.tree.map(lambda m, d: times(kept, m) + d, state.momentum, directions)
        operands = momentum, state.clipping
        steps, memory = with_auto_axes(clipped, operands, *operands)
        leaves, structure = jax.tree.flatten(params)
        moves = jax.tree.leaves(steps)
        for i in network.kernel_leaves:
            moves[i] -= times(weight_decay, leaves[i].astype(moves[i].dtype))
        moves = jax.tree.unflatten(structure, [times(rate, one) for one in moves])
        moves = cast_like(moves, params)
        after: tuple[Any, ...] = (
            block,
            momentum,
            memory,
            average.update(moves, state.average, params)[1],
        )
        return moves, SpectralStepState(*after)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _joined(network: Network, tree: Any) -> list[jax.Array]:
    """Returns a matrix for each layer: its kernel, with its bias as the last row."""
    kernels, biases = layers_of(network, tree, None)
    return [
        kernel if bias is None else jnp.concatenate([kernel, bias[None]])
        for kernel, bias in zip(kernels, biases, strict=True)
    ]


def _apart(network: Network, like: Any, matrices: Any) -> Any:
    """Returns a tree like another with the kernels and biases of these matrices."""
    parts = [
        grams.split(matrix, bias is not None)
        for matrix, bias in zip(matrices, network.biases, strict=True)
    ]
    return like_params(network, like, *zip(*parts, strict=True))
