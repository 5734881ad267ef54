"""Ring buffers of pytrees: the memory of earlier steps, written in place.

A history is a tuple of trees shaped like the params, so that `optax.tree.map_params` and shardings
see ordinary copies of the params. The entries never move: one of them is overwritten in each step,
and the coefficients are rotated instead.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from tritia.gradient_flow.trees import zeros_like

History = tuple[Any, ...]


def empty(params: Any, length: int, dtype: Any = None) -> History:
    """Returns a history of `length` trees of zeros shaped like `params`, of `dtype` if given."""
    return tuple(zeros_like(params, dtype) for _ in range(length))


def by_slot(newest_first: jax.Array, position: jax.Array) -> jax.Array:
    """Rotates coefficients, given newest first, into the order of the slots.

    Args:
      newest_first: coefficients of lag 1, 2, ...: an array of shape (length,).
      position: the number of writes so far, modulo the length or a multiple of it: int32 ().

    Returns:
      An array of shape (length,): entry j belongs to slot j.
    """
    length = newest_first.shape[0]
    if length < 2:
        return newest_first
    return newest_first[(position - 1 - jnp.arange(length)) % length]


def write(history: History, position: jax.Array, new: Any) -> History:
    """Overwrites the oldest tree of a history; leaves that are None in `new` stay as they were.

    Each slot is passed through a `lax.cond` on the whole tree: XLA then updates one buffer in place
    and leaves the others alone, where a `where` on each leaf would write them all.
    """

    def filled(old: Any) -> Any:
        return jax.tree.map(
            lambda n, o: o if n is None else jnp.asarray(n).astype(o.dtype),
            new,
            old,
            is_leaf=_is_none,
        )

    if len(history) < 2:
        return tuple(filled(old) for old in history)
    slot = position % len(history)
    return tuple(
        jax.lax.cond(slot == j, lambda _, fresh: fresh, lambda kept, _: kept, old, filled(old))
        for j, old in enumerate(history)
    )


def _is_none(leaf: Any) -> bool:
    return leaf is None
