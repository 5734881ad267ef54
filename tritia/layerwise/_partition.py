"""Matrices to one optimizer, everything else to another."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import check_transform
from tritia._leaves import check_gradients, is_placeholder, passed_through, trained
from tritia._mesh import beside
from tritia._names import leaf_names
from tritia._trees import strong

IsMatrix = Callable[[str, Any], bool]
"""Of a leaf's name and the leaf, whether it is a matrix, or a stack of them."""

VECTORS = {"b", "bias", "offset", "scale"}
"""What a vector is called, by which stacks of them can be told from matrices."""


class MatrixPartitionState(NamedTuple):
    """State of `tritia.partition_matrices`.

    Attributes:
      matrices: of the optimizer of matrices, an `optax.MaskedState`; an `optax.MaskedNode` stands
        where params has another leaf.
      others: of the optimizer of all else, likewise.
    """

    matrices: Any
    others: Any


def is_matrix(name: str, leaf: Any) -> bool:
    """Tells the kernels of layers from vectors and embeddings, by shape and name.

    Args:
      name: of a leaf, such as "layers/0/kernel".
      leaf: an array.

    Returns:
      Whether it has two axes or more, is called neither bias, b, scale nor offset, and has nothing
      in its path called embedding or the like.

    Examples:
      >>> import jax.numpy as jnp
      >>> from tritia.layerwise import is_matrix
      >>> is_matrix("block/kernel", jnp.ones((2, 3))), is_matrix("embed/table", jnp.ones((2, 3)))
      (True, False)
    """
    last = name.rsplit("/", 1)[-1]
    return jnp.ndim(leaf) > 1 and last not in VECTORS and not re.search("embed", name, re.I)


_by_shape_and_name = is_matrix  # where an argument has its name


def partition_matrices(
    matrices: optax.GradientTransformation,
    others: optax.GradientTransformation,
    *,
    is_matrix: IsMatrix | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gives the kernels of layers to one optimizer, and vectors and embeddings to another.

    It is `optax.partition` with labels by shape and name, for the params of Flax NNX and Linen, of
    Equinox (``eqx.filter(model, eqx.is_inexact_array)``), Haiku, and any other tree.

    Each of the two sees `optax.MaskedNode` where params has a leaf of the other, and so does who
    maps over the copies of params in the state, for their shardings say: ``optax.tree.map_params(
    solver, function, state, params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))``.

    Args:
      matrices: the optimizer of kernels, such as one that ends with
        `tritia.scale_by_spectral_clipping`.
      others: the optimizer of all else, such as `optax.adam`.
      is_matrix: a function of a leaf's name, such as "layers/0/kernel", and the leaf, that tells
        which is which; None is `tritia.layerwise.is_matrix`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `MatrixPartitionState`; extra arguments
      reach both. What the state has of params' shapes lies where the params lie.

    Raises:
      TypeError: an argument that is no optimizer, or no function.

    Examples:
      >>> import jax.numpy as jnp, optax, tritia
      >>> params = {"embedding": jnp.ones((9, 4)), "out": {"kernel": jnp.ones((4, 2))}}
      >>> solver = tritia.partition_matrices(optax.sgd(1.0), optax.sgd(0.1))
      >>> updates, _ = solver.update(params, solver.init(params), params)
      >>> print(updates["embedding"][0, 0], updates["out"]["kernel"][0, 0])
      -0.1 -1.0
    """
    if is_matrix is not None and not callable(is_matrix):
        raise TypeError(
            "is_matrix must be a function of a leaf's name and the leaf, or None; got"
            f" {is_matrix!r} of type {type(is_matrix).__name__}."
        )
    tells = _by_shape_and_name if is_matrix is None else is_matrix

    def mask_of(params: Any, *, matrices: bool) -> Any:
        leaves, structure = jax.tree.flatten(params)
        each = zip(leaf_names(params), leaves, strict=True)
        return jax.tree.unflatten(structure, [bool(tells(*one)) is matrices for one in each])

    def part(name: str, optimizer: Any, *, matrices: bool) -> Any:
        of_part = functools.partial(mask_of, matrices=matrices)
        masked = optax.masked(check_transform(name, optimizer), of_part)

        def init_fn(params: optax.Params) -> Any:
            if is_placeholder(params):
                return masked.init(params)
            seen = jax.tree.map(
                lambda mine, leaf: leaf if mine else optax.MaskedNode(), of_part(params), params
            )
            return beside(seen, masked.init(params))

        return optax.GradientTransformationExtraArgs(init_fn, masked.update)

    of_matrices = part("matrices", matrices, matrices=True)
    of_others = part("others", others, matrices=False)

    def init_fn(params: optax.Params) -> MatrixPartitionState:
        params = strong(trained(params))  # Optax's states have the types of what they are made of
        return MatrixPartitionState(of_matrices.init(params), of_others.init(params))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, MatrixPartitionState]:
        given = updates
        updates, params = check_gradients(updates, params)
        updates, first = of_matrices.update(updates, state.matrices, params, **extra)
        updates, second = of_others.update(updates, state.others, params, **extra)
        return passed_through(updates, given), MatrixPartitionState(first, second)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
