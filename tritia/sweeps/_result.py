"""The result of a sweep, and its curves while they are recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Result(NamedTuple):
    """The result of a sweep.

    Attributes:
      best: the setting with the best score; the first of them where all diverged.
      settings: all of them, as they were passed.
      scores: (settings,), the value at a setting's last record, or with `keep="best"` the best of
        each seed, averaged over seeds; the worst infinite where one seed diverged. Settings that
        halving stopped have the score at which they were stopped, and are never the best.
      losses: (settings, seeds, records), the training loss, averaged over the steps between two
        records; NaN after halving stopped the setting.
      values: (settings, seeds, records), what the problem's `evaluate` returned; the training
        losses where there is none.
      steps: (records,), the steps taken at each record.
      diverged: (settings, seeds), whether a loss or a value was not finite.
      trained: (settings,), the records that the setting was trained for.
      params: those of the best setting, with a leading axis of seeds; where the transform has an
        iterate besides its params (`evaluation_params`), that one.
      at_once: the most settings, and seeds of each, that were trained as one computation.
      bytes: the memory that this took on each device according to the compiler, data included.
      kept: (seeds,), the steps after which `params` were kept: all of them, or with `keep="best"`
        those of the best value.
    """

    best: Mapping[str, float]
    settings: Sequence[Mapping[str, float]]
    scores: np.ndarray
    losses: np.ndarray
    values: np.ndarray
    steps: np.ndarray
    diverged: np.ndarray
    trained: np.ndarray
    params: Any
    at_once: tuple[int, int]
    bytes: int
    kept: np.ndarray


class Curves:
    """The curves of a sweep, filled record by record. Scores here are the lower the better."""

    def __init__(self, settings: int, seeds: int, records: int, maximise: bool, keep_best: bool):
        """Starts with nothing trained: NaN everywhere."""
        shape = (settings, seeds, records)
        self.losses, self.values = np.full(shape, np.nan), np.full(shape, np.nan)
        self.trained = np.zeros(settings, int)
        self.scores = np.full(settings, np.inf)
        self.sign = -1.0 if maximise else 1.0
        self.keep_best = keep_best

    def record(
        self,
        settings: np.ndarray,
        seeds: np.ndarray,
        number: int,
        found: tuple[jax.Array, jax.Array],
    ) -> None:
        """Adds one record: training losses and values, (settings, seeds), of the given ones."""
        for array, new in zip((self.losses, self.values), found, strict=True):
            array[settings[:, None], seeds, number] = new

    def finish(self, settings: np.ndarray, end: int) -> None:
        """Scores settings trained up to `end`: the value that is kept, averaged over seeds."""
        losses, values = self.losses[settings, :, :end], self.values[settings, :, :end]
        finite = np.isfinite(losses).all(axis=(1, 2)) & np.isfinite(values).all(axis=(1, 2))
        with np.errstate(invalid="ignore"):
            kept = self.sign * values
            kept = kept.min(axis=2) if self.keep_best else kept[:, :, -1]
        self.trained[settings] = end
        self.scores[settings] = np.where(finite, kept.mean(axis=1), np.inf)

    def kept(self, setting: int) -> np.ndarray:
        """At which record each seed of a setting kept its params, (seeds,)."""
        records = self.trained[setting]
        values = self.sign * self.values[setting, :, :records]
        if self.keep_best:
            return np.where(np.isfinite(values), values, np.inf).argmin(axis=1)
        return np.full(len(values), records - 1)

    def diverged(self) -> np.ndarray:
        """Whether a loss or a value was not finite, (settings, seeds)."""
        seen = np.arange(self.losses.shape[2]) < self.trained[:, None, None]
        finite = np.isfinite(self.losses) & np.isfinite(self.values)
        return np.any(~finite & seen, axis=2)
