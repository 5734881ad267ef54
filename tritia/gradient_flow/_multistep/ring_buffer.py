"""Ring buffers of pytrees: the memory of earlier steps, written in place.

A ring buffer is a tuple of trees shaped like the params, so that `optax.tree.map_params` and
shardings see ordinary copies of the params. The entries never move: one of them is overwritten in
each step, and the coefficients are rotated instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from tritia._in_place import conditional
from tritia._trees import is_none, zeros_like

RingBuffer = tuple[Any, ...]


def empty(params: Any, length: int, dtype: Any = None) -> RingBuffer:
    """Returns `length` trees of zeros shaped like `params`, of `dtype` if given."""
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


def write(buffer: RingBuffer, position: jax.Array, new: Any, read: Any = True) -> RingBuffer:
    """Overwrites the oldest tree of a ring buffer; leaves that are None in `new` stay as they were.

    Each slot is passed through a `lax.cond` on the whole tree: XLA then updates one buffer in place
    and leaves the others alone, where a `where` on each leaf would write them all.

    Args:
      buffer: what is overwritten.
      position: the number of writes so far.
      new: a tree like those of the buffer.
      read: the token of what has to be computed from the buffer before.
    """
    if len(buffer) < 2 and read is True:
        return tuple(_filled(new, old) for old in buffer)
    slot = position % max(len(buffer), 1)
    return tuple(
        conditional(
            read & (slot == j), lambda _, fresh: fresh, lambda kept, _: kept, old, _filled(new, old)
        )
        for j, old in enumerate(buffer)
    )


def write_computed(
    buffer: RingBuffer, position: jax.Array, compute: Callable[[RingBuffer], Any]
) -> tuple[RingBuffer, jax.Array]:
    """Overwrites the oldest tree of a ring buffer by what is computed from the buffer.

    The result never stands anywhere but in its slot: a buffer for it, as large as the params, costs
    more than the arithmetic. `compute` is compiled once for each slot.

    Returns:
      The buffer, and the token of this computation.
    """
    token = jnp.zeros((), bool)
    for j, old in enumerate(buffer):

        def written(now: RingBuffer = buffer, old: Any = old) -> tuple[Any, jax.Array]:
            # Where this runs, the slots that were passed before are as they were.
            return _filled(compute(now), old), jnp.ones((), bool)

        def kept(old: Any = old, token: jax.Array = token) -> tuple[Any, jax.Array]:
            return old, token

        turn = (position >= 0) & (position % len(buffer) == j)
        slot, token = conditional(turn, written, kept)
        buffer = (*buffer[:j], slot, *buffer[j + 1 :])
    return buffer, token


def newest(buffer: RingBuffer, position: jax.Array) -> Any:
    """Reads the tree that was written at `position`."""
    slot = position % len(buffer)

    def read(first: Any, *others: Any) -> Any:
        for j, other in enumerate(others, start=1):
            first = jnp.where(slot == j, other, first)
        return first

    return jax.tree.map(read, *buffer)


def _filled(new: Any, old: Any) -> Any:
    """Returns `new` in the dtypes of `old`, which stands in where a leaf of `new` is None."""
    return jax.tree.map(
        lambda n, o: o if n is None else jnp.asarray(n).astype(o.dtype),
        new,
        old,
        is_leaf=is_none,
    )
