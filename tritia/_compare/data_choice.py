"""Which data are asked for: a data set by name, or a file of one's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tritia._compare import own_data
from tritia._compare.datasets import DATASETS, Dataset, Task
from tritia._compare.errors import UsageError, unknown


@dataclasses.dataclass(frozen=True)
class DataChoice:
    """What to train on.

    Attributes:
      dataset: a name in `datasets.DATASETS`; None with `data`.
      data_dir: where mnist and cora are.
      data: a file, as `own_data.load` takes it; None for a data set by name.
      target: with `data`, the column to predict.
      task: with `data`, None to recognise it.
      drop: with `data`, columns to leave out.
      categories: with `data`, columns of numbers that are categories.
    """

    dataset: str | None = "digits"
    data_dir: Path | None = None
    data: Path | None = None
    target: str | None = None
    task: Task | None = None
    drop: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What the data are called."""
        return self.dataset or "data" if self.data is None else self.data.stem

    def check(self) -> None:
        """Checks what can be checked before any file is read.

        Raises:
          UsageError: an argument is missing or goes with another one only.
        """
        if self.data is None:
            for name in ("target", "task", "drop", "categories"):
                if getattr(self, name):
                    raise UsageError(f"`{name}` goes with `data`, a file of your own")
            if self.dataset not in DATASETS:
                raise UsageError(unknown("data set", str(self.dataset), DATASETS))
        elif self.dataset is not None:
            raise UsageError("`dataset` and `data` don't go together")
        elif not self.target:
            raise UsageError("`data` needs `target`, the name of the column to predict")

    def load(self) -> Dataset:
        """Loads the data.

        Returns:
          The `Dataset`.

        Raises:
          UsageError: it can't be loaded.
        """
        self.check()
        if self.data is None:
            return DATASETS[str(self.dataset)](self.data_dir)
        return own_data.load(self.data, str(self.target), self.task, self.drop, self.categories)
