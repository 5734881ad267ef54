"""The roots of linear multistep schemes, which decide on stability.

Coefficients a and b are NumPy arrays of one length k here, filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# A root is taken to lie on the unit circle within this distance: a double root computed in float64
# is displaced by about the square root of the rounding error.
CIRCLE = 1e-7


def parasitic_roots(displacement_weights: Sequence[Any]) -> tuple[float, bool]:
    """The largest modulus of the parasitic roots, and whether one on the circle is multiple."""
    roots = np.roots([1.0, *map(float, displacement_weights)])
    if roots.size == 0:
        return 0.0, False
    # The principal root 1 counts among those on the circle.
    on_circle = np.append(roots[np.abs(np.abs(roots) - 1) <= CIRCLE], 1.0)
    gaps = np.abs(on_circle[:, None] - on_circle[None, :]) + np.eye(len(on_circle))
    return float(np.max(np.abs(roots))), bool(np.min(gaps) <= CIRCLE**0.5)


def characteristic_roots(a: np.ndarray, b: np.ndarray, x: Any) -> np.ndarray:
    r"""The roots of :math:`\zeta^k = \sum_j (a_j - x b_j) \zeta^{k-1-j}`.

    Args:
      a: weights of the points, of shape (k,).
      b: weights of the directions, of shape (k,).
      x: an array of shape (...), real or complex: learning rate times curvature.

    Returns:
      A complex array of shape (..., k).
    """
    first_row = a - np.asarray(x)[..., None] * b
    steps = len(a)
    companion = np.zeros((*first_row.shape[:-1], steps, steps), dtype=first_row.dtype)
    companion[..., 0, :] = first_row
    companion[..., np.arange(1, steps), np.arange(steps - 1)] = 1.0
    return np.linalg.eigvals(companion).astype(complex)


def interval(a: np.ndarray, b: np.ndarray, radius: float, start: float) -> float:
    """The right end of the stretch of x from `start` on which all roots lie within `radius`.

    A root can cross the circle only where the boundary locus x(zeta) = N(zeta) / D(zeta) is real,
    so the crossings are found exactly, and one look inside each stretch between them decides.
    """
    # x = (sum a_j zeta^(k-1-j) - zeta^k) / sum b_j zeta^(k-1-j), coefficients by falling powers.
    powers = radius ** np.arange(len(a), -1, -1)
    numerator = np.concatenate([[-1.0], a]) * powers
    denominator = np.concatenate([[0.0], b]) * powers
    # On the circle conj(zeta) = 1 / zeta, so Im(N conj(D)) = 0 is a polynomial equation in zeta.
    crossing = np.convolve(numerator, denominator[::-1]) - np.convolve(denominator, numerator[::-1])
    candidates = np.append(np.roots(np.trim_zeros(crossing)), [1.0, -1.0])
    candidates = candidates[np.abs(candidates) > 0]
    candidates = candidates / np.abs(candidates)
    below = np.polyval(denominator, candidates)
    usable = np.abs(below) > 1e-12
    ends = np.real(np.polyval(numerator, candidates[usable]) / below[usable])
    ends = np.concatenate([[start], np.unique(ends[ends > start + 1e-12])])
    middles = np.append((ends[:-1] + ends[1:]) / 2, 2 * ends[-1] + 1)
    moduli = np.max(np.abs(characteristic_roots(a, b, middles)), axis=-1)
    # Where a root only touches the circle, rounding splits the crossing in two: not an exit.
    outside = np.flatnonzero(moduli > radius + 1e-9)
    end = float(ends[outside[0]])
    return 0.0 if outside[0] == 0 else end
