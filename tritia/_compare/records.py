"""What a comparison tells while it trains: one record for each optimizer, seed and epoch.

A *listener* is a function of one `Record`: a user's own (`own_code.find`), or a `TensorBoard`.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tritia._compare.errors import UsageError
from tritia._compare.training import Curves


class Record(NamedTuple):
    """What one optimizer has reached with one seed after one epoch.

    Attributes:
      optimizer: its name.
      seed: its number.
      epoch: its number; 0 is before training.
      setting: the learning rate and the coefficients it trains with.
      metrics: "training_loss", "training_metric", "test_loss", "test_metric" (accuracy or R^2) and
        what the optimizer says of itself.
    """

    optimizer: str
    seed: int
    epoch: int
    setting: Mapping[str, float]
    metrics: Mapping[str, float]


Listener = Callable[[Record], object]

_FIGURES = ("training_loss", "training_metric", "test_loss", "test_metric")


def tell(
    listeners: Sequence[Listener],
    optimizer: str,
    setting: Mapping[str, float],
    first_seed: int,
    epoch: int,
    found: Any,
) -> None:
    """Tells of one epoch of several seeds.

    Args:
      listeners: who is told.
      optimizer: its name.
      setting: what it trains with.
      first_seed: the number of the first.
      epoch: its number.
      found: losses, metrics and diagnostics with an axis of seeds, as
        `training.Compiled.evaluate` returns them.
    """
    if not listeners:
        return
    *figures, diagnostics = found
    values = {**dict(zip(_FIGURES, figures, strict=True)), **diagnostics}
    for index in range(len(figures[0])):
        metrics = {name: float(value[index]) for name, value in values.items()}
        for listener in listeners:
            listener(Record(optimizer, first_seed + index, epoch, dict(setting), metrics))


def tell_all(
    listeners: Sequence[Listener], optimizer: str, setting: Mapping[str, float], curves: Curves
) -> None:
    """Tells of all epochs that were trained, one after the other."""
    for epoch in range(curves.epochs + 1):
        figures = [getattr(curves, name)[:, epoch] for name in _FIGURES]
        diagnostics = {name: value[:, epoch] for name, value in curves.diagnostics.items()}
        tell(listeners, optimizer, setting, 0, epoch, (*figures, diagnostics))


MOST_RUNS = 200
"""Of one optimizer: each keeps a file open."""

_FLUSH_SECONDS = 2


class TensorBoard:
    """A listener that writes TensorBoard's event files, a run for each optimizer and seed."""

    def __init__(self, folder: Path, seeds: int):
        """Prepares to write.

        Args:
          folder: what `tensorboard --logdir` is given; the runs are NAME/seedN in it.
          seeds: how many there are.

        Raises:
          UsageError: the writer is not installed, the folder can't be made, or there are too many
            seeds.
        """
        if importlib.util.find_spec("tensorboardX") is None:
            raise UsageError(
                "`tensorboard` needs tensorboardX, which is not installed: pip install"
                ' "tritia[tensorboard]", in a checkout pip install ".[tensorboard]"'
            )
        if seeds > MOST_RUNS:
            raise UsageError(f"`tensorboard` has a run for each seed; {seeds} are too many")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot write to `tensorboard` {folder} ({error.strerror or error})"
            ) from None
        self._folder = folder
        self._optimizer = ""
        self._writers: dict[int, Any] = {}

    def __call__(self, record: Record) -> None:
        """Writes one record, which a thread brings to the file within seconds."""
        if record.optimizer != self._optimizer:
            self.close()
            self._optimizer = record.optimizer
        if record.seed not in self._writers:
            from tensorboardX import SummaryWriter

            run = self._folder / record.optimizer / f"seed{record.seed}"
            # It names files by the second, and overwrites one that is as old.
            self._writers[record.seed] = SummaryWriter(
                str(run), flush_secs=_FLUSH_SECONDS, filename_suffix=f".{time.time_ns()}"
            )
        writer = self._writers[record.seed]
        for name, value in record.metrics.items():
            writer.add_scalar(name, value, record.epoch)

    def close(self) -> None:
        """Closes the files, with all records in them."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
