"""Coefficients of schemes: exact where they are rational, so that conditions can be met exactly."""

from __future__ import annotations

import math
import numbers
from fractions import Fraction
from typing import Any

Coefficient = Fraction | float


def coefficient(name: str, value: Any, *, text: bool = False) -> Coefficient:
    """Returns a coefficient as a Fraction where it is rational, else as a float.

    Args:
      name: what it is called, for the message.
      value: what the user passed.
      text: whether a string such as "4/3" is a number too.

    Raises:
      TypeError: `value` is not a number.
      ValueError: `value` is not finite.
    """
    allowed = (numbers.Rational, str) if text else numbers.Rational
    if isinstance(value, allowed) and not isinstance(value, bool):
        try:
            return Fraction(value)
        except (ValueError, ZeroDivisionError) as error:
            raise TypeError(f"{name} must be a number; got {value!r}.") from error
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}; allowed: a finite number.")
        return float(value)
    raise TypeError(
        f"{name} must be an int, a fractions.Fraction or a float{', or a string' if text else ''};"
        f" got {value!r} of type {type(value).__name__}."
    )
