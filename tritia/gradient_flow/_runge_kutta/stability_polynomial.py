"""How far a one-step method may go: the stability interval of its stability polynomial.

On the linear problem w' = lambda w one step multiplies w by R(h lambda). Training moves along a
Hessian's eigenvectors with lambda = -curvature, so what counts is |R(-x)| for x = learning rate
times curvature.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def evaluate(polynomial: Sequence[Fraction | float], z: np.ndarray) -> np.ndarray:
    """Evaluates a polynomial, constant term first, by Horner's rule."""
    value = np.zeros_like(z)
    for coefficient in reversed(polynomial):
        value = value * z + float(coefficient)
    return value


def stable_up_to(
    polynomial: Sequence[Fraction | float], bound: float = 1.0, start: float = 0.0
) -> float:
    """Returns the largest X with |R(-x)| <= bound for all x in [start, X].

    |R| can pass the bound only at a root of R(-x) = bound or R(-x) = -bound. Between neighbouring
    roots one sample decides.

    Args:
      polynomial: coefficients of R, constant term first.
      bound: what |R| must not exceed.
      start: where the interval begins.

    Returns:
      X, or 0.0 when the bound is passed at once. It is found to about 1e-7 where R only touches
      the bound, to rounding elsewhere.
    """
    alternating = np.array([float(r) * (-1) ** k for k, r in enumerate(polynomial)])
    crossings = [start]
    for level in (bound, -bound):
        shifted = alternating.copy()
        shifted[0] -= level
        roots = np.roots(shifted[::-1])
        # A double root (R touches the bound) may be split off the real axis by rounding.
        real = roots[np.abs(roots.imag) <= 1e-6 * (1 + np.abs(roots))].real
        crossings += [x for x in real if x > start]
    crossings = sorted(crossings)
    crossings.append(2 * crossings[-1] + 1)
    for left, right in itertools.pairwise(crossings):
        if right - left <= 1e-5 * (1 + right):
            continue  # one double root, split by rounding
        middle = np.array(-(left + right) / 2)
        if abs(evaluate(polynomial, middle)) > bound:
            return float(left) if left > start else 0.0
    raise AssertionError("a polynomial that is not constant leaves every interval")
