"""Which rows train a network, and which judge it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Fold(NamedTuple):
    """Rows of a table, padded to one length over all folds.

    Attributes:
      rows: (folds, m), int32: indices into the table; padding repeats row 0.
      count: (folds,), int32: how many come before the padding.
    """

    rows: np.ndarray
    count: np.ndarray


def split(
    classes: np.ndarray | None, rows: int, folds: int, parts: int, random: np.random.RandomState
) -> tuple[Fold, Fold]:
    """Returns the training rows of each fold and its validation rows.

    Every class is spread evenly over the parts.

    Args:
      classes: (rows,), integers, or None where there are none.
      rows: of the table, at least `parts`.
      folds: how many; the first ones of the parts are held out in turn, one by each fold.
      parts: into how many parts the rows are cut, at least 2.
      random: shuffles the rows.
    """
    order = random.permutation(rows)
    if classes is not None:
        order = order[np.argsort(classes[order], kind="stable")]
    part = np.empty(rows, int)
    part[order] = np.arange(rows) % parts
    held_out = [np.flatnonzero(part == fold) for fold in range(folds)]
    kept = [np.flatnonzero(part != fold) for fold in range(folds)]
    return _padded(kept), _padded(held_out)


def bucket(size: int) -> int:
    """Returns the length that `size` rows are padded to, so that few programs are compiled."""
    return 1 << max(size - 1, 15).bit_length()


def _padded(folds: list[np.ndarray]) -> Fold:
    length = bucket(max(map(len, folds)))
    rows = [np.pad(fold, (0, length - len(fold))) for fold in folds]
    return Fold(np.stack(rows).astype(np.int32), np.array([len(f) for f in folds], np.int32))
