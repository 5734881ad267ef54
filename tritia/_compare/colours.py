"""One colour for each optimizer, in every picture and from one run to the next."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal, NamedTuple

from tritia._compare.optimizers import USUAL

# Okabe and Ito's colours, told apart by most colour-blind readers, without the yellow, which is too
# pale for lines; then some of Tol's that keep away from them.
_COLOURS = (
    "#000000",
    "#8A8A8A",
    "#E69F00",
    "#56B4E9",
    "#0072B2",
    "#009E73",
    "#882255",
    "#D55E00",
    "#CC79A7",
    "#999933",
    "#5B3FD0",
    "#8C564B",
)
_DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")
_MARKERS = "osD^vP*Xhp<>"

Dash = Literal["solid", "dash", "dot", "dashdot"]


class Style(NamedTuple):
    """How an optimizer is drawn.

    Attributes:
      colour: hexadecimal, such as "#0072B2".
      dash: of its lines.
      marker: Matplotlib's.
    """

    colour: str
    dash: Dash
    marker: str


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each optimizer.

    Args:
      names: of the optimizers.

    Returns:
      Styles by name. Up to twelve have colours of their own, whichever they are; after these the
      colours return with another dash.
    """
    names = list(names)
    free = [
        Style(colour, dash, marker)
        for dash, (colour, marker) in itertools.product(
            _DASHES, zip(_COLOURS, _MARKERS, strict=True)
        )
    ]
    found = {name: free[USUAL.index(name)] for name in names if name in USUAL}
    usual = len(USUAL)
    # The usual ones' colours last: a run may be extended by them.
    spare = [*free[usual : len(_COLOURS)], *free[:usual], *free[len(_COLOURS) :]]
    others = itertools.cycle(style for style in spare if style not in found.values())
    return {name: found[name] if name in found else next(others) for name in names}
