"""What is known of a value in a traced loss: that it is a parameter rearranged, or made of some.

The axes of a parameter are followed through transposes and reshapes as products of factors: an axis
of 12 that is reshaped to (3, 4) is two factors of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class NotUnderstoodError(Exception):
    """A parameter is used in a way from which its layer's inputs can't be told."""


class Factor(NamedTuple):
    """A factor of an axis of a parameter.

    Attributes:
      axis: of the parameter; None for one that a broadcast added.
      before: the product of the factors of this axis that lie before it.
      size: the length.
      partial: whether a slice has taken a part of it away.
    """

    axis: int | None
    before: int
    size: int
    partial: bool = False


class View(NamedTuple):
    """A parameter whose axes may have been permuted, merged, split, or sliced.

    Attributes:
      leaf: the position of the parameter among the leaves of params.
      shape: of the parameter.
      axes: the factors that each axis of the value is the product of.
      levels: for each loop that the value lies in, the axis of the parameter over which the loop
        runs, or None where every pass sees the same.
    """

    leaf: int
    shape: tuple[int, ...]
    axes: tuple[tuple[Factor, ...], ...]
    levels: tuple[int | None, ...] = ()


class Derived(NamedTuple):
    """A value made from parameters alone, in another way than a `View`.

    Attributes:
      leaves: the positions of those with two axes or more.
    """

    leaves: frozenset[int]


class Constant(NamedTuple):
    """A value that depends on no argument."""


class Data(NamedTuple):
    """A value that depends on the data: an activation."""


Kind = View | Derived | Constant | Data


def whole(leaf: int, shape: Sequence[int]) -> View:
    """Returns the view of a parameter as it is."""
    axes = tuple((Factor(axis, 1, size),) for axis, size in enumerate(shape))
    return View(leaf, tuple(shape), axes)


def leaves_of(kind: Kind) -> frozenset[int]:
    """Returns the parameters with two axes or more that a value is made of, if of them alone."""
    if isinstance(kind, View):
        return frozenset([kind.leaf] if len(kind.shape) > 1 else [])
    return kind.leaves if isinstance(kind, Derived) else frozenset()


def combined(kinds: Sequence[Kind]) -> Kind:
    """Returns the kind of a value that is computed from others in a way that is not followed."""
    if any(isinstance(kind, Data) for kind in kinds):
        return Data()
    if all(isinstance(kind, Constant) for kind in kinds):
        return Constant()
    return Derived(frozenset().union(*map(leaves_of, kinds)))


def either(one: Kind, other: Kind) -> Kind:
    """Returns the kind of a value that is one or the other."""
    return one if one == other else combined([one, other])


def transposed(view: View, permutation: Sequence[int]) -> View:
    """Follows `lax.transpose`."""
    return view._replace(axes=tuple(view.axes[axis] for axis in permutation))


def squeezed(view: View, dimensions: Sequence[int]) -> View:
    """Follows `lax.squeeze`."""
    return view._replace(axes=tuple(a for i, a in enumerate(view.axes) if i not in dimensions))


def broadcast(view: View, shape: Sequence[int], dimensions: Sequence[int]) -> View:
    """Follows `lax.broadcast_in_dim`."""
    axes = []
    for i, size in enumerate(shape):
        kept = view.axes[dimensions.index(i)] if i in dimensions else ()
        if math.prod(factor.size for factor in kept) != size:
            kept = (Factor(None, 1, size),)
        axes.append(kept)
    return view._replace(axes=tuple(axes))


def sliced(view: View, shape: Sequence[int]) -> View:
    """Follows a slice of this shape."""
    axes = []
    for factors, size in zip(view.axes, shape, strict=True):
        if math.prod(factor.size for factor in factors) != size:
            named = {factor.axis for factor in factors} - {None}
            if len(named) != 1:
                raise NotUnderstoodError("a part of several axes at once is used")
            factors = (Factor(named.pop(), 1, size, partial=True),)
        axes.append(factors)
    return view._replace(axes=tuple(axes))


def reshaped(view: View, shape: Sequence[int]) -> View:
    """Follows `lax.reshape`.

    Raises:
      NotUnderstoodError: the axes neither merge nor split evenly.
    """
    left = [factor for factors in view.axes for factor in factors if factor.size > 1]
    axes = []
    for size in shape:
        taken = []
        while size > 1:
            factor = left.pop(0)
            if size % factor.size == 0:
                taken.append(factor)
                size //= factor.size
            elif factor.size % size == 0:
                rest = factor.size // size
                taken.append(factor._replace(size=size))
                left.insert(0, factor._replace(before=factor.before * size, size=rest))
                size = 1
            else:
                raise NotUnderstoodError("a reshape mixes its axes")
        axes.append(tuple(taken))
    return view._replace(axes=tuple(axes))


def entered(view: View, axis: int | None) -> View:
    """Returns a view inside one more loop, which runs over this axis of the value, or over none."""
    if axis is None:
        return view._replace(levels=(*view.levels, None))
    factors, axes = view.axes[axis], view.axes[:axis] + view.axes[axis + 1 :]
    named = [factor for factor in factors if factor.axis is not None]
    if not named:
        return view._replace(axes=axes, levels=(*view.levels, None))
    (first, *more) = named
    if more or first.partial or first.size != view.shape[first.axis or 0]:
        raise NotUnderstoodError("a loop runs over a part of its axes")
    return view._replace(axes=axes, levels=(*view.levels, first.axis))
