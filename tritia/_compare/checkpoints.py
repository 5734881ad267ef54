"""The state after the last epoch, kept beside the curves, so that more epochs can follow it.

`finished/NAME.npz` holds the leaves of the params and of the optimizer's state in order. They mean
something only to the program that made them: what they must look like comes from a state that was
just initialised.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tritia._compare import files, folder
from tritia._compare.errors import UsageError
from tritia._compare.training import Carry

MOST_BYTES = 2**28
"""Of the leaves; of what is larger no checkpoint is kept."""

_MOST_READ = 2**30


def path_of(place: Path, name: str) -> Path:
    """Where the checkpoint of an optimizer is, in a folder of finished ones."""
    return place / f"{name}.npz"


def save(path: Path, carry: Carry, seeds: int, epochs: int) -> None:
    """Keeps a state; where it is too large, removes what was kept of an earlier one.

    Args:
      path: of the checkpoint.
      carry: the state, with a leading axis of seeds.
      seeds: how many.
      epochs: after how many.
    """
    leaves = [_bits(leaf) for leaf in jax.tree.leaves(carry)]
    if sum(leaf.nbytes for leaf in leaves) > MOST_BYTES:
        path.unlink(missing_ok=True)
        return
    content = io.BytesIO()
    named: dict[str, Any] = {f"leaf{index}": leaf for index, leaf in enumerate(leaves)}
    np.savez(content, about=np.array([seeds, epochs]), **named)
    folder.write(path, content.getvalue())


def is_there(path: Path, seeds: int, epochs: int) -> bool:
    """Whether there is a checkpoint of these seeds after these epochs; raises as `load` does."""
    if not os.path.lexists(path):
        return False
    with _read(path) as kept:
        return kept["about"].tolist() == [seeds, epochs]


def load(path: Path, like: Carry) -> Carry:
    """Reads a state.

    Args:
      path: of the checkpoint.
      like: a state of the same structure, shapes and dtypes, of any number of seeds.

    Returns:
      The state that `save` kept.

    Raises:
      UsageError: the file is damaged, or holds another kind of state.
    """
    expected, structure = jax.tree.flatten(like)
    with _read(path) as kept:
        try:
            seeds = int(kept["about"][0])
            leaves = [
                _like(kept[f"leaf{index}"], leaf, seeds) for index, leaf in enumerate(expected)
            ]
        except Exception as error:  # A damaged file can fail in any way.
            raise _damaged(path, error) from None
    return jax.tree.unflatten(structure, leaves)


def joined(first: Carry, second: Carry) -> Carry:
    """The states of two groups of seeds as one."""
    return jax.tree.map(lambda *parts: jax.numpy.concatenate(parts), first, second)


def _read(path: Path) -> Any:
    try:
        kept = np.load(io.BytesIO(files.read_regular(path, _MOST_READ)), allow_pickle=False)
        if not isinstance(kept, np.lib.npyio.NpzFile) or kept["about"].shape != (2,):
            raise ValueError("it is not a checkpoint")
        return kept
    except UsageError:
        raise
    except Exception as error:  # A damaged file can fail in any way.
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UsageError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return UsageError(f"{path} is damaged ({reason}); delete it to train from the beginning")


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(leaf: Any) -> np.ndarray:
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    # NumPy doesn't know bfloat16 and the like in a file.
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.itemsize}")


def _like(bits: np.ndarray, leaf: Any, seeds: int) -> jax.Array:
    expected = _bits(leaf)
    shape = (seeds, *expected.shape[1:])
    if bits.shape != shape or bits.dtype != expected.dtype:
        raise ValueError(f"{bits.dtype}{bits.shape} in the place of {expected.dtype}{shape}")
    if _is_key(leaf):
        return jax.random.wrap_key_data(jax.numpy.asarray(bits), impl=jax.random.key_impl(leaf))
    return jax.numpy.asarray(bits.view(leaf.dtype))
