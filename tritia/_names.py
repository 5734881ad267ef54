"""The names of leaves, the same for every container that holds them."""

from __future__ import annotations

from typing import Any

import jax


def leaf_names(tree: Any) -> list[str]:
    """Returns the path of each leaf, such as "layers/0/kernel".

    One of Flax's boxes (an NNX variable, Linen's metadata) and its value have the same name, so
    that names agree between a model, its `nnx.State` and the masked trees inside `optax.partition`.
    """
    names = []
    for path, box in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_box):
        inside = jax.tree_util.tree_leaves_with_path(box)  # none where it is masked
        if _is_box(box):
            inside = [(within[1:], leaf) for within, leaf in inside]
        names += ["/".join(map(key_name, (*path, *within))) for within, _ in inside]
    return names


def _is_box(node: Any) -> bool:
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(node).__mro__}
    return not kinds.isdisjoint({("flax", "Variable"), ("flax", "AxisMetadata")})


def key_name(key: Any) -> str:
    """Returns a key of a path as it stands in a name."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
