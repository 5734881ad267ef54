"""The data sets: what their rows are, which are held out, and how features are scaled.

Rows play three parts. *Test* rows are held out once per data set and touched by nothing but the
final evaluation. The rest is divided into *training* rows, which gradients see, and *validation*
rows, on which learning rates are tuned. Where a data set comes with a division of its own it is
kept; where it does not, every seed draws its own training and validation rows, so that the spread
over seeds includes the choice of training rows, while the test rows stay the same for all: were
they to move, the rows that tuned the learning rate under one seed would judge it under another.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tritia._compare.errors import UsageError

Task = Literal["classification", "regression"]
Scaling = Literal["columns", "pixels", "none"]

_HELD_OUT = 0.2
_SPLIT_SEED = 20240907


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows, targets, and how they may be used.

    Attributes:
      name: as on the command line.
      task: "classification" (integer targets, cross-entropy, accuracy) or "regression" (float
        targets, mean squared error, R^2).
      inputs: features as they come from the source, float32, shape (rows, features).
      targets: int32 of shape (rows,) or float32 of shape (rows, outputs).
      classes: the number of classes; None for regression.
      scaling: "columns" standardises each column, "pixels" all columns with one mean and one
        standard deviation, "none" leaves features alone. Statistics come from training rows only.
      batch_size: rows in a minibatch unless the user says otherwise.
      target: the test metric whose first epoch is reported as "epochs to target".
      test_rows: the rows held out, or None to hold out a fifth, the same for every seed.
      validation_rows: the rows for tuning where they are part of the data set's definition, or
        None to draw a fifth of what is not held out, by seed unless `one_split` is True.
      training_rows: likewise, only where `validation_rows` is given.
      one_split: True where one division serves all seeds, to save memory on large sets.
      training_size: how many rows train, the others that are not held out being for validation;
        None for four fifths of them.
      source: where the data come from, for the report.
      missing: whether features may be missing, NaN; they become the mean of the training rows.
    """

    name: str
    task: Task
    inputs: np.ndarray
    targets: np.ndarray
    classes: int | None
    scaling: Scaling
    batch_size: int
    target: float
    source: str
    test_rows: np.ndarray | None = None
    validation_rows: np.ndarray | None = None
    training_rows: np.ndarray | None = None
    one_split: bool = False
    training_size: int | None = None
    missing: bool = False

    def __post_init__(self) -> None:
        """Refuses numbers that are not finite: every optimizer would diverge on them."""
        for what, array in (("features", self.inputs), ("targets", self.targets)):
            well = np.isfinite(array) | (np.isnan(array) & (self.missing and what == "features"))
            bad = np.flatnonzero(~well.reshape(len(array), -1).all(axis=1))
            if bad.size:
                raise UsageError(
                    f"the {what} of {self.name} are not finite in {bad.size} of {len(array)} rows,"
                    f" first in row {bad[0]}"
                )

    @property
    def outputs(self) -> int:
        """The width of the network's output."""
        return self.targets.shape[1] if self.classes is None else self.classes

    @property
    def metric(self) -> str:
        """The name of the test metric; for both tasks higher is better and 1 is perfect."""
        return "accuracy" if self.task == "classification" else "R^2"

    @property
    def diverged_loss(self) -> float:
        """The loss above which a run counts as diverged.

        A hundred times the loss of a network that says the same of every row: the logarithm of the
        number of classes, or the variance of standardised targets, 1.
        """
        return 100.0 * (1.0 if self.classes is None else math.log(self.classes))

    def checksum(self) -> str:
        """SHA-256 of the features and targets, their shapes included."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.targets):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def description(self) -> dict[str, Any]:
        """What a folder of results says of the data."""
        return {
            "name": self.name,
            "rows": len(self.targets),
            "features": self.inputs.shape[1],
            "sha256": self.checksum(),
            "source": self.source,
        }


class Split(NamedTuple):
    """One seed's rows and the scaling fitted to its training rows.

    Attributes:
      training: row numbers, int32.
      validation: row numbers, int32.
      test: row numbers, int32.
      input_shift: subtracted from the features; float32, shape (features,).
      input_scale: multiplies what is left; float32, shape (features,).
      target_shift: the same for regression targets; shape (outputs,). Zeros for classification.
      target_scale: ones for classification.
    """

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    input_shift: np.ndarray
    input_scale: np.ndarray
    target_shift: np.ndarray
    target_scale: np.ndarray


def split(dataset: Dataset, seed: int) -> Split:
    """Divides the rows for one seed and fits the scaling to the training rows.

    Args:
      dataset: the data.
      seed: decides which rows train and which validate, where the data set leaves that open.

    Returns:
      The `Split`; its arrays have the same shapes for every seed.
    """
    rows = np.arange(len(dataset.targets))
    if dataset.test_rows is None:
        rest, test = _hold_out(dataset, rows, _SPLIT_SEED)
    else:
        test = dataset.test_rows
        rest = np.setdiff1d(rows, test)
    if dataset.validation_rows is not None and dataset.training_rows is not None:
        training, validation = dataset.training_rows, dataset.validation_rows
    else:
        size, seed = dataset.training_size, 0 if dataset.one_split else seed
        held_out = _HELD_OUT if size is None else len(rest) - size
        training, validation = _hold_out(dataset, rest, seed, held_out)

    features = dataset.inputs[training]
    width = features.shape[1]
    if dataset.missing:
        known = np.ma.masked_invalid(features)  # its mean of nothing is 0
        shift, deviation = (np.ma.filled(known.mean(0), 0.0), np.ma.filled(known.std(0), 0.0))
    elif dataset.scaling == "columns":
        shift, deviation = features.mean(0), features.std(0)
    elif dataset.scaling == "pixels":
        shift, deviation = (
            np.full(width, features.mean(dtype=np.float64)),
            np.full(width, features.std(dtype=np.float64)),
        )
    else:
        shift, deviation = np.zeros(width), np.ones(width)
    if dataset.task == "regression":
        target_shift, target_deviation = (
            dataset.targets[training].mean(0),
            dataset.targets[training].std(0),
        )
    else:
        target_shift, target_deviation = np.zeros(1), np.ones(1)
    return Split(
        training.astype(np.int32),
        validation.astype(np.int32),
        test.astype(np.int32),
        shift.astype(np.float32),
        _reciprocal(deviation),
        target_shift.astype(np.float32),
        _reciprocal(target_deviation),
    )


def _hold_out(
    dataset: Dataset, rows: np.ndarray, seed: int, held_out: float = _HELD_OUT
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    stratify = None
    if dataset.task == "classification":
        stratify = dataset.targets[rows]
        classes, counts = np.unique(stratify, return_counts=True)
        if counts.min() < 2:
            raise UsageError(
                f"class {classes[counts.argmin()]} of {dataset.name} has a single row to divide;"
                " at least 2 are needed, one to train and one to hold out"
            )
    try:
        kept, rest = train_test_split(
            rows, test_size=held_out, random_state=seed, stratify=stratify
        )
    except ValueError as error:
        raise UsageError(
            f"the {len(rows)} rows of {dataset.name} cannot be divided: {error}"
        ) from None
    return np.sort(kept), np.sort(rest)


def _reciprocal(deviation: np.ndarray) -> np.ndarray:
    """1 / deviation, and 1 for a constant column: there is nothing to scale."""
    constant = deviation <= 1e-7
    return np.where(constant, 1.0, 1.0 / np.where(constant, 1.0, deviation)).astype(np.float32)


def _bundled(name: str, task: Task, scaling: Scaling, batch_size: int, target: float) -> Dataset:
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    inputs = np.asarray(bunch.data, np.float32)
    if task == "classification":
        targets = np.asarray(bunch.target, np.int32)
        classes = int(targets.max()) + 1
    else:
        targets = np.asarray(bunch.target, np.float32).reshape(len(inputs), -1)
        classes = None
    return Dataset(
        name, task, inputs, targets, classes, scaling, batch_size, target, "bundled, scikit-learn"
    )


def _digits(data_dir: Path | None) -> Dataset:
    return _bundled("digits", "classification", "pixels", 64, 0.95)


def _few_digits(data_dir: Path | None) -> Dataset:
    """Fewer rows than features, all of them in every step."""
    few = {"training_size": 50, "batch_size": 50, "target": 0.85}
    return dataclasses.replace(_digits(data_dir), name="few_digits", **few)


def _breast_cancer(data_dir: Path | None) -> Dataset:
    return _bundled("breast_cancer", "classification", "columns", 32, 0.95)


def _wine(data_dir: Path | None) -> Dataset:
    return _bundled("wine", "classification", "columns", 16, 0.95)


def _diabetes(data_dir: Path | None) -> Dataset:
    return _bundled("diabetes", "regression", "columns", 32, 0.4)


def _mnist(data_dir: Path | None) -> Dataset:
    from tritia._compare import idx

    inputs, targets, test_rows = idx.load_mnist(_folder("mnist", data_dir, idx.SOURCE))
    return Dataset(
        "mnist",
        "classification",
        inputs,
        targets,
        10,
        "pixels",
        128,
        0.97,
        idx.SOURCE,
        test_rows=test_rows,
        one_split=True,
    )


def _cora(data_dir: Path | None) -> Dataset:
    from tritia._compare import planetoid

    nodes = planetoid.load_cora(_folder("cora", data_dir, planetoid.SOURCE))
    return Dataset(
        "cora",
        "classification",
        nodes.inputs,
        nodes.targets,
        int(nodes.targets.max()) + 1,
        "none",
        len(nodes.training_rows),
        0.75,
        planetoid.SOURCE,
        test_rows=nodes.test_rows,
        validation_rows=nodes.validation_rows,
        training_rows=nodes.training_rows,
        one_split=True,
    )


DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": _digits,
    "few_digits": _few_digits,
    "breast_cancer": _breast_cancer,
    "wine": _wine,
    "diabetes": _diabetes,
    "mnist": _mnist,
    "cora": _cora,
}
"""Loaders by name. Each takes the data folder, which only mnist and cora need."""

DESCRIPTIONS: dict[str, str] = {
    "digits": "1797 images of 8 x 8 pixels, 10 classes (bundled with scikit-learn)",
    "few_digits": "50 rows of digits to train on, in full batches (bundled with scikit-learn)",
    "breast_cancer": "569 rows of 30 measurements, 2 classes (bundled with scikit-learn)",
    "wine": "178 rows of 13 measurements, 3 classes (bundled with scikit-learn)",
    "diabetes": "442 rows of 10 measurements, regression (bundled with scikit-learn)",
    "mnist": "70000 images of 28 x 28 pixels, 10 classes (--data-dir with the IDX .gz files)",
    "cora": "2708 papers, 7 classes, features smoothed over citations (--data-dir with Planetoid)",
}


def _folder(name: str, data_dir: Path | None, source: str) -> Path:
    if data_dir is None:
        raise UsageError(f"{name} needs `data_dir`, the folder that holds its files: {source}")
    try:
        found = data_dir.is_dir()
    except OSError:  # a name that is too long, say
        found = False
    if not found:
        raise UsageError(f"`data_dir` {data_dir} is not a folder; for {name} it holds: {source}")
    return data_dir
