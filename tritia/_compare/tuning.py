"""How the learning rate is chosen: one vmapped sweep per optimizer, judged on validation rows.

Every optimizer gets the same number of learning rates, half a decade apart, around a centre that
is usual for it; where the best is the first or the last, the sweep goes on in that direction, at
most twice. Coefficients, where an optimizer has some to tune, follow at the best learning rate.

A setting is judged by its accuracy (or R^2) on the validation rows, averaged over the second half
of the epochs and over the tuning seeds; the loss, averaged likewise, decides between equals. Not by
the loss alone, which for a classifier rises again once it is confident, and not at the best epoch,
which rewards a wild learning rate for one lucky moment.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tritia._compare.optimizers import Optimizer, learning_rates
from tritia._compare.training import Bench, Progress, functions
from tritia.sweeps._lanes import Axes, lanes_for

Edge = Literal["", "lowest", "highest"]
"""On which side a better learning rate may lie beyond those tried."""

TUNING_SEEDS = 3
EXTENSIONS = 2


class Tuning(NamedTuple):
    """What tuning found.

    Attributes:
      setting: the best learning rate and coefficients.
      tried: every setting tried, in order.
      scores: the validation metric of each; minus infinity where a seed diverged.
      losses: the validation loss of each; infinite where a seed diverged.
      at_edge: "lowest" or "highest" where the best learning rate is the last one tried in that
        direction, so that one beyond might be better still; "" otherwise.
      failed: True where every setting diverged; `setting` is then the smallest learning rate.
    """

    setting: Mapping[str, float]
    tried: Sequence[Mapping[str, float]]
    scores: Sequence[float]
    losses: Sequence[float]
    at_edge: Edge
    failed: bool


def tune(
    bench: Bench,
    optimizer: Optimizer,
    epochs: int,
    progress: Progress = lambda: None,
    seeds: int = TUNING_SEEDS,
) -> Tuning:
    """Tunes one optimizer on the validation rows of the first few seeds.

    Args:
      bench: what is shared.
      optimizer: from the registry.
      epochs: as many as the comparison will train for.
      progress: called after each epoch of each sweep.
      seeds: how many at most.

    Returns:
      The `Tuning`.
    """
    bench = bench.only(0, min(bench.seeds, seeds))
    defaults = {name: values[0] for name, values in optimizer.coefficients.items()}
    tried: list[Mapping[str, float]] = []
    scores: list[float] = []
    losses: list[float] = []

    def sweep(settings: Sequence[Mapping[str, float]]) -> None:
        found = validate(bench, optimizer, settings, epochs, progress)
        scores.extend(found[0])
        losses.extend(found[1])
        tried.extend(settings)

    def best() -> int:
        return max(range(len(tried)), key=lambda index: (scores[index], -losses[index]))

    at_edge: Edge = ""
    if optimizer.learning_rate is not None:
        extension = 0
        for _ in range(1 + EXTENSIONS):
            rates = learning_rates(optimizer.learning_rate, extension)
            sweep([{"learning_rate": rate, **defaults} for rate in rates])
            rates = [setting["learning_rate"] for setting in tried]
            at_edge = _edge(rates, rates[best()], scores[best()])
            if not at_edge:
                break
            extension += 1 if at_edge == "highest" else -1
    if defaults or not tried:
        so_far = tried[best()] if tried else {}
        names, values = list(optimizer.coefficients), optimizer.coefficients.values()
        combinations = [
            {**so_far, **dict(zip(names, combination, strict=True))}
            for combination in itertools.product(*values)
        ]
        sweep([setting for setting in combinations if setting not in tried] or combinations)
    chosen = tried[best()]
    failed = not math.isfinite(scores[best()])
    if failed and optimizer.learning_rate is not None:
        chosen = min(tried, key=lambda setting: setting["learning_rate"])
    return Tuning(chosen, tried, scores, losses, at_edge, failed)


def _edge(rates: list[float], best: float, score: float) -> Edge:
    if not math.isfinite(score):
        return "lowest"  # All diverged: go down.
    return "lowest" if best == min(rates) else "highest" if best == max(rates) else ""


def validate(
    bench: Bench,
    optimizer: Optimizer,
    settings: Sequence[Mapping[str, float]],
    epochs: int,
    progress: Progress = lambda: None,
) -> tuple[list[float], list[float]]:
    """Trains with all settings and all seeds of the bench as one computation.

    Args:
      bench: what is shared.
      optimizer: from the registry.
      settings: the numbers to try, the same names in each.
      epochs: how many.
      progress: called after each.

    Returns:
      For each setting the validation metric and the validation loss, averaged over the second half
      of the epochs and over seeds; minus and plus infinity where a seed diverged.
    """
    pure = functions(bench, optimizer)
    stacked = {
        name: jnp.asarray([setting[name] for setting in settings], jnp.float32)
        for name in settings[0]
    }
    lanes = lanes_for(bench.mesh, len(settings), bench.seeds)
    lanes = lanes.where_needed(len(settings), bench.seeds)
    width = lanes.divided(len(settings), bench.seeds)[0]

    def over_seeds_and_settings(function: Any, result: Any, *axes: Axes) -> Any:
        inner = tuple(0 if axis in ("seeds", "both") else None for axis in axes)
        outer = tuple(0 if axis in ("settings", "both") else None for axis in axes)
        over_both = jax.vmap(jax.vmap(function, in_axes=inner), in_axes=outer, axis_size=width)
        return lanes.spread(over_both, axes, result)

    def epoch_and_validation(setting: Any, carry: Any, rows: Any, split: Any, batches: Any) -> Any:
        carry = pure.epoch(setting, carry, rows, split, batches)
        return carry, pure.evaluate(carry, rows, split, "validation")

    start = over_seeds_and_settings(pure.start, "both", "settings", "seeds")
    advance = over_seeds_and_settings(
        epoch_and_validation, "both", "settings", "both", "none", "seeds", "seeds"
    )
    stacked, rows = lanes.place(stacked, "settings"), lanes.place(bench.rows, "none")
    splits, initial = (lanes.place(part, "seeds") for part in (bench.splits, bench.initial))
    carry = start(stacked, initial)
    found = []
    for epoch in range(epochs):
        batches = lanes.place(jnp.asarray(bench.batches(optimizer, epoch)), "seeds")
        carry, validation = advance(stacked, carry, rows, splits, batches)
        whole = jax.device_get(validation)
        found.append(jax.tree.map(lambda x: x[: len(settings), : bench.seeds], whole))
        progress()
    # (epochs, settings, seeds)
    loss, metric = (np.stack(values) for values in zip(*found, strict=True))
    with np.errstate(invalid="ignore"):
        well = (loss <= bench.dataset.diverged_loss).all(axis=(0, 2))
    late = slice(epochs // 2, None)
    metrics = np.where(well, metric[late].mean(axis=(0, 2)), -np.inf)
    losses = np.where(well, loss[late].mean(axis=(0, 2)), np.inf)
    return metrics.tolist(), losses.tolist()
