"""What goes into the matrix products with a parameter, and its Gram matrix."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tritia._trees import compute_dtype
from tritia.layerwise._matrices import MatrixAxes
from tritia.layerwise._views import NotUnderstoodError, View


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProductUse:
    """The inputs of a matrix product.

    Attributes:
      array: (*loops, *stack, rows, inputs).
      levels: for each loop the axis of the parameter over which it runs, or None.
      stack: the axes of the parameter that the product treats as a batch.
    """

    array: jax.Array
    levels: tuple[int | None, ...] = dataclasses.field(metadata={"static": True})
    stack: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def gram(self, diagonal: bool) -> jax.Array:
        """Returns the mean of a^T a over the rows, or its diagonal, for each matrix in order."""
        array = self.array.astype(compute_dtype(self.array))
        kept = [i for i, axis in enumerate(self.levels) if axis is not None]
        shared = [i for i, axis in enumerate(self.levels) if axis is None]
        stack = range(len(self.levels), array.ndim - 2)
        order = _sorted((*(self.levels[i] for i in kept), *self.stack), [*kept, *stack])
        array = array.transpose([*order, *shared, array.ndim - 2, array.ndim - 1])
        count = math.prod(array.shape[: len(order)])
        rows = array.reshape(count, -1, array.shape[-1])
        if diagonal:
            return jnp.sum(rows * rows, axis=1) / max(rows.shape[1], 1)
        return rows.mT @ rows / max(rows.shape[1], 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvolutionUse:
    """The inputs of a convolution.

    Attributes:
      array: (*loops, *the convolution's left operand).
      levels: for each loop the axis of the parameter over which it runs, or None.
      kernel: the shape of the kernel, as the convolution has it.
      order: the axes of the kernel that are summed over, as the parameter has them in order.
      settings: the convolution's parameters, as pairs.
    """

    array: jax.Array
    levels: tuple[int | None, ...] = dataclasses.field(metadata={"static": True})
    kernel: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    order: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    settings: tuple[tuple[str, Any], ...] = dataclasses.field(metadata={"static": True})

    def gram(self, diagonal: bool) -> jax.Array:
        """Returns the mean of p^T p over the patches p, or its diagonal, for each matrix."""
        array = self.array.astype(compute_dtype(self.array))
        kept = [i for i, axis in enumerate(self.levels) if axis is not None]
        shared = [i for i, axis in enumerate(self.levels) if axis is None]
        order = _sorted([self.levels[i] for i in kept], kept)
        rest = range(len(self.levels), array.ndim)
        array = array.transpose([*order, *shared, *rest])
        sizes = array.shape[len(order) : len(self.levels)]
        count, times = math.prod(array.shape[: len(order)]), math.prod(sizes)
        array = array.reshape(count, times, *array.shape[len(self.levels) :])

        def mean(arrays: jax.Array) -> jax.Array:
            return jnp.mean(jax.lax.map(lambda one: self._gram(one, diagonal), arrays), axis=0)

        return jax.lax.map(mean, array)

    def _gram(self, inputs: jax.Array, diagonal: bool) -> jax.Array:
        """Gram matrix of the patches of one convolution, column by column.

        A column of p^T p is the gradient of a convolution by its kernel where the cotangent is that
        entry of every patch; the entry is a convolution by a kernel with a single one. Hence the
        patches are never there at once, but as many of their entries as there are channels.
        """
        settings = dict(self.settings)
        spec = settings["dimension_numbers"]
        out_axis, in_axis, *spatial = spec.rhs_spec
        groups = settings["feature_group_count"]
        channels = self.kernel[in_axis]
        window = [self.kernel[axis] for axis in spatial]

        def convolve(kernel: jax.Array) -> jax.Array:  # (*window, channels, groups * channels)
            layout = [0] * kernel.ndim
            for position, axis in enumerate((*spatial, in_axis, out_axis)):
                layout[axis] = position
            return jax.lax.conv_general_dilated(inputs, kernel.transpose(layout), **settings)

        eye = jnp.tile(jnp.eye(channels, dtype=inputs.dtype), (1, groups))
        zeros = jnp.zeros((math.prod(window), *eye.shape), inputs.dtype)

        def block(offset: jax.Array) -> jax.Array:
            kernel = zeros.at[offset].set(eye).reshape(*window, *eye.shape)
            entries, pull = jax.vjp(convolve, kernel)
            n = entries.size // (groups * channels)
            if diagonal:
                channel = spec.out_spec[1]
                squares = jnp.sum(entries**2, [i for i in range(entries.ndim) if i != channel])
                return squares.reshape(groups, channels).sum(0) / (groups * n)
            (columns,) = pull(entries)
            columns = columns.reshape(-1, channels, groups, channels).sum(2)
            return columns.transpose(2, 0, 1) / (groups * n)  # (channels, window, channels)

        blocks = jax.lax.map(block, jnp.arange(len(zeros)))
        # In the order of the parameter's own axes.
        place = {axis: position for position, axis in enumerate((*spatial, in_axis))}
        order = [place[axis] for axis in self.order]
        shape = (*window, channels)
        size = math.prod(shape)
        if diagonal:
            return blocks.reshape(shape).transpose(order).reshape(size)
        both = [*order, *(len(shape) + axis for axis in order)]
        return blocks.reshape(*shape, *shape).transpose(both).reshape(size, size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StackUse:
    """The inputs of a stack of layers, of which each product takes one.

    Attributes:
      layers: the uses of each layer, in the order of the axis that counts them.
      outer: the number of matrices that the axes before that one count.
    """

    layers: tuple[tuple[Use, ...], ...]
    outer: int = dataclasses.field(metadata={"static": True})

    def gram(self, diagonal: bool) -> jax.Array:
        """Returns the Gram matrices of the layers, or their diagonals, summed over the uses."""
        grams = [_summed(uses, diagonal) for uses in self.layers]
        size = grams[0].shape[1:]
        split = [gram.reshape(self.outer, -1, *size) for gram in grams]
        return jnp.stack(split, axis=1).reshape(-1, *size)


Use = ProductUse | ConvolutionUse | StackUse


def _summed(uses: Sequence[Use], diagonal: bool) -> jax.Array:
    first, *more = (use.gram(diagonal) for use in uses)
    return sum(more, first)


def _sorted(axes: Sequence[Any], items: Sequence[int]) -> list[int]:
    """Returns items in the order of the axes that they belong to."""
    return [item for _, item in sorted(zip(axes, items, strict=True))]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerInputs:
    """What went into the matrix products with one parameter.

    Attributes:
      uses: one for each product: several where the weights are tied.
      axes: which axes of the parameter the products sum over.
    """

    uses: tuple[Use, ...]
    axes: MatrixAxes = dataclasses.field(metadata={"static": True})

    def gram(self, diagonal: bool = False) -> jax.Array:
        r"""Returns the Gram matrices of the inputs.

        Args:
          diagonal: whether only their diagonals are wanted.

        Returns:
          :math:`a^T a / n` for each matrix that the parameter holds, (matrices, d, d) or
          (matrices, d); summed over the uses.
        """
        return _summed(self.uses, diagonal)


def axes_of_use(view: View, inputs: set[int], stack: set[int]) -> MatrixAxes:
    """Returns the parameter as a matrix in a product that sums over these axes.

    Raises:
      NotUnderstoodError: one of them is not there whole.
    """
    for part in view.parts:
        if part.axis in inputs:
            raise NotUnderstoodError(f"a product sums over a part of axis {part.axis} alone")
    outputs = [i for i in range(len(view.shape)) if i not in inputs and i not in stack]
    return MatrixAxes(tuple(sorted(inputs)), tuple(outputs))


def product_use(
    view: View,
    other: jax.Array,
    view_dims: tuple[Sequence[int], Sequence[int]],
    other_dims: tuple[Sequence[int], Sequence[int]],
) -> tuple[MatrixAxes, ProductUse]:
    """Returns what a product says of its parameter.

    Args:
      view: the parameter.
      other: the other operand.
      view_dims: the dimensions of the parameter that are summed over, and those of the batch.
      other_dims: those of the other operand that they are paired with.

    Raises:
      NotUnderstoodError: the product sums over a part of an axis, or over a repeated one.
    """
    roles: dict[int, tuple[str, tuple]] = {}
    for role, ours, theirs in zip(("input", "stack"), view_dims, other_dims, strict=True):
        for dim, theirs_dim in zip(ours, theirs, strict=True):
            roles[theirs_dim] = (role, view.axes[dim])
    factors = []
    for dim, size in enumerate(other.shape):
        role, parts = roles.get(dim, ("row", ()))
        named = [(role if part.axis is not None else "row", part) for part in parts]
        if role == "input" and any(part.axis is None and part.size > 1 for part in parts):
            raise NotUnderstoodError("a product sums over an axis along which it is repeated")
        factors += named if parts else [("row", (None, 1, size, False))]
    used = {
        role: {part[0] for which, part in factors if which == role} for role in ("input", "stack")
    }
    for axis in used["input"] | used["stack"]:
        pieces = [part for which, part in factors if which != "row" and part[0] == axis]
        entire = math.prod(part[2] for part in pieces) == view.shape[axis]
        mixed = axis in used["input"] and axis in used["stack"]
        if mixed or not entire or any(part[3] for part in pieces):
            raise NotUnderstoodError(f"a product sums over a part of axis {axis} alone")
    array = jax.lax.stop_gradient(other).reshape([part[2] for _, part in factors])
    position = {
        role: sorted(
            (i for i, (which, _) in enumerate(factors) if which == role),
            key=(lambda i: factors[i][1][:2]) if role != "row" else (lambda i: i),
        )
        for role in ("stack", "row", "input")
    }
    stack = tuple(sorted(used["stack"]))
    array = array.transpose([*position["stack"], *position["row"], *position["input"]])
    inputs = math.prod(view.shape[axis] for axis in used["input"])
    rows = math.prod(factors[i][1][2] for i in position["row"])
    array = array.reshape(*(view.shape[axis] for axis in stack), rows, inputs)
    scanned = {axis for axis in view.levels if axis is not None}
    axes = axes_of_use(view, used["input"], used["stack"] | scanned)
    return axes, ProductUse(array, view.levels, stack)


def convolution_use(
    view: View, other: jax.Array, shape: tuple[int, ...], settings: dict[str, Any]
) -> tuple[MatrixAxes, ConvolutionUse]:
    """Returns what a convolution says of its kernel.

    Args:
      view: the kernel, the right operand.
      other: the left operand.
      shape: of the right operand.
      settings: the parameters of the convolution.

    Raises:
      NotUnderstoodError: an axis of the kernel is no axis of the parameter, or the batch is
        grouped.
    """
    if settings["batch_group_count"] != 1:
        raise NotUnderstoodError("a convolution groups its batch")
    axes = []
    for factors, size in zip(view.axes, shape, strict=True):
        named = [factor for factor in factors if factor.axis is not None]
        if size > 1 and (
            len(named) != 1 or named[0].partial or view.shape[named[0].axis or 0] != size
        ):
            raise NotUnderstoodError("an axis of a convolution's kernel is no axis of it")
        axes.append(named[0].axis if named else None)
    _, in_dim, *spatial = settings["dimension_numbers"].rhs_spec
    summed = sorted((*spatial, in_dim), key=lambda dim: (axes[dim] is None, axes[dim] or 0))
    inputs = {axes[dim] for dim in summed if axes[dim] is not None}
    scanned = {axis for axis in view.levels if axis is not None}
    kept = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers")
    pairs = tuple((name, settings[name]) for name in (*kept, "feature_group_count"))
    use = ConvolutionUse(
        jax.lax.stop_gradient(other), view.levels, tuple(shape), tuple(summed), pairs
    )
    return axes_of_use(view, inputs, scanned), use
