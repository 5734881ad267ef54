"""Which axes of a parameter are the rows of a matrix, and which are its columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class MatrixAxes(NamedTuple):
    """How an array is read as a matrix, or as a stack of matrices.

    Axes may be negative, as in NumPy. An axis in neither field counts matrices: an array of shape
    (layers, inputs, heads, width) with inputs (1,) and outputs (2, 3) is one matrix for each layer,
    of shape (inputs, heads * width).

    Attributes:
      inputs: the axes that a product with the layer's inputs sums over; the rows.
      outputs: the axes of the layer's outputs; the columns.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


Axes = Any
"""A pytree of `MatrixAxes` that is a prefix of params, a function from params to one, or None."""


def axes_of(axes: Axes, params: Any) -> list[MatrixAxes]:
    """Returns the axes of each leaf of params, none of them negative.

    Where nothing is said the last axis holds the outputs and all others the inputs, as Flax lays
    out dense and convolution kernels; a vector is a matrix of one row.

    Raises:
      ValueError: `axes` is no prefix of params, or names an axis twice or one that a leaf lacks.
      TypeError: `axes` holds something else than `MatrixAxes` or None.
    """
    leaves = jax.tree.leaves(params)
    given = axes(params) if callable(axes) else axes
    if given is None:
        return [_default(jnp.ndim(leaf)) for leaf in leaves]
    try:
        each = jax.tree.leaves(
            jax.tree.map(
                lambda one, part: [one] * len(jax.tree.leaves(part)),
                given,
                params,
                is_leaf=_is_axes,
            ),
            is_leaf=_is_axes,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            "axes must have the structure of params, or that of its upper part, with a MatrixAxes"
            f" or None at each end: {error}"
        ) from error
    return [_checked(one, leaf) for one, leaf in zip(each, leaves, strict=True)]


def _is_axes(node: Any) -> bool:
    return node is None or isinstance(node, MatrixAxes)


def _default(ndim: int) -> MatrixAxes:
    return MatrixAxes(tuple(range(ndim - 1)), tuple(range(ndim))[-1:])


def _checked(axes: Any, leaf: Any) -> MatrixAxes:
    ndim = jnp.ndim(leaf)
    if axes is None:
        return _default(ndim)
    if not isinstance(axes, MatrixAxes):
        raise TypeError(f"axes must hold tritia.MatrixAxes or None; got {axes!r}.")
    named = [*axes.inputs, *axes.outputs]
    if any(not -ndim <= axis < ndim for axis in named) or len({a % ndim for a in named}) < len(
        named
    ):
        raise ValueError(
            f"axes has {axes} for an array of shape {tuple(jnp.shape(leaf))}; each axis of the"
            " array may be named once."
        )
    return MatrixAxes(*(tuple(axis % ndim for axis in part) for part in axes))


def stack_axes(axes: MatrixAxes, ndim: int) -> tuple[int, ...]:
    """Returns the axes of an array that count matrices."""
    return tuple(i for i in range(ndim) if i not in (*axes.inputs, *axes.outputs))


def shape_of(axes: MatrixAxes, shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns how many matrices an array of this shape holds, and how large each is."""
    parts = (stack_axes(axes, len(shape)), *axes)
    count, rows, columns = (math.prod(shape[axis] for axis in part) for part in parts)
    return count, rows, columns


def to_matrices(axes: MatrixAxes, array: jax.Array) -> jax.Array:
    """Returns an array as matrices, (count, rows, columns)."""
    order = (*stack_axes(axes, array.ndim), *axes.inputs, *axes.outputs)
    return array.transpose(order).reshape(shape_of(axes, array.shape))


def from_matrices(axes: MatrixAxes, matrices: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Returns the array of this shape whose matrices `to_matrices` gives."""
    order = (*stack_axes(axes, len(shape)), *axes.inputs, *axes.outputs)
    transposed = matrices.reshape([shape[axis] for axis in order])
    back: Callable[[int], int] = order.index
    return transposed.transpose([back(axis) for axis in range(len(shape))])
