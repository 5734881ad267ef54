"""Damped Newton on many small problems at once.

A block problem of alternating minimisation often consists of many independent problems: one per row
(the output block) or one per element (a hidden pre-activation). Each has its own step length here:
a step that raises its own objective is refused and shortened, whatever the others do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tritia._derivatives import hoisted

Evaluate = Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]


def damped_newton(
    evaluate: Evaluate,
    start: jax.Array,
    *,
    iterations: int,
    tolerance: float,
    scale: float = 0.0,
) -> jax.Array:
    r"""Minimises many objectives, each by :math:`z \leftarrow z - t \, d` with its own :math:`t`.

    A step is taken where it does not raise the objective beyond rounding, and :math:`t` goes back
    up to 1; elsewhere the point stays and :math:`t` is divided by 4.

    Args:
      evaluate: maps the points, shape (..., k), to three arrays: the objectives, shape (..., 1) or
        (..., k); the Newton directions d, shape (..., k); and the gradients' sizes, shaped like the
        objectives. Objectives of shape (..., k) are separate problems for each element.
      start: the points to start from.
      iterations: an upper bound on the evaluations after the first.
      tolerance: a problem is finished where the size of its gradient is at most this.
      scale: the size of the terms that an objective adds up; their rounding is not taken for a
        rise of the objective where the gradient shrinks.

    Returns:
      Points shaped like `start`, whose objectives are at most those of `start`, up to rounding.
    """
    value, direction, size = evaluate(start)
    rounding = 4 * jnp.finfo(start.dtype).eps
    smallest_step = 1e-4  # a step refused this often is lost in rounding

    def active(size, step):
        return (size > tolerance) & (step > smallest_step)

    def unfinished(carry):
        count, _, _, _, size, step = carry
        return (count < iterations) & jnp.any(active(size, step))

    def iterate(carry):
        count, point, value, direction, size, step = carry
        trial = point - jnp.where(active(size, step), step, 0) * direction
        trial_value, trial_direction, trial_size = evaluate(trial)
        # Where rounding hides the objective's change, the gradient decides. False for NaN.
        slack = rounding * (jnp.abs(value) + scale)
        descends = (trial_value < value - slack) | (
            (trial_value <= value + slack) & (trial_size <= size)
        )
        return (
            count + 1,
            jnp.where(descends, trial, point),
            jnp.where(descends, trial_value, value),
            jnp.where(descends, trial_direction, direction),
            jnp.where(descends, trial_size, size),
            jnp.where(descends, jnp.minimum(4 * step, 1), step / 4),
        )

    carry = (jnp.zeros((), jnp.int32), start, value, direction, size, jnp.ones_like(value))
    return jax.lax.while_loop(unfinished, iterate, carry)[1]


def with_derivative(
    minimiser: jax.Array,
    gradient: Callable[..., jax.Array],
    solve: Callable[..., jax.Array],
    *operands: Any,
) -> jax.Array:
    r"""Gives a minimiser that was found by iteration the derivative of the exact one.

    Where the objective's gradient :math:`g(z, \theta)` is 0, with the Hessian H,
    :math:`dz = -H^{-1} \, \partial_\theta g \, d\theta`, in forward and in reverse mode. The
    iteration itself has no reverse mode.

    Args:
      minimiser: z, (..., k), without a derivative, as `jax.lax.stop_gradient` makes it.
      gradient: (z, *operands) to the objective's gradient by z, (..., k).
      solve: (z, v, times, *operands) to :math:`H^{-1} v`, (..., k), linear in v; `times` maps u,
        (..., k), to H u. Must not close over traced values.
      *operands: theta, arrays.
    """
    # A user's loss may close over traced values: they are operands too.
    gradient, constants = hoisted(gradient, minimiser, *operands)

    @jax.custom_jvp
    def attach(z: jax.Array, constants: Any, *theta: Any) -> jax.Array:
        del constants, theta
        return z

    @attach.defjvp
    def derivative(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        _, constants, *theta = primals
        z = attach(*primals)  # with its derivative, for second ones

        def slope(constants: Any, *theta: Any) -> jax.Array:
            return gradient(z, *theta, constants)

        def times(u: jax.Array) -> jax.Array:
            return jax.jvp(lambda z: gradient(z, *theta, constants), (z,), (u,))[1]

        moved = jax.jvp(slope, primals[1:], tangents[1:])[1]
        return z, -solve(z, moved, times, *theta)

    return attach(minimiser, constants, *operands)
