"""Linear multistep schemes on steps of uneven size: a learning rate under a schedule."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from tritia.gradient_flow import promises
from tritia.gradient_flow.coefficients import LinearMultistep, power, taylor_row

MAX_GROWTH = 2.0
"""The largest growth of the step size per step that any scheme is used at.

Schemes that read no past points (Adams) are zero-stable at any growth, but their coefficients grow
with it: the two-step scheme after a jump of 1000 has b = (501, -500)."""


def adapt_to_step_sizes(x: Any, times_a: Sequence[Any], times_b: Sequence[Any], order: int) -> Any:
    r"""The least change of x = (a, b) that satisfies the Taylor conditions on the actual steps.

    .. math:: x \leftarrow x + C^T (C C^T)^{-1} (d - C x), \quad d = (1, \ldots, 1)

    The conditions are met one after the other, each along the part of its row that is orthogonal to
    the rows before (Gram-Schmidt), which solves the same problem without squaring its condition
    number. Schemes with as many coefficients as conditions (Adams) get their classical variable-step
    coefficients.

    Args:
      x: coefficients (a, b) for equal steps: an array of shape (n,), NumPy's or JAX's.
      times_a: the times of the points that a reads, in units of the step to come, newest first;
        scalars of the same array type as x. The first is 0.
      times_b: the times of the directions that b reads.
      order: p; the conditions are those of degree 0 to p.

    Returns:
      The coefficients for these steps: an array of shape (n,).

    Examples:
      AB2 with a step three times the last one: b = (1 + 3/2, -3/2).

      >>> import numpy as np
      >>> from tritia.gradient_flow.variable_step import adapt_to_step_sizes
      >>> x, s = np.array([1.0, 1.5, -0.5]), [np.array(0.0), np.array(-1 / 3)]
      >>> adapt_to_step_sizes(x, s[:1], s, order=2).round(6)
      array([ 1. ,  2.5, -1.5])
    """
    xp = np if isinstance(x, np.ndarray) else jnp
    # Rows are scaled by the longest reach into the past, so that old, long steps cause no overflow.
    reach = xp.maximum(abs(times_a[-1]), abs(times_b[-1])) if len(x) > 2 else abs(times_a[-1])
    reach = xp.maximum(reach, 1.0)
    basis: list[Any] = []
    for degree in range(order + 1):
        scale = power(reach, degree)
        row = xp.stack([entry / scale for entry in taylor_row(degree, times_a, times_b)])
        direction = row
        for earlier in basis:
            direction = direction - (direction @ earlier) * earlier
        direction = direction / xp.sqrt(direction @ direction)
        basis.append(direction)
        x = x + direction * ((1.0 / scale - row @ x) / (row @ direction))
    return x


@functools.lru_cache(maxsize=256)
def growth_limit(scheme: LinearMultistep) -> float:
    r"""The largest growth of the learning rate per step at which the scheme is used as it is.

    Under a schedule the step size changes, and the coefficients with it
    (:func:`adapt_to_step_sizes`). When it grows by a constant factor per step, the scheme stays
    zero-stable up to some factor; above it old steps are amplified. This is that factor, at most
    `MAX_GROWTH`. Where the learning rate grows faster, the optimizers use fewer steps: a warm-up that
    doubles in every step is plain gradient descent until it slows down, and loses nothing else.

    Args:
      scheme: a linear multistep scheme.

    Returns:
      The largest r <= `MAX_GROWTH` such that the parasitic roots of the adapted scheme lie in the
      unit disc for every constant ratio in [1, r].

    References:
      Crouzeix, Lisbona, The convergence of variable-stepsize, variable-formula, multistep methods,
      1984, for the notion; the limits are computed.

    Examples:
      >>> import tritia
      >>> tritia.growth_limit(tritia.adams_bashforth_scheme(2))
      2.0
      >>> round(tritia.growth_limit(tritia.difference_scheme(order=2, steps=3)), 2)
      1.52
    """

    def radius(ratio: float) -> float:
        times = [np.array(0.0)]
        for lag in range(1, scheme.steps):
            times.append(times[-1] - ratio ** float(-lag))
        x = np.array([float(value) for value in scheme.a + scheme.b])
        points, directions = times[: len(scheme.a)], times[: len(scheme.b)]
        a = adapt_to_step_sizes(x, points, directions, promises.order(scheme))[: len(scheme.a)]
        weights = np.cumsum(a[::-1])[::-1][1:]
        roots = np.roots([1.0, *weights])
        return float(np.max(np.abs(roots), initial=0.0))

    ratios = np.linspace(1.0, MAX_GROWTH, 201)
    stable, unstable = 1.0, None
    for ratio in ratios[1:]:
        if radius(float(ratio)) > 1.0:
            unstable = float(ratio)
            break
        stable = float(ratio)
    if unstable is None:
        return MAX_GROWTH
    for _ in range(50):
        middle = (stable + unstable) / 2
        stable, unstable = (middle, unstable) if radius(middle) <= 1.0 else (stable, middle)
    return stable
