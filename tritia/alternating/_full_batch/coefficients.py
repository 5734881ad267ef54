"""The inertia of each kind of block of `tritia.tiam`."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

import jax

from tritia._arguments import check_choice, check_number, value_at
from tritia.inertia import Inertia


class Inertias(NamedTuple):
    """The coefficients of each kind of block."""

    kernels: Inertia = Inertia()
    biases: Inertia = Inertia()
    pre_activations: Inertia = Inertia()
    activations: Inertia = Inertia()
    outputs: Inertia = Inertia()


def resolve_inertias(inertia: Inertia | Mapping[str, Inertia]) -> Inertias:
    """Returns the coefficients of each kind of block: an `Inertia` for all, or a dict of them.

    Raises:
      ValueError: a key is not a kind of block, or a coefficient is not finite.
      TypeError: neither an `Inertia` nor a dict of them, or a coefficient of the wrong type.
    """
    if isinstance(inertia, Inertia):
        inertias = Inertias(*(inertia,) * len(Inertias._fields))
    elif isinstance(inertia, Mapping):
        for kind, value in inertia.items():
            check_choice("a key of inertia", kind, Inertias._fields)
            if not isinstance(value, Inertia):
                raise TypeError(f"inertia[{kind!r}] must be a tritia.Inertia; got {value!r}.")
        inertias = Inertias(**inertia)
    else:
        raise TypeError(
            f"inertia must be a tritia.Inertia or a dict of them with the keys"
            f" {', '.join(Inertias._fields)}; got {inertia!r}."
        )
    for kind, coefficients in zip(Inertias._fields, inertias, strict=True):
        for name, value in coefficients._asdict().items():
            check_number(f"inertia of {kind}: {name}", value)
    return inertias


def inertias_at(inertias: Inertias, count: jax.Array) -> Inertias:
    """Returns the coefficients at a step, Python numbers as they are.

    A schedule is read once, wherever it occurs, so that `same` recognises its values.
    """
    values: dict[int, Any] = {}

    def at(number: Any) -> Any:
        if id(number) not in values:
            values[id(number)] = value_at(number, count)
        return values[id(number)]

    return Inertias(*(Inertia(*map(at, kind)) for kind in inertias))


def same(first: Any, second: Any) -> bool:
    """Whether two coefficients are known to be equal: equal Python numbers, or one array."""
    both_known = isinstance(first, Real) and isinstance(second, Real)
    return first is second or (both_known and first == second)


def is_zero(coefficient: Any) -> bool:
    """Whether a coefficient is the Python number 0."""
    return isinstance(coefficient, Real) and coefficient == 0


def reads_displacement(inertia: Inertia) -> bool:
    """Whether a block with these coefficients reads its last displacement."""
    return not (is_zero(inertia.predict) and is_zero(inertia.evaluate))
