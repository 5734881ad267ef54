"""Matrices to one optimizer, everything else to another."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import check_transform
from tritia._leaves import check_gradients, passed_through, trained
from tritia.layerwise._names import leaf_names

IsMatrix = Callable[[str, Any], bool]
"""Of a leaf's name and the leaf, whether it is a matrix, or a stack of them."""

VECTORS = {"b", "bias", "offset", "scale"}
"""What a vector is called, by which stacks of them can be told from matrices."""


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

    Args:
      matrices: the optimizer of kernels, such as one that ends with
        `tritia.scale_by_spectral_clipping`.
      others: the optimizer of all else, such as `optax.adam`.
      is_matrix: a function of a leaf's name, such as "layers/0/kernel", and the leaf, that tells
        which is which; None is `tritia.layerwise.is_matrix`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; extra arguments reach both.

    Raises:
      TypeError: an argument that is no optimizer.

    Examples:
      >>> import jax.numpy as jnp, optax, tritia
      >>> params = {"embedding": jnp.ones((9, 4)), "out": {"kernel": jnp.ones((4, 2))}}
      >>> solver = tritia.partition_matrices(optax.sgd(1.0), optax.sgd(0.1))
      >>> updates, _ = solver.update(params, solver.init(params), params)
      >>> print(updates["embedding"][0, 0], updates["out"]["kernel"][0, 0])
      -0.1 -1.0
    """
    transforms: dict[Hashable, optax.GradientTransformation] = {
        "matrices": check_transform("matrices", matrices),
        "others": check_transform("others", others),
    }

    tells = _by_shape_and_name if is_matrix is None else is_matrix

    def labels(params: Any) -> Any:
        leaves, structure = jax.tree.flatten(params)
        each = zip(leaf_names(params), leaves, strict=True)
        return jax.tree.unflatten(
            structure, ["matrices" if tells(*one) else "others" for one in each]
        )

    parts = optax.partition(transforms, labels)

    def init_fn(params: optax.Params) -> optax.OptState:
        return parts.init(trained(params))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        given = updates
        updates, params = check_gradients(updates, params)
        updates, state = parts.update(updates, state, params, **extra)
        return passed_through(updates, given), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
