"""Joins the products that take a part of a parameter each: outputs of one layer, or a stack."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tritia.layerwise._matrices import MatrixAxes, stack_axes
from tritia.layerwise._recording import Record
from tritia.layerwise._uses import StackUse, Use
from tritia.layerwise._views import NotUnderstoodError, Part


class _Product(NamedTuple):
    """A product with a slice of a parameter.

    Attributes:
      inputs: equal for products of the same inputs.
      levels: the number of loops of which each pass has inputs of its own.
      use: what is recorded of the inputs.
      parts: of the axes that are not there whole.
    """

    inputs: Any
    levels: int
    use: Use
    parts: tuple[Part, ...]


def joined(records: Sequence[Record], shape: Sequence[int]) -> list[tuple[MatrixAxes, Use]]:
    """Returns the uses of a parameter of this shape, and the axes that each sums over.

    Raises:
      NotUnderstoodError: products with different inputs take parts of it that are no stack.
    """
    by_axes: dict[MatrixAxes, list[_Product]] = {}
    for record in records:
        by_axes.setdefault(record.axes, []).extend(
            _Product(record.inputs, record.origin.levels, record.use, parts)
            for parts in record.slices
        )
    found = []
    for axes, products in by_axes.items():
        axes, uses = _joined(axes, products, _sliced(products), shape)
        found += [(axes, use) for use in uses]
    for axis in _sliced([product for some in by_axes.values() for product in some]):
        if len({axis in axes.outputs for axes, _ in found if axis not in axes.inputs}) > 1:
            raise _different(axis)
    return found


def _sliced(products: Sequence[_Product]) -> list[int]:
    """Returns the axes of which a product takes a part."""
    return sorted({part.axis for product in products for part in product.parts})


def _joined(
    axes: MatrixAxes, products: Sequence[_Product], sliced: Sequence[int], shape: Sequence[int]
) -> tuple[MatrixAxes, tuple[Use, ...]]:
    """Returns the axes and the uses of products that differ in what they take of sliced axes."""
    _check_loops(products, sliced)
    uses = {product.inputs: product.use for product in products}
    if not sliced or len(uses) == 1:
        return axes, tuple(uses.values())
    axis, *others = sliced
    if _is_output(products, sliced, shape):
        return _joined(axes, products, others, shape)
    layers: list[list[_Product]] = [[] for _ in range(shape[axis])]
    for product in products:
        index, *more = _indices(product, axis, shape)
        if more:
            raise _different(axis)
        layers[index].append(product)
    if not all(layers):
        raise _different(axis)
    all_axes, all_uses = zip(*(_joined(axes, one, others, shape) for one in layers), strict=True)
    if len(set(all_axes)) > 1:
        raise _different(axis)
    inputs, outputs = all_axes[0]
    outer = [i for i in stack_axes(all_axes[0], len(shape)) if i < axis]
    stack = StackUse(all_uses, math.prod(shape[i] for i in outer))
    return MatrixAxes(inputs, tuple(i for i in outputs if i != axis)), (stack,)


def _different(axis: int) -> NotUnderstoodError:
    return NotUnderstoodError(
        f"a part of axis {axis} is used at a time, with different inputs; jax.lax.scan over that"
        " axis tells them apart"
    )


def _check_loops(products: Sequence[_Product], sliced: Sequence[int]) -> None:
    """Checks that the inputs do not change while a loop takes one part after another.

    Raises:
      NotUnderstoodError: they do, or there are several and it is not known which part each takes.
    """
    several = len({product.inputs for product in products}) > 1
    for product in products:
        for part in product.parts:
            changing = product.levels >= part.levels > 0
            if part.axis in sliced and part.indices is None and (several or changing):
                raise _different(part.axis)


def _indices(product: _Product, axis: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the indices of an axis that a product takes."""
    for part in product.parts:
        if part.axis == axis and part.indices is not None:
            return part.indices
    return tuple(range(shape[axis]))


def _is_output(products: Sequence[_Product], sliced: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether all inputs meet the same indices of the first of the sliced axes."""
    blocks = [_blocks([_indices(product, axis, shape) for product in products]) for axis in sliced]
    met: dict[Any, set[Any]] = {}
    for product, first, *others in zip(products, *blocks, strict=True):
        for place in itertools.product(*others):
            met.setdefault((product.inputs, place), set()).update(first)
    return len(set(map(frozenset, met.values()))) == 1


def _blocks(some: Sequence[tuple[int, ...]]) -> list[frozenset[Any]]:
    """Returns each of some sets of indices as a set of blocks, which they have in common or not."""
    kinds = {indices: frozenset(indices) for indices in some}
    of_index: dict[int, tuple[bool, ...]] = {}
    for index in frozenset().union(*kinds.values()):
        of_index[index] = tuple(index in kind for kind in kinds.values())
    found = {indices: frozenset(of_index[i] for i in indices) for indices in kinds}
    return [found[indices] for indices in some]
