"""Joins the products that take a part of a parameter each: outputs of one layer, or a stack."""

from __future__ import annotations

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
    uses = {product.inputs: product.use for product in products}
    if not sliced:
        return axes, tuple(uses.values())
    axis, *others = sliced
    parts = [_part(product, axis, shape) for product in products]
    if _is_output(products, parts, others, shape):
        return _joined(axes, products, others, shape)
    layers: list[list[_Product]] = [[] for _ in range(shape[axis])]
    for product, part in zip(products, parts, strict=True):
        if part.size > 1 or part.indices is None:
            raise _different(axis)
        layers[part.indices[0]].append(product)
    if not all(layers):
        raise _different(axis)
    all_axes, all_uses = zip(*(_joined(axes, one, others, shape) for one in layers), strict=True)
    if len(set(all_axes)) > 1:
        raise _different(axis)
    inputs, outputs = all_axes[0]
    outer = [i for i in stack_axes(all_axes[0], len(shape)) if i < axis]
    stack = StackUse(all_uses, math.prod(shape[i] for i in outer))
    return MatrixAxes(inputs, tuple(i for i in outputs if i != axis)), (stack,)


def _is_output(
    products: Sequence[_Product], parts: Sequence[Part], others: Sequence[int], shape: Sequence[int]
) -> bool:
    """Whether an axis, of which each product takes a part, is one of outputs.

    It is where all inputs meet the same indices. Where products take ranges with inputs of their
    own it is no stack either: the inputs are then summed, as those of tied weights are.
    """
    if all(part.size > 1 for part in parts):
        return True
    if any(part.size == 1 and part.indices is None for part in parts):
        changing = any(
            part.indices is None and part.in_loop and product.levels > 0
            for product, part in zip(products, parts, strict=True)
        )
        return len({product.inputs for product in products}) == 1 and not changing
    met: dict[Any, set[int]] = {}
    for product, part in zip(products, parts, strict=True):
        place = tuple(_part(product, axis, shape) for axis in others)
        met.setdefault((product.inputs, place), set()).update(part.indices or ())
    return len(set(map(frozenset, met.values()))) == 1


def _different(axis: int) -> NotUnderstoodError:
    return NotUnderstoodError(
        f"a part of axis {axis} is used at a time, with different inputs; jax.lax.scan over that"
        " axis tells them apart"
    )


def _part(product: _Product, axis: int, shape: Sequence[int]) -> Part:
    """Returns what a product takes of an axis."""
    whole = Part(axis, range(shape[axis]), shape[axis], in_loop=False)
    return next((part for part in product.parts if part.axis == axis), whole)
