"""Small words: numbers, counts and lists as a sentence wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tritia._compare.summary import Spread


def number(value: float) -> str:
    """Three significant digits, and thousands written out."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def fixed(value: float) -> str:
    """Three decimals, for accuracies and R^2."""
    return f"{value:.3f}" if math.isfinite(value) else "-"


def count(number: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def median(found: Spread | None) -> float:
    """The median, NaN of nothing."""
    return math.nan if found is None else found.median


def names(words: Sequence[str]) -> str:
    """A, B and C."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
