"""Which figures are drawn from the curves: learning, reproducibility, cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tritia._compare.optimizers import Optimizer
from tritia._compare.training import Curves
from tritia._compare.tuning import Tuning


class Spread(NamedTuple):
    """The distribution of a figure over seeds.

    Attributes:
      median: over the seeds that count.
      least: the least value.
      greatest: the greatest value.
    """

    median: float
    least: float
    greatest: float


def spread(values: np.ndarray) -> Spread | None:
    """The spread of some values; None of none."""
    if values.size == 0:
        return None
    points = np.percentile(values, (50, 0, 100))
    return Spread(*(float(point) for point in points))


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the comparison says of one optimizer. Seeds that diverged count in `diverged` alone.

    Attributes:
      name: as on the command line.
      optimizer: from the registry.
      tuning: how its setting was found; None without tuning.
      setting: the learning rate and coefficients it was trained with.
      diverged: how many seeds diverged.
      training_loss: at the last epoch.
      test_metric: at the last epoch.
      epochs_to_target: the median over all seeds, infinite where half or more never get there.
      reached: how many seeds reach the target.
      final_metrics: the test metric of each seed at the last epoch, NaN where it diverged.
      seconds_per_epoch: per seed; None while not measured.
      compile_seconds: of one epoch for all seeds.
    """

    name: str
    optimizer: Optimizer
    tuning: Tuning | None
    setting: Mapping[str, float]
    diverged: int
    training_loss: Spread | None
    test_metric: Spread | None
    epochs_to_target: float
    reached: int
    final_metrics: np.ndarray
    seconds_per_epoch: Spread | None
    compile_seconds: float


def diverged_at(curves: Curves, limit: float) -> np.ndarray:
    """The epoch at which each seed diverged, -1 where it did not.

    Args:
      curves: of one optimizer.
      limit: a run has diverged when its training loss is not finite or above this.

    Returns:
      int of shape (seeds,).
    """
    with np.errstate(invalid="ignore"):
        bad = ~(curves.training_loss <= limit) | ~np.isfinite(curves.test_loss)
    return np.where(bad.any(axis=1), bad.argmax(axis=1), -1)


def summarise(
    name: str,
    optimizer: Optimizer,
    tuning: Tuning,
    curves: Curves,
    target: float,
    diverged_loss: float,
    seconds: Sequence[float] | None,
) -> Figures:
    """Draws one optimizer's figures from its curves.

    Args:
      name: as on the command line.
      optimizer: from the registry.
      tuning: how its setting was found.
      curves: what it did.
      target: the test metric that counts as having got there.
      diverged_loss: a training loss above it counts as diverged.
      seconds: measured times per epoch and seed, or None.

    Returns:
      The `Figures`.
    """
    well = diverged_at(curves, diverged_loss) < 0
    loss, metric = curves.training_loss[well], curves.test_metric[well]
    reached = metric >= target
    first = np.where(reached.any(axis=1), reached.argmax(axis=1), math.inf)
    epochs_to_target = np.full(len(well), math.inf)
    epochs_to_target[well] = first
    # The lower middle and the upper middle may be a number and infinity: no interpolation.
    middle = np.sort(epochs_to_target)[len(well) // 2]
    return Figures(
        name=name,
        optimizer=optimizer,
        tuning=tuning if tuning.tried else None,
        setting=tuning.setting,
        diverged=int((~well).sum()),
        training_loss=spread(loss[:, -1]),
        test_metric=spread(metric[:, -1]),
        epochs_to_target=float(middle),
        reached=int(np.isfinite(epochs_to_target).sum()),
        final_metrics=np.where(well, curves.test_metric[:, -1], math.nan),
        seconds_per_epoch=None if seconds is None else spread(np.asarray(seconds)),
        compile_seconds=curves.compile_seconds,
    )


def metric_rows(
    name: str, optimizer: Optimizer, curves: Curves, diverged_loss: float, steps_per_epoch: int
) -> list[dict[str, Any]]:
    """The curves in long form: one row per seed and epoch, epoch 0 before training."""
    diverged = diverged_at(curves, diverged_loss)
    seeds, points = curves.training_loss.shape
    return [
        {
            "optimizer": name,
            "seed": seed,
            "epoch": epoch,
            "gradient_evaluations": epoch * steps_per_epoch * optimizer.gradients_per_step,
            "training_loss": float(curves.training_loss[seed, epoch]),
            "training_metric": float(curves.training_metric[seed, epoch]),
            "test_loss": float(curves.test_loss[seed, epoch]),
            "test_metric": float(curves.test_metric[seed, epoch]),
            "diverged": int(0 <= diverged[seed] <= epoch),
            **{key: float(values[seed, epoch]) for key, values in curves.diagnostics.items()},
        }
        for seed in range(seeds)
        for epoch in range(points)
    ]
