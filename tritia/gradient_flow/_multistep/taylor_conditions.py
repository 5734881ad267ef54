r"""Taylor conditions of linear multistep schemes, in whatever arithmetic the numbers have.

A scheme has order p when it is exact for the monomials :math:`s^q`, :math:`q = 0, \ldots, p`. With
`fractions.Fraction` coefficients every number here is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tritia.gradient_flow._coefficient import Coefficient

Coefficients = tuple[Coefficient, ...]

# Floating-point coefficients satisfy a condition when its residual is below this, relative to the
# sum of the sizes of its terms. Exact coefficients satisfy it exactly.
_TOLERANCE = 1e-12


def taylor_row(degree: int, times_a: Sequence[Any], times_b: Sequence[Any]) -> list[Any]:
    r"""The left-hand side of one Taylor condition, one entry per coefficient of (a, b).

    A scheme is exact for :math:`w(s) = s^q` when
    :math:`\sum_j a_j s_j^q + q \sum_j b_j s_j^{q-1} = 1`, where :math:`s_j` is the time of the
    point :math:`w_{t-j}` in units of :math:`h_t`, with :math:`s_0 = 0` and the new point at 1. For
    equal steps :math:`s_j = -j`.

    Args:
      degree: q.
      times_a: the times at which the a are used.
      times_b: the times at which the b are used.

    Returns:
      The entries :math:`s_j^q` for a, then :math:`q s_j^{q-1}` for b.
    """
    row = [s**degree for s in times_a]
    return row + [0 * s if degree == 0 else degree * s ** (degree - 1) for s in times_b]


def _terms(a: Coefficients, b: Coefficients, degree: int) -> list[Coefficient]:
    times_a = [Fraction(-j) for j in range(len(a))]
    times_b = [Fraction(-j) for j in range(len(b))]
    return [e * x for e, x in zip(taylor_row(degree, times_a, times_b), a + b, strict=True)]


def residual(a: Coefficients, b: Coefficients, degree: int) -> Coefficient:
    """By how much the condition of degree q is missed with equal steps; 0 where it holds."""
    return 1 - sum(_terms(a, b, degree), Fraction(0))


def holds(a: Coefficients, b: Coefficients, degree: int) -> bool:
    """Whether the condition of degree q holds with equal steps, up to rounding if in floats."""
    missed = residual(a, b, degree)
    if isinstance(missed, Fraction):
        return missed == 0
    size = 1.0 + sum(abs(float(term)) for term in _terms(a, b, degree))
    return abs(missed) <= _TOLERANCE * size


def solve_exactly(matrix: list[list[Any]], right: list[Any]) -> list[Any]:
    """Gaussian elimination with pivoting, in whatever arithmetic the entries have."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        if rows[pivot][column] == 0:
            raise ValueError(
                "the Taylor conditions have no unique solution for these coefficients."
            )
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for i in range(size):
            if i != column:
                factor = rows[i][column] / rows[column][column]
                rows[i] = [x - factor * y for x, y in zip(rows[i], rows[column], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]
