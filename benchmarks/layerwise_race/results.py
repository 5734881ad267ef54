"""Runs that are kept: what has been done is read from its file, what has not is done and written.

A file holds one run and is named by all that it depends on, so that a race that was interrupted, or
that is given more seeds or methods, does only what is missing.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.layerwise_race import data
from benchmarks.layerwise_race.methods import METHODS, Setting
from benchmarks.layerwise_race.tasks import TASKS, Task
from benchmarks.layerwise_race.training import Curve, Trainer

TUNING_SEED = 0  # the race's are 1 and above
REFERENCE = "adamw"


class Entry(NamedTuple):
    """A method at the setting that it was given.

    Attributes:
      method: its name.
      setting: the best of its grid.
    """

    method: str
    setting: Setting


class Race:
    """The runs of one task."""

    def __init__(self, name: str, folders: data.Folders, out: Path, *, train: bool) -> None:
        """Opens the folder of a task's runs.

        Args:
          name: of the task.
          folders: where data are.
          out: holds a folder for each task.
          train: False for what is there already and nothing else.
        """
        self.name = name
        self.task: Task = TASKS[name]
        self._trainer = Trainer(self.task, folders)
        self._out = out / name
        self._train = train

    def curve(self, entry: Entry, seed: int, steps: int, *, tuning: bool = False) -> Curve | None:
        """A run; None where it is not there and none may be made."""
        kind = "tuning" if tuning else "race"
        path = self._out / f"{kind}-{entry.method}-{text(entry.setting, '_')}-{steps}-{seed}.json"
        if path.exists():
            kept = json.loads(path.read_text())
            return Curve(**{field: kept[field] for field in Curve._fields})
        if not self._train or METHODS[entry.method].missing:
            return None
        curve = self._trainer.run(entry.method, entry.setting, seed, steps, tuning=tuning)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"jax": jax.__version__, **curve._asdict()}))
        told = f"{self.name}: {path.stem}: {curve.averaged_score[-1]:.4f}"
        print(f"{told}, {sum(curve.cpu_seconds):.0f} CPU s", file=sys.stderr, flush=True)
        return curve

    def tuning(self, method: str) -> list[tuple[Setting, Curve]]:
        """The run of each setting, the best first; empty where runs are missing."""
        found = []
        for setting in self._grid(method):
            steps = self.task.tuning_steps
            curve = self.curve(Entry(method, setting), TUNING_SEED, steps, tuning=True)
            if curve is None:
                return []
            found.append((setting, curve))
        return sorted(found, key=lambda one: self._rank(one[1]))

    def tuned(self, method: str) -> Entry | None:
        """The method at its best setting; None where its tuning is not there."""
        found = self.tuning(method)
        return Entry(method, found[0][0]) if found else None

    def _grid(self, method: str) -> list[Setting]:
        scale = self.task.rate_scale
        return [
            {**setting, "learning_rate": scale * setting["learning_rate"]}
            for setting in METHODS[method].grid
        ]

    def _rank(self, curve: Curve) -> tuple[float, float]:
        """Least for the best at the averaged iterate; the loss decides between equal scores."""
        score, loss = curve.averaged_score[-1], curve.averaged_loss[-1]
        if not math.isfinite(loss):
            return math.inf, math.inf
        return (score if self.task.objective.score is None else -score), loss

    def curves(self, entry: Entry, seeds: int, steps: int | None = None) -> list[Curve]:
        """The race's runs of a method, those that are there or may be made."""
        runs = (self.curve(entry, seed, steps or self.task.steps) for seed in range(1, seeds + 1))
        return [run for run in runs if run is not None]

    def run(self, methods: Sequence[str], seeds: int) -> list[Entry]:
        """Tunes the methods, then races them, all with one seed before the next."""
        tuned = [self.tuned(method) for method in methods]
        entries = [entry for entry in tuned if entry is not None]
        for seed in range(1, seeds + 1):
            for entry in entries:
                self.curve(entry, seed, self.task.steps)
        return [entry for entry in entries if self.curves(entry, seeds)]

    def run_equal_seconds(self, entries: Sequence[Entry], seeds: int) -> None:
        """Trains for as long as the reference takes, all methods with one seed before the next."""
        reference = next((entry for entry in entries if entry.method == REFERENCE), None)
        if reference is None:
            raise SystemExit(
                f"equal seconds are those of {REFERENCE}, which is not among the methods"
            )
        steps = [self.equal_steps(entry, reference, seeds) for entry in entries]
        for seed in range(1, seeds + 1):
            for entry, count in zip(entries, steps, strict=True):
                self.curve(entry, seed, count)

    def only_read(self) -> None:
        """Makes no run any more."""
        self._train = False

    def equal_steps(self, entry: Entry, reference: Entry, seeds: int) -> int:
        """How many steps take the CPU seconds of a whole run of the reference, in whole rounds."""
        ratio = self.step_seconds(reference, seeds) / self.step_seconds(entry, seeds)
        rounds = self.task.steps * ratio / self.task.round_steps
        return max(1, round(rounds)) * self.task.round_steps

    def compile_seconds(self, entry: Entry, seeds: int) -> float:
        """Of the method's training; most runs find it compiled."""
        runs = [run for _, run in self.tuning(entry.method)] + self.curves(entry, seeds)
        return max(run.compile_seconds for run in runs)

    def step_seconds(self, entry: Entry, seeds: int) -> float:
        """CPU seconds of a step, the median over all rounds."""
        spent = [np.array(run.cpu_seconds) for run in self.curves(entry, seeds)]
        return float(np.median(np.concatenate(spent)) / self.task.round_steps)


def text(setting: Setting, separator: str = ", ") -> str:
    """Numbers without their names, in the order of the grid."""
    return separator.join(f"{value:g}" for value in setting.values())
