"""Odd polynomials that are nearest to 1 on an interval, one after the other."""

from __future__ import annotations

import functools

import numpy as np

_NARROW = 1e-4
"""The relative width of an interval on which Taylor's polynomial serves: the next term is nil."""


@functools.cache
def newton_schulz_polynomials(steps: int, smallest: float) -> tuple[np.ndarray, ...]:
    r"""Returns the coefficients (a, b, c) of a x + b x^3 + c x^5 for each step.

    The first is the minimax polynomial for 1 on [smallest, 1]; its values there fill an interval
    around 1, on which the next is the minimax polynomial. No other polynomials of degree 5 bring
    the values as close to 1 in as many steps (Amsel et al., 2025).
    """
    polynomials, lower, upper = [], smallest, 1.0
    for _ in range(steps):
        polynomial, error = minimax(lower, upper)
        polynomials.append(polynomial)
        lower, upper = 1 - error, 1 + error
    return tuple(polynomials)


def minimax(lower: float, upper: float) -> tuple[np.ndarray, float]:
    """Returns (a, b, c) and the largest |1 - a x - b x^3 - c x^5| for x in [lower, upper].

    By Remez's exchange: the error takes its largest size, with alternating signs, at both ends and
    at the two extrema of the polynomial between them.
    """
    if upper - lower < _NARROW * upper:
        center = (lower + upper) / 2
        taylor = np.array([15, -10, 3]) / 8 / center ** np.array([1, 3, 5])
        return taylor, abs(1 - _value(taylor, upper))
    signs = np.array([1, -1, 1, -1])
    points = lower + (upper - lower) * np.array([0, 1 / 4, 3 / 4, 1])
    while True:
        powers = points[:, None] ** np.array([1, 3, 5])
        *found, error = np.linalg.solve(np.column_stack([powers, signs]), np.ones(4))
        polynomial = np.array(found)
        a, b, c = polynomial
        squares = np.roots([5 * c, 3 * b, a])
        exchanged = np.array([lower, *np.sqrt(np.sort(squares.real)), upper])
        if np.allclose(exchanged, points, rtol=1e-9):
            return polynomial, abs(error)
        points = exchanged


def _value(polynomial: np.ndarray, x: float) -> float:
    return float(polynomial @ x ** np.array([1.0, 3.0, 5.0]))
