"""The names of leaves, the same for every container that holds them."""

from __future__ import annotations

from typing import Any

import jax


def leaf_names(tree: Any) -> list[str]:
    """Returns the path of each leaf, such as "layers/0/kernel".

    An NNX variable and its value have the same name, so that names agree between a model, its
    `nnx.State` and the masked trees inside `optax.partition`.
    """
    names = []
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
        parts = [_key_name(key) for key in path]
        names.append("/".join(parts[:-1] if parts[-1:] == ["value"] else parts))
    return names


def _key_name(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
