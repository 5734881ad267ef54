"""What does not fit the memory at once is trained in chunks of settings and of seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def bytes_of(tree: Any) -> int:
    """Returns how many bytes the arrays (or shapes) of a tree take."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def evenly(runs: int, settings: int, seeds: int) -> tuple[int, int]:
    """Returns how many settings and seeds to train at once, at most `runs` runs together.

    All seeds of some settings, or some seeds of one setting, in chunks as equal as can be.
    """
    if runs >= seeds:
        wide = min(settings, runs // seeds)
        return math.ceil(settings / math.ceil(settings / wide)), seeds
    return 1, math.ceil(seeds / math.ceil(seeds / runs))


def split(count: int, size: int) -> Iterator[np.ndarray]:
    """Yields the positions of each chunk, the last one filled up by repeating its last position.

    All chunks have one size, so that one compiled function serves them all.
    """
    for begin in range(0, count, size):
        yield np.minimum(np.arange(begin, begin + size), count - 1)


def join(pieces: Sequence[tuple[np.ndarray, Any]], axis: int) -> Any:
    """Returns the pieces of a tree, each with its positions, as one tree without the repetitions.

    More than one piece means that they didn't fit the device: they are joined in the host's memory.
    """
    if len(pieces) == 1:
        return _once(*pieces[0], axis)
    host = jax.local_devices(backend="cpu")[0]
    trimmed = [_once(positions, jax.device_put(tree, host), axis) for positions, tree in pieces]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=axis), *trimmed)


def _once(positions: np.ndarray, tree: Any, axis: int) -> Any:
    """Returns a tree without the repetitions of its last position."""
    true = len(np.unique(positions))
    if true == len(positions):
        return tree
    return jax.tree.map(lambda x: x[:true] if axis == 0 else x[:, :true], tree)


def take(tree: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    """Returns the given settings and seeds of a tree, on the first device."""
    picked = jax.tree.map(lambda x: x[rows][:, columns], tree)
    return jax.device_put(picked, jax.local_devices()[0])
