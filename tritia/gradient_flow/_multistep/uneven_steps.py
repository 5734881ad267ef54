"""Linear multistep schemes on steps of uneven size: a learning rate under a schedule."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

MAX_GROWTH = 2.0
"""The largest growth of the step size per step that any scheme is used at.

Schemes that read no past points (Adams) are zero-stable at any growth, but their coefficients grow
with it: the two-step scheme after a jump of 1000 has b = (501, -500)."""


def adapt_to_step_sizes(x: Any, times: Any, free: np.ndarray, order: np.ndarray | int) -> Any:
    r"""The least change of x = (a, b) that satisfies the Taylor conditions on the actual steps.

    .. math:: x \leftarrow x + C^T (C C^T)^{-1} (d - C x), \quad
              C_{q \cdot} = (s_j^q, \; q s_j^{q-1}), \quad d_q = 1, \quad q = 0, \ldots, p

    The conditions are met one after the other, each along the part of its row that is orthogonal to
    the rows before (Gram-Schmidt), which solves the same problem without squaring its condition
    number. Schemes with as many coefficients as conditions (Adams) get their classical
    variable-step coefficients.

    Args:
      x: coefficients for equal steps, a then b, each filled up to k entries: an array of shape
        (..., 2k), NumPy's or JAX's. Leading axes hold schemes that are adapted together.
      times: :math:`s_j`, the times of the past points in units of the step to come, newest first:
        an array of shape (..., k). :math:`s_0 = 0`, the others are negative.
      free: which coefficients the scheme has; the others stay as they are: bool of shape (..., 2k).
      order: p of each scheme: an integer array of shape (...).

    Returns:
      The coefficients for these steps: an array of shape (..., 2k).

    Examples:
      AB2 with a step three times the last one: b = (1 + 3/2, -3/2).

      >>> import numpy as np
      >>> from tritia.gradient_flow._multistep.uneven_steps import adapt_to_step_sizes
      >>> x, times = np.array([1.0, 0.0, 1.5, -0.5]), np.array([0.0, -1 / 3])
      >>> free = np.array([True, False, True, True])
      >>> adapt_to_step_sizes(x, times, free, order=2).round(6)
      array([ 1. ,  0. ,  2.5, -1.5])
    """
    xp = np if isinstance(times, np.ndarray) else jnp
    orders = np.asarray(order, np.int32)
    # Times are scaled by the longest reach into the past, so that old, long steps overflow nothing.
    reach = xp.maximum(xp.max(xp.abs(times), axis=-1, keepdims=True), 1.0)
    times = times / reach

    def meet(degree: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        x, projector, power, before, right = carry
        asked = (degree <= orders)[..., None]
        row = xp.concatenate([power, degree * before / reach], axis=-1) * (free & asked)
        direction = _dot(projector, row[..., None, :])[..., 0]
        square = _dot(direction, direction)
        direction = direction / xp.sqrt(xp.where(square > 0, square, 1.0))
        along = _dot(row, direction)
        x = x + direction * (right - _dot(row, x)) / xp.where(along != 0, along, 1.0)
        seen = _dot(direction[..., None, :], xp.swapaxes(projector, -1, -2))
        projector = projector - direction[..., :, None] * xp.swapaxes(seen, -1, -2)
        return x, projector, power * times, power, right / reach

    x = x + xp.zeros_like(reach)
    projector = xp.eye(x.shape[-1], dtype=x.dtype) + xp.zeros_like(x)[..., None]
    carry = x, projector, xp.ones_like(times), xp.zeros_like(times), xp.ones_like(reach)
    degrees = int(np.max(orders)) + 1
    if isinstance(times, jax.core.Tracer):  # one program for all conditions, not one for each
        return jax.lax.fori_loop(0, degrees, meet, carry)[0]
    for degree in range(degrees):
        carry = meet(degree, carry)
    return carry[0]


def _dot(left: Any, right: Any) -> Any:
    return (left * right).sum(axis=-1, keepdims=True)


def last_stable_ratio(
    x: np.ndarray, free: np.ndarray, order: int, ratios: np.ndarray
) -> float | None:
    """How far a constant ratio of steps may go from 1 before zero-stability is lost.

    Args:
      x: coefficients for equal steps, a then b, each filled up to k entries: of shape (2k,).
      free: which of them the scheme has, bool of shape (2k,).
      order: the scheme's order.
      ratios: the ratios to look at, from 1 on, of shape (n,).

    Returns:
      The last ratio at which the parasitic roots of the adapted scheme lie in the unit disc, found
      by bisection between two of `ratios`; None if they do at all of them.
    """
    steps = len(x) // 2
    if steps == 1:
        return None

    def stable(ratio: Any) -> np.ndarray:
        ratio = np.asarray(ratio)[..., None]
        lengths = ratio ** -np.arange(1.0, steps)
        times = np.concatenate([0 * ratio, -np.cumsum(lengths, axis=-1)], axis=-1)
        adapted = adapt_to_step_sizes(x, times, free, order)[..., :steps]
        companion = np.broadcast_to(
            np.eye(steps - 1, k=-1), (*adapted.shape[:-1], steps - 1, steps - 1)
        )
        companion = companion.copy()
        companion[..., 0, :] = -np.cumsum(adapted[..., ::-1], axis=-1)[..., ::-1][..., 1:]
        return np.max(np.abs(np.linalg.eigvals(companion)), axis=-1) <= 1.0

    exits = np.flatnonzero(~stable(ratios[1:])) + 1
    if exits.size == 0:
        return None
    unstable = exits[0]
    good, bad = ratios[unstable - 1], ratios[unstable]
    for _ in range(40):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if stable(middle) else (good, middle)
    return float(good)
