"""The transform behind the linear multistep optimizers: its state, and what a step does with it.

Of a scheme it uses the lengths of the ring buffers alone; `step_coefficients.py` says what the
coefficients of a step are.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia._in_place import computed_before, conditional
from tritia._leaves import check_gradients, passed_through, trained
from tritia._mesh import beside
from tritia._trees import compute_dtype, constant_like, is_none
from tritia.gradient_flow._multistep import ring_buffer
from tritia.gradient_flow._multistep.scheme import LinearMultistep
from tritia.gradient_flow._multistep.step_coefficients import StepCoefficients


class LinearMultistepState(NamedTuple):
    """State of the linear multistep optimizers.

    Attributes:
      count: steps taken, int32 of shape (); stays at its maximum once there.
      position: steps taken modulo the lengths of the ring buffers, int32 of shape ().
      step_sizes: the last step sizes, newest first, 0 where there is none yet: float32 (float64 for
        float64 params) of shape (steps - 1,). None for gradient descent and in the `scale_by_`
        form, which need none (and checkpoints take no empty arrays).
      displacements: the last steps taken, a ring buffer: a tuple of trees shaped like the params.
      directions: the last incoming updates, a ring buffer: a tuple of trees shaped like the params.
    """

    count: jax.Array
    position: jax.Array
    step_sizes: jax.Array | None
    displacements: ring_buffer.RingBuffer
    directions: ring_buffer.RingBuffer


def multistep_transform(
    scheme: LinearMultistep,
    read_step_size: Callable[[jax.Array], jax.typing.ArrayLike],
    coefficients: Callable[[LinearMultistep, jax.Array, Any, jax.Array], StepCoefficients],
    accumulator_dtype: Any,
    *,
    stored_sizes: int,
    sign: int,
) -> optax.GradientTransformationExtraArgs:
    """The transform behind all names; `sign` is -1 where the incoming updates are gradients.

    `coefficients` makes those of a step from the scheme, the count, the past step sizes and the
    size of the step, which is 1 in the `scale_by_` form.
    """
    past_steps, past_directions = scheme.history_lengths
    period = math.lcm(max(past_steps, 1), max(past_directions, 1))

    def init_fn(params: optax.Params) -> Any:
        params = trained(params)
        return beside(
            params,
            LinearMultistepState(
                count=jnp.zeros((), jnp.int32),
                position=jnp.zeros((), jnp.int32),
                step_sizes=jnp.zeros(stored_sizes, _scalar_dtype(params)) if stored_sizes else None,
                displacements=ring_buffer.empty(params, past_steps, accumulator_dtype),
                directions=ring_buffer.empty(params, past_directions, accumulator_dtype),
            ),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra_args
        given = updates
        updates, params = check_gradients(updates, params)
        like = updates if params is None else params
        dtype = _scalar_dtype(like)
        size = read_step_size(state.count)
        step_size = jnp.asarray(size).astype(dtype)

        def by_slot() -> tuple[jax.Array, ...]:
            weights, gains = coefficients(scheme, state.count, state.step_sizes, step_size)
            # A gain above 1 makes the largest numbers infinite, and infinity times 0 is NaN.
            largest = jnp.finfo(dtype).max
            gains = jnp.clip(sign * step_size * gains, -largest, largest)
            past = ring_buffer.by_slot(gains[1:], state.position)
            return gains[0], *-ring_buffer.by_slot(weights, state.position), *past

        if isinstance(size, numbers.Real):
            factors = by_slot()  # looked up in a table, but for schedules that are constant
        else:
            # XLA would fuse scalar arithmetic into the loop over every leaf of the params, and
            # compile it as often; within a conditional it does not. The condition always holds,
            # which XLA does not know.
            terms = 1 + past_steps + past_directions
            sizes = step_size if state.step_sizes is None else step_size + state.step_sizes.sum()
            nothing = (constant_like(0, sizes, dtype),) * terms
            factors = conditional(state.count >= 0, by_slot, lambda: nothing)

        def displacement(steps: ring_buffer.RingBuffer) -> Any:
            def leaf(direction: Any, target: Any, *past: Any) -> Any:
                if direction is None:
                    return None
                # Half-precision leaves are combined in float32: the memory traffic is the same.
                wide = compute_dtype(direction)
                real = jnp.finfo(wide).dtype
                total = factors[0].astype(real) * direction
                for factor, term in zip(factors[1:], past, strict=True):
                    total = total + factor.astype(real) * term
                return total.astype(target)

            past = (*steps, *state.directions)
            return jax.tree.map(leaf, updates, dtypes, *past, is_leaf=is_none)

        dtypes = jax.tree.map(_step_dtype, updates, like, *state.displacements[:1], is_leaf=is_none)
        in_place = past_steps == 2 or (past_steps == 1 and past_directions > 0)
        if in_place and dtypes == jax.tree.map(jnp.result_type, state.displacements[0]):
            displacements, read = ring_buffer.write_computed(
                state.displacements, state.position, displacement
            )
            step = ring_buffer.newest(displacements, state.position)
        else:
            compute, read = functools.partial(displacement, state.displacements), True
            if past_directions > 1:
                placeholder = jax.tree.map(
                    lambda direction, dtype: (
                        None if direction is None else jnp.asarray(direction).astype(dtype)
                    ),
                    updates,
                    dtypes,
                    is_leaf=is_none,
                )
                step, read = computed_before(state.position, compute, placeholder)
            else:
                step = compute()
            displacements = ring_buffer.write(state.displacements, state.position, step)
        new = jax.tree.map(
            lambda direction, step, leaf: (
                None if direction is None else step.astype(jnp.result_type(leaf))
            ),
            updates,
            step,
            like,
            is_leaf=is_none,
        )
        step_sizes = state.step_sizes
        if step_sizes is not None:
            newest = step_size.astype(step_sizes.dtype)[None]
            step_sizes = jnp.concatenate([newest, step_sizes])[:stored_sizes]
        return passed_through(new, given), LinearMultistepState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            position=(state.position + 1) % period,
            step_sizes=step_sizes,
            displacements=displacements,
            directions=ring_buffer.write(state.directions, state.position, updates, read),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _step_dtype(direction: Any, param: Any, kept: Any = None) -> Any:
    """The dtype that a leaf's displacement is rounded to before it is stored and returned.

    That of what is returned; where the memory has more digits, that of the memory.
    """
    if direction is None:
        return None
    returned = jnp.result_type(param)
    if kept is None or kept.dtype == returned:
        return returned
    wide = jnp.promote_types(jnp.result_type(direction, jnp.float32), returned)
    return kept.dtype if jnp.promote_types(kept.dtype, wide) == kept.dtype else wide


def _scalar_dtype(params: optax.Params) -> Any:
    """The dtype for step sizes and coefficients: float32, or float64 where a leaf has it."""
    dtype = jnp.dtype(jnp.float32)
    for leaf in jax.tree.leaves(params):
        leaf_dtype = jnp.result_type(leaf)
        if jnp.issubdtype(leaf_dtype, jnp.inexact):
            dtype = jnp.promote_types(dtype, jnp.finfo(leaf_dtype).dtype)
    return dtype
