"""Which values in a traced loss are the same, wherever they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from tritia.layerwise._propagation import UNCHANGED, body_of, scan_parts

MOVES = {"broadcast_in_dim", "reshape", "squeeze", "transpose"}


class Origin(NamedTuple):
    """Where a value comes from.

    Attributes:
      made: equal for values that are the same, up to a cast.
      levels: the number of loops of which each pass has its own.
    """

    made: Any
    levels: int


def new_origin(levels: int) -> Origin:
    """Returns the origin of a value that is no other, made inside this number of loops."""
    return Origin(object(), levels)


def origin_after(eqn: Any, origins: Sequence[Origin], levels: int) -> Origin:
    """Returns the origin of an equation's results, inside this number of loops."""
    name = eqn.primitive.name
    if len(origins) != 1:
        return new_origin(levels)
    if name in UNCHANGED and jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact):
        return origins[0]
    if name in MOVES:
        return Origin((name, str(eqn.params), origins[0].made), origins[0].levels)
    return new_origin(levels)


def origins_in_scan(eqn: Any, origins: Sequence[Origin], levels: int) -> list[Origin]:
    """Returns the origins of the arguments of a scan's body; the scan is inside these loops."""
    body, _ = body_of(eqn.params["jaxpr"])
    consts, carried = scan_parts(eqn)
    inside = list(origins)
    for i in range(consts, len(inside)):
        if i >= consts + carried:
            inside[i] = Origin(("scan", origins[i].made), levels + 1)
        elif body.outvars[i - consts] is not body.invars[i]:
            inside[i] = new_origin(levels + 1)
    return inside
