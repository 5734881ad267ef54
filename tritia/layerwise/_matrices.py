"""Which axes of a parameter are the rows of a matrix, and which are its columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tritia._names import leaf_names
from tritia._trees import compute_dtype


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


Axes = Mapping[str, MatrixAxes | None] | None
"""The axes of leaves by their names; None, and for each name that is missing, the usual ones."""


def check_axes(axes: Any) -> None:
    """Checks an argument `axes`.

    Raises:
      TypeError: it is no mapping from names to `MatrixAxes` or None.
    """
    mapping = {} if axes is None else axes
    if not isinstance(mapping, Mapping) or not all(
        isinstance(name, str) and (one is None or isinstance(one, MatrixAxes))
        for name, one in mapping.items()
    ):
        raise TypeError(
            "axes must be a dict from names of leaves, such as 'layers/0/kernel', to"
            f" tritia.MatrixAxes or None; got {axes!r}."
        )


def axes_of(axes: Axes, params: Any) -> list[MatrixAxes]:
    """Returns the axes of each leaf of params, none of them negative.

    Where nothing is said the last axis holds the outputs and all others the inputs, as Flax lays
    out dense and convolution kernels; a vector is a matrix of one row.

    Raises:
      ValueError: `axes` names an axis twice, or one that a leaf lacks.
    """
    given = axes or {}
    return [
        _checked(given.get(name), name, leaf)
        for name, leaf in zip(leaf_names(params), jax.tree.leaves(params), strict=True)
    ]


def _default(ndim: int) -> MatrixAxes:
    return MatrixAxes(tuple(range(ndim - 1)), tuple(range(ndim))[-1:])


def _checked(axes: MatrixAxes | None, name: str, leaf: Any) -> MatrixAxes:
    ndim = jnp.ndim(leaf)
    if axes is None:
        return _default(ndim)
    named = [*axes.inputs, *axes.outputs]
    known = all(-ndim <= axis < ndim for axis in named)
    if not known or len({axis % ndim for axis in named}) < len(named):
        raise ValueError(
            f"axes has {axes} for {name!r}, of shape {tuple(jnp.shape(leaf))}; it may name each"
            " axis of the array once."
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
    return transposed.transpose([order.index(axis) for axis in range(len(shape))])


def to_tall(axes: MatrixAxes, array: jax.Array) -> jax.Array:
    """Returns an array as matrices (count, d, m) with d >= m, transposed where that takes it.

    They have the dtype in which to compute, float32 or wider.
    """
    matrices = to_matrices(axes, array).astype(compute_dtype(array))
    return matrices if matrices.shape[-2] >= matrices.shape[-1] else matrices.mT


def from_tall(axes: MatrixAxes, matrices: jax.Array, like: jax.Array) -> jax.Array:
    """Returns the array, of the shape and the dtype of `like`, whose matrices `to_tall` gives."""
    _, rows, columns = shape_of(axes, like.shape)
    matrices = matrices if rows >= columns else matrices.mT
    return from_matrices(axes, matrices, like.shape).astype(like.dtype)


def largest_entry(matrices: jax.Array) -> jax.Array:
    """Returns the largest magnitude of each matrix, (count, 1, 1), and 1 for one of zeros.

    Squares of what is divided by it neither overflow nor vanish.
    """
    largest = jnp.max(jnp.abs(matrices), axis=(-2, -1), keepdims=True, initial=0)
    return jnp.where(largest > 0, largest, 1)


def sum_of_squares(array: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Returns sums of squared magnitudes, with the axes kept."""
    return jnp.sum(jnp.real(array * jnp.conj(array)), axis=axis, keepdims=True)


def with_orthogonal_norm(matrices: jax.Array) -> jax.Array:
    """Returns matrices (count, d, m) at the norm of an orthogonal one, sqrt(m); zeros stay zeros.

    The entries may not be so large or small that their squares overflow or vanish.
    """
    norm = jnp.sqrt(sum_of_squares(matrices, axis=(-2, -1)))
    root = jnp.sqrt(jnp.asarray(matrices.shape[-1], norm.dtype))
    return matrices * jnp.where(norm > 0, root / jnp.where(norm > 0, norm, 1), 0)
