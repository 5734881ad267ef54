"""Roots of linear multistep schemes: where they lie decides what a scheme bears and forgets."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

# A root is taken to lie on the unit circle within this distance: a double root computed in float64
# is displaced by about the square root of the rounding error.
CIRCLE = 1e-7


class Scheme(Protocol):
    """What the root analysis reads of a scheme."""

    @property
    def a(self) -> tuple[Any, ...]:
        """Weights of the points."""
        ...

    @property
    def b(self) -> tuple[Any, ...]:
        """Weights of the directions."""
        ...

    @property
    def steps(self) -> int:
        """The number of past steps read."""
        ...

    @property
    def displacement_weights(self) -> tuple[Any, ...]:
        """Weights of the past displacements."""
        ...


def parasitic_radius(scheme: Scheme) -> tuple[float, bool]:
    """The largest modulus of the parasitic roots, and whether one on the circle is multiple."""
    weights = [1.0, *map(float, scheme.displacement_weights)]
    roots = np.roots(weights)
    if roots.size == 0:
        return 0.0, False
    # The principal root 1 counts among those on the circle.
    on_circle = np.append(roots[np.abs(np.abs(roots) - 1) <= CIRCLE], 1.0)
    gaps = np.abs(on_circle[:, None] - on_circle[None, :]) + np.eye(len(on_circle))
    return float(np.max(np.abs(roots))), bool(np.min(gaps) <= CIRCLE**0.5)


def characteristic_roots(scheme: Scheme, x: Any) -> np.ndarray:
    r"""The roots of :math:`\zeta^k = \sum_j (a_j - x b_j) \zeta^{k-1-j}`, :math:`x = h \lambda`.

    On the mode with curvature :math:`\lambda` the iterates are sums of powers of these roots.

    Args:
      scheme: a linear multistep scheme.
      x: an array of shape (...), real or complex: learning rate times curvature.

    Returns:
      A complex array of shape (..., k).

    Examples:
      >>> import tritia
      >>> tritia.characteristic_roots(tritia.adams_bashforth_scheme(1), 0.5)
      array([0.5+0.j])
    """
    a, b = _padded(scheme)
    x = np.asarray(x)[..., None]
    first_row = a - x * b
    steps = scheme.steps
    companion = np.zeros((*first_row.shape[:-1], steps, steps), dtype=first_row.dtype)
    companion[..., 0, :] = first_row
    companion[..., np.arange(1, steps), np.arange(steps - 1)] = 1.0
    return np.linalg.eigvals(companion).astype(complex)


def _padded(scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.zeros(scheme.steps), np.zeros(scheme.steps)
    a[: len(scheme.a)] = [float(x) for x in scheme.a]
    b[: len(scheme.b)] = [float(x) for x in scheme.b]
    return a, b


def interval(scheme: Scheme, radius: float, start: float) -> float:
    """The right end of the stretch of x from `start` on which all roots lie within `radius`.

    A root can cross the circle only where the boundary locus x(zeta) = N(zeta) / D(zeta) is real,
    so the crossings are found exactly, and one look inside each stretch between them decides.
    """
    a, b = _padded(scheme)
    # x = (sum a_j zeta^(k-1-j) - zeta^k) / sum b_j zeta^(k-1-j), coefficients by falling powers.
    powers = radius ** np.arange(scheme.steps, -1, -1)
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
    moduli = np.max(np.abs(characteristic_roots(scheme, middles)), axis=-1)
    # Where a root only touches the circle, rounding splits the crossing in two: not an exit.
    outside = np.flatnonzero(moduli > radius + 1e-9)
    end = float(ends[outside[0]])
    return 0.0 if outside[0] == 0 else end
