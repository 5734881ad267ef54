r"""The three inertial extrapolations, as functions on whole pytrees.

For an iterate :math:`u`, its last displacement :math:`d = u - u_{prev}` and three coefficients:

.. math::

  \begin{aligned}
    c &= u + p_1 d           && \text{predict: where the step starts (the prox centre)} \\
    e &= u + p_2 d           && \text{evaluate: where the gradient is taken} \\
    v &= \operatorname{project}(c - \nabla\phi(e) / \tau)
                             && \text{the step, which the caller makes} \\
    u_{next} &= \operatorname{project}(v + p_3 (v - u)) && \text{correct}
  \end{aligned}

A solver of one block, whose step may as well be a prox or an exact solve around `c`, reads::

  d = displacement(u, u_previous)  # or kept from the last sweep; zeros at the first
  c = predict(u, d, p1)
  e = evaluate(u, d, p2)
  v = step(c, e)
  u_next = correct(v, u, p3, projection)

The functions know neither schedules nor state. A coefficient is a number or a scalar array.
Arithmetic is in float32 at least, because in bfloat16 a coefficient of 0.999 is 1; the result has
the dtype of the point that is extrapolated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tritia._trees import compute_dtype


class Inertia(NamedTuple):
    """The three coefficients of triple inertia.

    Attributes:
      predict: p1, where a block's step starts: c = u + p1 (u - u_prev).
      evaluate: p2, where its gradient is taken: e = u + p2 (u - u_prev).
      correct: p3, how the result is extrapolated: u_next = v + p3 (v - u).
    """

    predict: Any = 0.0
    evaluate: Any = 0.0
    correct: Any = 0.0


Projection = Callable[[Any], Any]
"""A function from a pytree to the nearest pytree in a convex set, such as those in
`optax.projections`."""


def predict(iterate: Any, displacement: Any, coefficient: jax.typing.ArrayLike) -> Any:
    """Returns `iterate + coefficient * displacement`, where the step starts.

    Args:
      iterate: pytree of arrays, u.
      displacement: pytree like `iterate`, u - u_prev; zeros before the first step.
      coefficient: p1, a scalar; 0 starts the step from the iterate.

    Returns:
      A pytree with the structure, shapes and dtypes of `iterate`.
    """
    return _extrapolate(iterate, displacement, coefficient)


def evaluate(iterate: Any, displacement: Any, coefficient: jax.typing.ArrayLike) -> Any:
    """Returns `iterate + coefficient * displacement`, where the gradient is taken.

    Args:
      iterate: pytree of arrays, u.
      displacement: pytree like `iterate`, u - u_prev; zeros before the first step.
      coefficient: p2, a scalar; 0 takes the gradient at the iterate.

    Returns:
      A pytree with the structure, shapes and dtypes of `iterate`.
    """
    return _extrapolate(iterate, displacement, coefficient)


def correct(
    stepped: Any,
    iterate: Any,
    coefficient: jax.typing.ArrayLike,
    projection: Projection | None = None,
) -> Any:
    """Returns `project(stepped + coefficient * (stepped - iterate))`, the next iterate.

    Args:
      stepped: pytree of arrays, v: what the step made.
      iterate: pytree like `stepped`, u: where the iterate was before the step.
      coefficient: p3, a scalar; 0 keeps `stepped`, negative values damp, positive ones over-relax.
      projection: function from a pytree to the nearest feasible one, or None where the block has no
        constraint.

    Returns:
      A pytree with the structure, shapes and dtypes of `stepped`.
    """
    corrected = _extrapolate(stepped, displacement(stepped, iterate), coefficient)
    return corrected if projection is None else projection(corrected)


def displacement(iterate: Any, previous: Any) -> Any:
    """Returns `iterate - previous`, leaf by leaf."""
    return jax.tree.map(lambda u, u_previous: u - u_previous, iterate, previous)


def _extrapolate(point: Any, direction: Any, coefficient: jax.typing.ArrayLike) -> Any:
    def leaf(x, d):
        dtype = jnp.result_type(x)
        wide = compute_dtype(x, d)
        # The coefficient takes the real dtype of the arithmetic: a float32 schedule must not narrow
        # float64 leaves, nor a float64 scalar widen float32 ones.
        p = jnp.asarray(coefficient, dtype=jnp.finfo(wide).dtype)
        return (jnp.asarray(x, wide) + p * jnp.asarray(d, wide)).astype(dtype)

    return jax.tree.map(leaf, point, direction)
