"""Step sizes from error estimates: the norm, the first step's size, and the controller.

References:
  Hairer, Nørsett, Wanner, `Solving Ordinary Differential Equations I
  <https://doi.org/10.1007/978-3-540-78862-1>`_, section II.4, 1993
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tritia._trees import Tree, move

SAFETY = 0.9
"""The next step aims at this fraction of the size that would just be accepted."""

SHRINK, GROW = 0.2, 10.0
"""By which factors a step size may change from one try to the next."""

LEAST_ERROR = 1e-4
"""An error norm below it is remembered as it: one lucky step must not throttle the next."""

LONGEST = float(jnp.finfo(jnp.float32).max) ** 0.5
"""Step sizes stay below it: on a plateau they would overflow."""


def scaled_norm(tree: Tree, *points: Tree, rtol: jax.Array, atol: jax.Array) -> jax.Array:
    """The root mean square of a tree in units of the tolerance, infinite if not finite.

    Args:
      tree: an error or a slope, shaped like the params.
      *points: params; the relative tolerance refers to the largest of their moduli.
      rtol: relative tolerance.
      atol: absolute tolerance; its dtype is that of the norm.
    """
    dtype = atol.dtype

    def in_tolerances(x, *around):
        size = functools.reduce(jnp.maximum, [jnp.abs(w).astype(dtype) for w in around])
        size = jnp.where(jnp.isfinite(size), size, jnp.nan)
        return jnp.abs(x).astype(dtype) / (atol + rtol * size)

    ratios = jax.tree.leaves(jax.tree.map(in_tolerances, tree, *points))
    # Squares of ratios overflow in float32 where the ratios do not.
    peaks = [jnp.max(x, initial=0.0) for x in ratios]
    peak = functools.reduce(jnp.maximum, peaks, jnp.zeros([], dtype))
    unit = jnp.where(peak > 0, peak, 1.0)
    total = sum((jnp.sum((x / unit) ** 2) for x in ratios), jnp.zeros([], dtype))
    value = unit * jnp.sqrt(total / max(1, sum(x.size for x in ratios)))
    return jnp.where(jnp.isfinite(value), value, jnp.inf)


def initial_step_size(
    params: optax.Params,
    slope: Tree,
    slope_at: Callable[[optax.Params], Tree],
    norm: Callable[..., jax.Array],
    order: int,
) -> jax.Array:
    """The usual heuristic for the first step (Hairer, Nørsett, Wanner I, section II.4).

    A step h0 on which an Euler step changes little, then one on which the error, of order q, is
    about 1% of the tolerance.

    Args:
      params: the starting point.
      slope: the preconditioned gradient there.
      slope_at: returns it elsewhere; called once.
      norm: of a tree at points, in units of the tolerance.
      order: q, the order of the error estimate.
    """
    size, speed = norm(params, params), norm(slope, params)
    tiny = (size < 1e-5) | (speed < 1e-5)
    h0 = jnp.where(tiny, 1e-6, 0.01 * size / jnp.where(tiny, 1.0, speed))
    change = jax.tree.map(lambda x, y: x - y, slope_at(move(params, h0, slope)), slope)
    steepest = jnp.maximum(speed, norm(change, params) / h0)
    h1 = jnp.where(
        steepest <= 1e-15,
        jnp.maximum(1e-6, 1e-3 * h0),
        (0.01 / jnp.maximum(steepest, 1e-15)) ** (1 / order),
    )
    return jnp.minimum(100 * h0, h1).astype(speed.dtype)


def retry_factor(error: jax.Array, order: int) -> jax.Array:
    """By how much a rejected step is shortened: by half where a stage was not finite."""
    factor = jnp.maximum(SHRINK, SAFETY * error ** (-1 / order))
    return jnp.where(jnp.isfinite(error), factor, 0.5)


def next_factor(error: jax.Array, previous: jax.Array, rejected: Any, order: int) -> jax.Array:
    """The proportional-integral controller: how much longer the step after an accepted one is.

    Args:
      error: the error norm of the accepted step, at least `LEAST_ERROR`.
      previous: that of the accepted step before.
      rejected: whether a try was rejected before; then the step does not grow.
      order: q, the order of the error estimate.
    """
    factor = SAFETY * error ** (-0.7 / order) * previous ** (0.4 / order)
    return jnp.clip(factor, SHRINK, jnp.where(rejected, 1.0, GROW))
