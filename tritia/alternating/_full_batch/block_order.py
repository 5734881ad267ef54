r"""The orders in which a block pass visits the blocks.

A visit lowers the objective over one block while all others are held, or leaves it as it is: then
so does a pass, in whatever order it visits them. The order decides how far the targets come in one
pass, and which visits do not read each other and may run at the same time:

* "red_black": with :math:`B_l = (z_l, W_l, b_l, a_{l-1})` only the coupling of a_l and h(z_l) joins
  :math:`B_l` to :math:`B_{l+1}`, so every second one is independent of the others of its colour.
* "pipeline": given z and a, the layers' regressions share no variable. The way down before them
  holds the kernels, so that each row goes it alone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

BlockOrder = Literal["backward", "forward", "symmetric", "red_black", "pipeline"]
BLOCK_ORDERS: tuple[BlockOrder, ...] = get_args(BlockOrder)


class Visit(NamedTuple):
    """A block to update.

    Attributes:
      block: which of a layer's blocks; its kernel comes with its bias.
      layer: from 0, the first, to L - 1; the activations of a layer are its outputs, which the last
        layer has not.
    """

    block: Literal["pre_activation", "kernel", "activation"]
    layer: int


def visits(order: BlockOrder, depth: int) -> tuple[Visit, ...]:
    """Returns the visits of one block pass.

    Args:
      order: its name.
      depth: L, the number of layers.
    """
    down = tuple(reversed(range(depth)))
    backward = sum(map(block_visits, down), ())
    forward = sum((_layer_and_outputs(layer, depth) for layer in range(depth)), ())
    if order == "backward":
        return backward
    if order == "forward":
        return forward
    if order == "symmetric":
        return backward + forward
    if order == "red_black":
        return sum(map(block_visits, down[::2] + down[1::2]), ())
    rows = tuple(visit for visit in backward if visit.block != "kernel")
    return rows + tuple(Visit("kernel", layer) for layer in range(depth))


def block_visits(layer: int) -> tuple[Visit, ...]:
    """Returns the visits of B_l: a layer and, to meet its new kernel, what enters it."""
    own = (Visit("pre_activation", layer), Visit("kernel", layer))
    return (*own, Visit("activation", layer - 1)) if layer else own


def _layer_and_outputs(layer: int, depth: int) -> tuple[Visit, ...]:
    """A layer and the activations that leave it."""
    own = (Visit("kernel", layer), Visit("pre_activation", layer))
    return (*own, Visit("activation", layer)) if layer < depth - 1 else own
