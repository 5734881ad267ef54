r"""The inertial extrapolations, as functions on whole pytrees.

For an iterate :math:`u`, its last displacement :math:`d = u - u_{prev}` and three coefficients:

.. math::

  \begin{aligned}
    c &= u + p_1 d           && \text{predict: where the step starts (the prox centre)} \\
    e &= u + p_2 d           && \text{evaluate: where the gradient is taken} \\
    v &= \operatorname{project}(c - \nabla\phi(e) / \tau)
                             && \text{the step, which the caller makes} \\
    u_{next} &= \operatorname{project}(v + p_3 (v - u)) && \text{correct}
  \end{aligned}

The functions take numbers or scalar arrays, not schedules, and keep no state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import ScalarOrSchedule
from tritia._trees import compute_dtype


class Inertia(NamedTuple):
    """The three coefficients of triple inertia: numbers, scalar arrays or schedules.

    Attributes:
      predict: p1, where a block's step starts: c = u + p1 (u - u_prev).
      evaluate: p2, where its gradient is taken: e = u + p2 (u - u_prev).
      correct: p3, how the result is extrapolated: u_next = v + p3 (v - u).
    """

    predict: ScalarOrSchedule = 0.0
    evaluate: ScalarOrSchedule = 0.0
    correct: ScalarOrSchedule = 0.0


Tree = TypeVar("Tree")

Projection = Callable[[Any], Any]
"""A function from a pytree to the nearest pytree in a convex set, such as those in
`optax.projections`."""


def extrapolate(iterate: Tree, displacement: Tree, coefficient: jax.typing.ArrayLike) -> Tree:
    r"""Returns the iterate, moved on by a multiple of its last displacement.

    .. math:: u + p \, (u - u_{prev})

    Arithmetic is in float32 at least, because in bfloat16 a coefficient of 0.999 is 1.

    Args:
      iterate: pytree of floating or complex arrays, u.
      displacement: pytree like `iterate`, u - u_prev; zeros before the first step.
      coefficient: p, a number or a scalar array; 0 returns the iterate.

    Returns:
      A pytree with the structure, shapes and dtypes of `iterate`.

    Examples:
      A block solver of your own with the first two extrapolations of triple inertia:

      >>> import jax.numpy as jnp
      >>> from tritia.inertia import extrapolate, over_relax
      >>> u, u_previous = jnp.array([2.0, 1.0]), jnp.array([1.0, 2.0])
      >>> centre = extrapolate(u, u - u_previous, 0.5)  # where the step starts
      >>> point = extrapolate(u, u - u_previous, 0.25)  # where the gradient is taken
      >>> stepped = centre - 0.25 * 2 * point
      >>> print(over_relax(stepped, u, 0.5))
      [ 1.0625 -0.3125]
    """

    def leaf(x, d):
        dtype = jnp.result_type(x)
        wide = compute_dtype(x, d)
        # The coefficient takes the real dtype of the arithmetic: a float32 schedule must not narrow
        # float64 leaves, nor a float64 scalar widen float32 ones.
        p = jnp.asarray(coefficient, dtype=jnp.finfo(wide).dtype)
        return (jnp.asarray(x, wide) + p * jnp.asarray(d, wide)).astype(dtype)

    return jax.tree.map(leaf, iterate, displacement)


def over_relax(
    stepped: Tree,
    iterate: Tree,
    coefficient: jax.typing.ArrayLike,
    projection: Projection | None = None,
) -> Tree:
    r"""Returns the result of a step, moved on by a multiple of that step.

    .. math:: u_{next} = \operatorname{project}(v + p_3 (v - u))

    Args:
      stepped: pytree of floating or complex arrays, v: what the step made.
      iterate: pytree like `stepped`, u: where the iterate was before the step.
      coefficient: p3, a number or a scalar array; 0 keeps `stepped`, negative values damp the step.
      projection: function from a pytree to the nearest feasible one, or None where the block has no
        constraint.

    Returns:
      A pytree with the structure, shapes and dtypes of `stepped`.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from tritia.inertia import over_relax
      >>> u, v = jnp.array([2.0, 1.0]), jnp.array([3.0, 0.0])
      >>> print(over_relax(v, u, 0.5, optax.projections.projection_non_negative))
      [3.5 0. ]
    """
    relaxed = extrapolate(stepped, optax.tree.sub(stepped, iterate), coefficient)
    return relaxed if projection is None else projection(relaxed)
