"""What a traced program is made of. `tests/test_counts.py` counts with it too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax


def products(program: Any, weigh: Callable[[Any], int]) -> int:
    """Sums over the matrix products of a jaxpr, those of the programs within it included.

    Of the branches of a conditional the cheapest counts, which is the usual one of TIAM's; the body
    of a scan counts as often as it runs, that of a while loop once.

    Args:
      program: a jaxpr, closed or not.
      weigh: what the equation of a product counts.
    """
    program = getattr(program, "jaxpr", program)
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            total += weigh(equation)
            continue
        values = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program)
        inside = [products(value, weigh) for value in values if _is_program(value)]
        if equation.primitive.name == "cond":
            total += min(inside)
        else:
            total += equation.params.get("length", 1) * sum(inside)
    return total


def operations(equation: Any) -> int:
    """Floating-point operations of a product: 2 n m k for (n, m) by (m, k)."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    inner = math.prod(shape[axis] for axis in contracted)
    return 2 * inner * math.prod(equation.outvars[0].aval.shape)


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
