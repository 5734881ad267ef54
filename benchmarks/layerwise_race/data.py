"""The rows that the race trains, tunes and judges on."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tritia._compare import datasets
from tritia._compare.idx import load_mnist
from tritia._compare.planetoid import load_cora

WINDOW = 64
SYMBOLS = 129  # ASCII, and one for everything else
_TEXT_BYTES = 6_000_000
_MNIST_VALIDATION_ROWS = 10_000


class Folders(NamedTuple):
    """Where the data are that no package brings.

    Attributes:
      mnist: holds MNIST's IDX files.
      cora: holds Cora's Planetoid files.
    """

    mnist: Path | None
    cora: Path | None

    def has(self, name: str | None) -> bool:
        """Whether the folder of this name is given, or none is asked for."""
        return name is None or getattr(self, name) is not None


class Data(NamedTuple):
    """All rows, and which of them are for what.

    Attributes:
      inputs: of shape (rows, ...).
      targets: of shape (rows, ...).
      training: numbers of the rows to train on.
      validation: numbers of the rows that choose a setting.
      test: numbers of the rows that judge.
    """

    inputs: np.ndarray
    targets: np.ndarray
    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def mnist(folders: Folders, seed: int) -> Data:
    """MNIST, pixels in [0, 1]; the last 10 000 of its training rows choose settings."""
    del seed
    inputs, labels, test = load_mnist(_given(folders.mnist, "mnist"))
    first = test[0] - _MNIST_VALIDATION_ROWS
    return Data(inputs, labels, np.arange(first), np.arange(first, test[0]), test)


def mnist_images(folders: Folders, seed: int) -> Data:
    """MNIST as images of one channel."""
    data = mnist(folders, seed)
    return data._replace(inputs=data.inputs.reshape(-1, 28, 28, 1))


def mnist_to_itself(folders: Folders, seed: int) -> Data:
    """MNIST, each image its own target."""
    data = mnist(folders, seed)
    return data._replace(targets=data.inputs)


def cora(folders: Folders, seed: int) -> Data:
    """Cora's standard division, its words smoothed over the graph."""
    del seed
    return Data(*load_cora(_given(folders.cora, "cora")))


def small(name: str, folders: Folders, seed: int) -> Data:
    """A small data set of scikit-learn, divided by the seed and standardised on training rows."""
    del folders
    dataset = datasets.DATASETS[name](None)
    split = datasets.split(dataset, seed)
    inputs = (dataset.inputs - split.input_shift) * split.input_scale
    targets = dataset.targets
    if dataset.task == "regression":
        targets = (targets - split.target_shift) * split.target_scale
    return Data(inputs, targets, split.training, split.validation, split.test)


def library_text(folders: Folders, seed: int) -> Data:
    """Windows of the sources of Python's standard library; the target is the next character.

    The modules are those at the top of the library, in alphabetical order. Characters beyond ASCII
    count as one symbol. The first nine tenths of the text train.
    """
    del folders, seed
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = b"".join(module.read_bytes() for module in modules)[:_TEXT_BYTES]
    symbols = np.minimum(np.frombuffer(text, np.uint8), SYMBOLS - 1).astype(np.int32)
    rows = (len(symbols) - 1) // WINDOW
    inputs = symbols[: rows * WINDOW].reshape(rows, WINDOW)
    targets = symbols[1 : rows * WINDOW + 1].reshape(rows, WINDOW)
    first = rows * 9 // 10
    judged = np.arange(first, rows)
    half = len(judged) // 2
    # Every few windows, so that judging takes less time than training.
    validation, test = (
        part[:: max(1, len(part) // 500)] for part in (judged[:half], judged[half:])
    )
    return Data(inputs, targets, np.arange(first), validation, test)


def _given(folder: Path | None, name: str) -> Path:
    if folder is None:
        raise SystemExit(f"--{name} is missing: the folder with the files of {name}")
    return folder
