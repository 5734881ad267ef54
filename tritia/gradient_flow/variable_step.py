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
    number. Schemes with as many coefficients as conditions (Adams) get their classical
    variable-step coefficients.

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
    `MAX_GROWTH`. Where the learning rate grows faster, the optimizers use fewer steps: during a
    warm-up that more than doubles in every step they are plain gradient descent.

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
      1.5
    """
    limit = _last_stable_ratio(scheme, np.linspace(1.0, MAX_GROWTH, 101))
    return MAX_GROWTH if limit is None else limit


@functools.lru_cache(maxsize=256)
def shrink_limit(scheme: LinearMultistep) -> float:
    """The smallest ratio of a learning rate to the one before at which the scheme is used as it is.

    Most schemes bear any decay of the learning rate, and the limit is 0: the past becomes long
    against the step to come, and they turn into gradient descent by themselves.

    Args:
      scheme: a linear multistep scheme.

    Returns:
      The smallest r such that the parasitic roots of the adapted scheme lie in the unit disc for
      every constant ratio in [r, 1]; 0 if they do down to 1/100.

    Examples:
      >>> import tritia
      >>> tritia.shrink_limit(tritia.difference_scheme(order=2, steps=3))
      0.0
      >>> tritia.shrink_limit(tritia.difference_scheme(order=3, steps=4)) > 0.7
      True
    """
    limit = _last_stable_ratio(scheme, np.geomspace(1.0, 0.01, 101))
    return 0.0 if limit is None else limit


def _last_stable_ratio(scheme: LinearMultistep, ratios: np.ndarray) -> float | None:
    """The last constant step ratio, from 1 on, before zero-stability is lost; None if it is not."""
    reach = max(len(scheme.a), len(scheme.b))
    x = np.array([float(value) for value in scheme.a + scheme.b])

    def stable(ratio: float) -> bool:
        lengths = ratio ** -np.arange(1.0, reach)
        times = [np.array(0.0), *(-np.cumsum(lengths))]
        points, directions = times[: len(scheme.a)], times[: len(scheme.b)]
        a = adapt_to_step_sizes(x, points, directions, promises.order(scheme))[: len(scheme.a)]
        roots = np.roots([1.0, *np.cumsum(a[::-1])[::-1][1:]])
        return bool(np.max(np.abs(roots), initial=0.0) <= 1.0)

    unstable = next((i for i, ratio in enumerate(ratios) if i and not stable(ratio)), None)
    if unstable is None:
        return None
    good, bad = ratios[unstable - 1], ratios[unstable]
    for _ in range(40):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if stable(middle) else (good, middle)
    return float(good)
