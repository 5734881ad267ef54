"""A user's own table as a `Dataset`: which columns are numbers, which categories, and the task.

Columns of numbers are features as they are; columns of text become one column of zeros and ones for
each category. A missing number becomes the mean of the training rows (`datasets.split` sees to it),
a missing category is a category of its own. What was done is said in the data set's `source`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tritia._compare import data_files
from tritia._compare.datasets import Dataset, Task
from tritia._compare.errors import UsageError, unknown

MOST_CATEGORIES = 100
"""Of one column, and half as many as rows: more are names or numbers rather than categories."""

_MOST_WHOLE_CLASSES = 20
_FEWEST_ROWS, _FEWEST_OF_A_CLASS = 10, 3
_MISSING = "(missing)"


def load(
    path: Path,
    target: str,
    task: Task | None = None,
    drop: Collection[str] = (),
    categories: Collection[str] = (),
) -> Dataset:
    """Reads a table and makes features and targets of it.

    Args:
      path: a .csv, .tsv, .parquet or .npz file; of an .npz each array is a column, or several.
      target: the column to predict.
      task: None to recognise it: classification for text and for at most 20 different whole
        numbers, regression for other numbers.
      drop: columns to leave out.
      categories: columns of numbers to take for categories.

    Returns:
      The `Dataset`, named like the file.

    Raises:
      UsageError: the file can't be read, a column is not there, or what a column holds can't be
        learnt from or predicted.
    """
    columns = dict(data_files.read(path, drop))
    for argument, names in (("target", (target,)), ("drop", drop), ("categories", categories)):
        for name in names:
            if name not in columns:
                raise UsageError(f"`{argument}`: {unknown(f'column of {path}', name, columns)}")
    if target in drop:
        raise UsageError(f"`drop` leaves out {target!r}, which is the target")
    answers = columns.pop(target)
    rows = len(answers)
    if rows < _FEWEST_ROWS:
        raise UsageError(f"{path} has {rows} rows; at least {_FEWEST_ROWS} are needed")
    chosen, classes, words = _targets(path, target, answers, task)
    blocks, told = [], []
    for name, values in columns.items():
        if name in drop:
            continue
        block = _features(path, name, values, name in categories)
        blocks.append(block.columns)
        told.append(block)
    if not sum(block.shape[1] for block in blocks):
        raise UsageError(f"{path} has no columns besides {target!r} to learn from")
    inputs = np.hstack(blocks).astype(np.float32)
    missing = int(np.isnan(inputs).sum())
    return Dataset(
        name=path.stem,
        task="regression" if classes is None else "classification",
        inputs=inputs,
        targets=chosen,
        classes=None if classes is None else len(classes),
        scaling="columns",
        batch_size=min(128, 2 ** math.ceil(math.log2(rows) / 2)),
        target=0.5 if classes is None else _goal(chosen),
        source=_told(path.name, words, told, missing),
        missing=missing > 0,
    )


class _Block(NamedTuple):
    """The features that came of one column: float64 of shape (rows, width), and what they were."""

    name: str
    columns: np.ndarray
    categories: int


def _features(path: Path, name: str, values: np.ndarray, as_category: bool) -> _Block:
    if values.dtype != object and not as_category:
        table = values.reshape(len(values), -1)
        empty = np.isnan(table).all(axis=0)
        if empty.any():
            raise UsageError(f"column {name!r} of {path} is empty; `drop` leaves it out")
        _check_finite(path, name, table)
        return _Block(name, _centred(table), 0)
    texts = _as_texts(path, name, values)
    if not as_category:
        _check_not_numbers(path, name, texts)
    different = sorted({text for text in texts if text is not None})
    if not different:
        raise UsageError(f"column {name!r} of {path} is empty; `drop` leaves it out")
    most = min(MOST_CATEGORIES, len(texts) // 2)
    if len(different) > most:
        raise UsageError(
            f"column {name!r} of {path} has {len(different)} different values, such as"
            f" {_shown(different[0])}; of {len(texts)} rows at most {most} are taken for"
            " categories: `drop` leaves it out"
        )
    from sklearn.preprocessing import OneHotEncoder

    filled = np.array([[_MISSING if text is None else text] for text in texts], object)
    encoder = OneHotEncoder(drop="if_binary", sparse_output=False, dtype=np.float64)
    return _Block(name, encoder.fit_transform(filled), len(encoder.categories_[0]))


def _targets(
    path: Path, name: str, values: np.ndarray, task: Task | None
) -> tuple[np.ndarray, list[str] | None, str]:
    """The targets, the names of the classes (None for regression), and what is said of them."""
    if values.ndim > 1 and values.shape[1] == 1:
        values = values[:, 0]
    gone = _gaps(values)
    if gone.size:
        raise UsageError(
            f"the target {name!r} is missing in {gone.size} of {len(values)} rows of {path}, first"
            f" in row {gone[0] + 1}; leave these rows out"
        )
    recognised = task is None
    if task is None:
        task = _recognise(path, name, values)
    how = ", recognised" if recognised else ""
    if task == "regression":
        if values.dtype == object:
            bad = next(row for row, text in enumerate(values) if not data_files.is_number(text))
            raise UsageError(
                f"the target {name!r} of {path} holds text ({_shown(values[bad])} in row"
                f" {bad + 1}); regression needs numbers"
            )
        _check_finite(path, name, values)
        table = values.reshape(len(values), -1)
        if (table == table[0]).all(axis=0).any():
            raise UsageError(f"the target {name!r} of {path} is the same in every row")
        return _centred(table).astype(np.float32), None, f"predicts {name} (regression{how})"
    texts = _as_texts(path, name, values)
    classes, numbers, counts = np.unique(
        np.array(texts, str), return_inverse=True, return_counts=True
    )
    if len(classes) < 2:
        raise UsageError(f"the target {name!r} of {path} has one class only, {_shown(classes[0])}")
    if counts.min() < _FEWEST_OF_A_CLASS:
        raise UsageError(
            f"class {_shown(classes[counts.argmin()])} of the target {name!r} of {path} has"
            f" {counts.min()} row{'s' if counts.min() > 1 else ''}; at least"
            f" {_FEWEST_OF_A_CLASS} are needed, to train, to validate and to test"
        )
    words = f"predicts {name} (classification, {len(classes)} classes{how})"
    return numbers.reshape(-1).astype(np.int32), [str(name) for name in classes], words


def _recognise(path: Path, name: str, values: np.ndarray) -> Task:
    if values.dtype == object:
        _check_not_numbers(path, name, list(values))
        different = len(set(values))
        if different > MOST_CATEGORIES:
            raise UsageError(
                f"the target {name!r} of {path} has {different} different texts, too many for"
                " classes; `task` classification takes them as they are"
            )
        return "classification"
    whole = values.ndim == 1 and bool((values == np.round(values)).all())
    few = len(np.unique(values)) <= _MOST_WHOLE_CLASSES
    return "classification" if whole and few else "regression"


def _gaps(values: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        return np.flatnonzero([text is None for text in values])
    return np.flatnonzero(np.isnan(values).reshape(len(values), -1).any(axis=1))


def _as_texts(path: Path, name: str, values: np.ndarray) -> list[str | None]:
    if values.dtype == object:
        return list(values)
    if values.ndim > 1 and values.shape[1] > 1:
        raise UsageError(f"{name!r} of {path} has {values.shape[1]} columns, categories have one")
    return [None if math.isnan(value) else f"{value:g}" for value in values.reshape(-1)]


def _check_not_numbers(path: Path, name: str, texts: list[str | None]) -> None:
    """Refuses a column of numbers with a few words in it: as categories it would be nonsense."""
    words = [
        (row, text)
        for row, text in enumerate(texts)
        if text is not None and not data_files.is_number(text)
    ]
    held = sum(text is not None for text in texts)
    if words and 2 * len(words) < held:
        row, text = words[0]
        raise UsageError(
            f"column {name!r} of {path} holds text among numbers: {_shown(text)} in row {row + 1};"
            " leave the cell empty where the number is missing, or name the column in `categories`"
        )


def _check_finite(path: Path, name: str, values: np.ndarray) -> None:
    bad = np.flatnonzero(np.isinf(values).reshape(len(values), -1).any(axis=1))
    if bad.size:
        raise UsageError(
            f"column {name!r} of {path} is infinite in {bad.size} of {len(values)} rows, first in"
            f" row {bad[0] + 1}"
        )


def _centred(table: np.ndarray) -> np.ndarray:
    """Moves and scales columns in float64.

    float32 would lose what tells large numbers apart, such as dates in seconds. Standardising by
    the training rows, which follows, undoes it: no row learns anything of another.
    """
    scale = np.nanmax(np.abs(table), axis=0)
    scaled = table / np.where(scale > 0, scale, 1.0)
    centred = scaled - np.nanmean(scaled, axis=0)
    deviation = np.nanstd(centred, axis=0)
    return centred / np.where(deviation > 1e-12, deviation, 1.0)


def _goal(targets: np.ndarray) -> float:
    """The accuracy to reach: four fifths of the way from the commonest class to perfect."""
    share = np.bincount(targets).max() / len(targets)
    return round(float(share + 0.8 * (1 - share)), 2)


def _told(name: str, target: str, blocks: list[_Block], missing: int) -> str:
    numeric = sum(block.columns.shape[1] for block in blocks if not block.categories)
    words = []
    if numeric:
        words.append(f"{numeric} {'column' if numeric == 1 else 'columns'} of numbers")
    encoded = [f"{block.name} ({block.categories})" for block in blocks if block.categories]
    if encoded:
        shown = ", ".join(encoded[:8]) + (", ..." if len(encoded) > 8 else "")
        words.append(f"one-hot columns for the categories of {shown}")
    gaps = f"; missing numbers ({missing}) are the mean of the training rows" if missing else ""
    return f"{name}, {target} from {' and '.join(words)}{gaps}"


def _shown(text: object) -> str:
    return repr(str(text) if len(str(text)) <= 40 else f"{str(text)[:37]}...")
