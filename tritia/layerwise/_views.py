"""What is known of a value in a traced loss: that it is a parameter rearranged, or made of some.

The axes of a parameter are followed through transposes and reshapes as products of factors: an axis
of 12 that is reshaped to (3, 4) is two factors of it.
"""

from __future__ import annotations

import dataclasses
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


class Part(NamedTuple):
    """What slices have left of an axis of a parameter.

    Attributes:
      axis: of the parameter.
      indices: those of the axis that are left, in order; None where they are not known.
      size: how many are left.
      in_loop: whether indices that are not known may change from pass to pass of a loop.
    """

    axis: int
    indices: Sequence[int] | None
    size: int
    in_loop: bool


class View(NamedTuple):
    """A parameter whose axes may have been permuted, merged, split, or sliced.

    Attributes:
      leaf: the position of the parameter among the leaves of params.
      shape: of the parameter.
      axes: the factors that each axis of the value is the product of.
      levels: for each loop that the value lies in, the axis of the parameter over which the loop
        runs, or None where every pass sees the same.
      parts: of the axes that are not there whole, in order.
    """

    leaf: int
    shape: tuple[int, ...]
    axes: tuple[tuple[Factor, ...], ...]
    levels: tuple[int | None, ...] = ()
    parts: tuple[Part, ...] = ()


class Derived(NamedTuple):
    """A value made from parameters alone, in another way than a `View`.

    Attributes:
      leaves: the positions of those with two axes or more.
      form: says which axes of the value are made from axes of a parameter; None where there are no
        such leaves.
    """

    leaves: frozenset[int]
    form: View | None = None


class Constant(NamedTuple):
    """A value that depends on no argument."""


@dataclasses.dataclass(frozen=True)
class Data:
    """A value that depends on the data: an activation.

    Attributes:
      leaves: the parameters with two axes or more that were combined with data by element since
        the last product: it may be a kernel under a mask.
      form: which axes of the value are those of a parameter; None where there are no such leaves.
    """

    leaves: frozenset[int] = frozenset()
    form: View | None = None


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


def within(kind: Kind) -> tuple[frozenset[int], View | None]:
    """Returns the parameters of two axes or more that a value holds, and where their axes are."""
    if isinstance(kind, Data):
        return kind.leaves, kind.form
    leaves = leaves_of(kind)
    form = kind if isinstance(kind, View) else getattr(kind, "form", None)
    return leaves, form if leaves else None


def is_of_parameter(factors: Sequence[Factor]) -> bool:
    """Whether an axis is, in part at least, one of a parameter."""
    return any(factor.axis is not None for factor in factors)


def is_broadcast(form: View | None) -> bool:
    """Whether the value has axes that its parameter lacks, such as the rows of a batch."""
    return form is not None and not all(map(is_of_parameter, form.axes))


def is_kernel(form: View | None, summed: Sequence[int], batch: Sequence[int]) -> bool:
    """Whether a product sums over an axis of the parameter, and another one is an output."""
    if form is None:
        return False
    free = [i for i in range(len(form.axes)) if i not in summed and i not in batch]
    return all(any(is_of_parameter(form.axes[i]) for i in some) for some in (summed, free))


def combined(kinds: Sequence[Kind], shape: Sequence[int]) -> Kind:
    """Returns the kind of a value that is computed from others in a way that is not followed."""
    held = [within(kind) for kind in kinds]
    fresh = whole(-1, shape)
    if any(isinstance(kind, Data) for kind in kinds):
        # What a parameter was spread over is an activation, such as prompts before each text.
        leaves = frozenset().union(*(some for some, form in held if not is_broadcast(form)))
        return Data(leaves, fresh) if leaves and shape else Data()
    if all(isinstance(kind, Constant) for kind in kinds):
        return Constant()
    leaves = frozenset().union(*(some for some, _ in held))
    return Derived(leaves, fresh if leaves else None)


def spreads_to(own: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether an operation by element takes an operand of this shape to one of that shape."""
    same = len(own) == len(shape) and all(
        size in (1, target) for size, target in zip(own, shape, strict=True)
    )
    return same or not own


def by_element(
    kinds: Sequence[Kind], shapes: Sequence[Sequence[int]], shape: Sequence[int], *, sums: bool
) -> Kind:
    """Returns the kind of what is computed by element.

    Args:
      kinds: of the operands.
      shapes: of the operands: that of the result, with ones in it under `jax.vmap`, or of a scalar.
      shape: of the result.
      sums: whether it is a sum. A parameter spread over data and added to them is a bias.
    """
    result = combined(kinds, shape)
    if isinstance(result, Constant) or not shape:
        return result
    is_data = isinstance(result, Data)
    held = []
    for kind, own in zip(kinds, shapes, strict=True):
        leaves, form = within(kind)
        if form is not None and own:
            form = broadcast(form, shape, range(len(shape)))
        bias = is_data and sums and not isinstance(kind, Data) and is_broadcast(form)
        if leaves and form is not None and not bias and (own or not is_data):
            held.append((leaves, form if own else None))
    leaves = frozenset().union(*(some for some, _ in held))
    forms = [form for _, form in held if form is not None]
    form = min(forms, key=is_broadcast, default=None)
    if is_data:
        return Data(leaves, form) if form is not None else Data()
    return result if form is None else Derived(leaves, form)


def with_form(kind: Kind, form: View) -> Kind:
    """Returns a value of which the axes have moved."""
    if isinstance(kind, Data):
        return Data(kind.leaves, form) if form.axes else Data()
    return Derived(leaves_of(kind), form)


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


def taken(view: View, dimensions: Sequence[int], rank: int, places: Sequence[int]) -> View:
    """Follows a lookup by data: these dimensions of the value, at these places of the result."""
    axes: list[tuple[Factor, ...]] = [()] * rank
    for dimension, place in zip(dimensions, places, strict=True):
        axes[place] = view.axes[dimension]
    return view._replace(axes=tuple(axes))


def sliced(view: View, shape: Sequence[int], kept: Sequence[slice | None]) -> View:
    """Follows a slice of this shape.

    Args:
      view: what is sliced.
      shape: of the result.
      kept: what is kept of each axis of the value; None where it is not known.

    Raises:
      NotUnderstoodError: the axis of which a part is taken is made of several of the parameter.
    """
    axes = []
    parts = {part.axis: part for part in view.parts}
    for factors, size, some in zip(view.axes, shape, kept, strict=True):
        if math.prod(factor.size for factor in factors) != size:
            named = {factor.axis for factor in factors if factor.axis is not None}
            if len(named) != 1:
                raise NotUnderstoodError("a part of several axes at once is used")
            axis = named.pop()
            before = parts[axis].indices if axis in parts else range(view.shape[axis])
            indices = _remaining(before, view.shape[axis], factors, some)
            in_loop = bool(view.levels) or (axis in parts and parts[axis].in_loop)
            parts[axis] = Part(axis, indices, size, in_loop)
            factors = (Factor(axis, 1, size, partial=True),)
        axes.append(factors)
    return view._replace(axes=tuple(axes), parts=tuple(sorted(parts.values())))


def _remaining(
    indices: Sequence[int] | None, size: int, factors: Sequence[Factor], kept: slice | None
) -> Sequence[int] | None:
    """Returns which indices of an axis of this size are left after a slice of factors of it."""
    if indices is None or kept is None or len(factors) != 1:
        return None
    (factor,) = factors
    if factor.size == len(indices):
        return indices[kept]
    if factor.partial:
        return None
    digits = range(factor.size)[kept]
    stride = size // (factor.before * factor.size)
    return tuple(index for index in indices if index // stride % factor.size in digits)


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
