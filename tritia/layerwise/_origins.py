"""Which values in a traced loss are the same, wherever they are read or computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tritia.layerwise._propagation import UNCHANGED, body_of, scan_parts


class Origin(NamedTuple):
    """Where a value comes from.

    Attributes:
      made: equal for values that are the same, up to a cast.
      levels: the number of loops of which each pass has its own.
    """

    made: Any
    levels: int


class Origins:
    """The origins of the values of a trace: one number for what is computed alike of the same."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def new(self, levels: int) -> Origin:
        """Returns the origin of a value that is no other, made inside this number of loops."""
        return Origin(object(), levels)

    def constant(self, value: Any) -> Origin:
        """Returns the origin of a constant of a program."""
        return self._numbered(("constant", id(value)), 0)

    def literal(self, literal: Any) -> Origin:
        """Returns the origin of a number in a program."""
        return self._numbered(("literal", str(literal.aval), str(literal.val)), 0)

    def after(self, eqn: Any, origins: Sequence[Origin], levels: int) -> list[Origin]:
        """Returns the origins of an equation's results, inside this number of loops."""
        name, results = eqn.primitive.name, range(len(eqn.outvars))
        if eqn.effects:
            return [self.new(levels) for _ in results]
        inexact = jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact)
        if name in UNCHANGED and len(origins) == 1 and inexact:
            return [origins[0]]
        settings = tuple((key, _setting(value)) for key, value in sorted(eqn.params.items()))
        made = (name, settings, tuple(origin.made for origin in origins))
        deepest = max((origin.levels for origin in origins), default=0)
        return [self._numbered((made, i), deepest) for i in results]

    def in_scan(self, eqn: Any, origins: Sequence[Origin], levels: int) -> list[Origin]:
        """Returns the origins of the arguments of a scan's body; the scan is inside these loops."""
        body, _ = body_of(eqn.params["jaxpr"])
        consts, carried = scan_parts(eqn)
        inside = list(origins)
        for i in range(consts, len(inside)):
            if i >= consts + carried:
                inside[i] = self._numbered(("scan", origins[i].made), levels + 1)
            elif body.outvars[i - consts] is not body.invars[i]:
                inside[i] = self.new(levels + 1)
        return inside

    def _numbered(self, made: Any, levels: int) -> Origin:
        return Origin(self._numbers.setdefault(made, len(self._numbers)), levels)


def _setting(value: Any) -> Any:
    """Returns what is equal for equal parameters of an equation; programs are themselves alone."""
    leaves = jax.tree.leaves(value, is_leaf=_is_program)
    return tuple(id(leaf) if _is_program(leaf) else str(leaf) for leaf in leaves)


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
