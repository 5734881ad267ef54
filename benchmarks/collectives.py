"""Reads from a compiled program what its devices send each other.

For `python -m benchmarks.scaling devices`, and for the tests on eight devices.
"""

from __future__ import annotations

import collections
import math
import re
from typing import Any

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)[a-z0-9]*\[([\d,]*)\]")


def bytes_of_collectives(compiled: Any) -> dict[str, int]:
    """Returns the bytes of the results on one device, by the kind of collective.

    Every operation counts once: in all branches of a conditional, and in the body of a loop.

    Args:
      compiled: what `jax.jit(f).lower(...).compile()` returns.
    """
    found: collections.Counter[str] = collections.Counter()
    for result, kind in _OPERATION.findall(compiled.as_text()):
        found[kind] += sum(size for _, size in _arrays(result))
    return dict(found)


def shapes(compiled: Any) -> set[tuple[int, ...]]:
    """Returns the shapes of all arrays in a compiled program, as they are on one device."""
    return {shape for shape, _ in _arrays(compiled.as_text())}


def _arrays(text: str) -> list[tuple[tuple[int, ...], int]]:
    """Shapes and bytes of the arrays that are written as in f32[3,4]."""
    found = []
    for kind, sizes in _ARRAY.findall(text):
        shape = tuple(int(size) for size in sizes.split(",") if size)
        bits = re.search(r"\d+", kind)
        found.append((shape, math.prod(shape) * int(bits.group() if bits else 8) // 8))
    return found
