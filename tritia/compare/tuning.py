"""How the learning rate is chosen: one vmapped sweep per optimizer, judged on validation rows.

Every optimizer gets the same number of learning rates, half a decade apart, around a centre that
is usual for it; where the best is the first or the last, the sweep goes on in that direction, at
most twice. Coefficients, where an optimizer has some to tune, follow at the best learning rate. The
score is the validation loss at its best epoch, averaged over the tuning seeds: at the best epoch,
because the loss of a classifier rises again once it is confident, long before its accuracy suffers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tritia.compare.optimizers import Optimizer, learning_rates
from tritia.compare.training import Bench, Progress, functions

TUNING_SEEDS = 3
EXTENSIONS = 2


class Tuning(NamedTuple):
    """What tuning found.

    Attributes:
      setting: the best learning rate and coefficients.
      tried: every setting tried, in order.
      scores: the validation loss of each at its best epoch; infinite where a seed diverged.
      at_edge: "lowest" or "highest" where the best learning rate is the last one tried in that
        direction, so that one beyond might be better still; "" otherwise.
      failed: True where every setting diverged; `setting` is then the smallest learning rate.
    """

    setting: Mapping[str, float]
    tried: Sequence[Mapping[str, float]]
    scores: Sequence[float]
    at_edge: str
    failed: bool


def tune(
    bench: Bench, optimizer: Optimizer, epochs: int, progress: Progress = lambda: None
) -> Tuning:
    """Tunes one optimizer on the validation rows of the first few seeds.

    Args:
      bench: what is shared.
      optimizer: from the registry.
      epochs: as many as the comparison will train for.
      progress: called after each epoch of each sweep.

    Returns:
      The `Tuning`.
    """
    bench = bench.first(min(bench.seeds, TUNING_SEEDS))
    defaults = {name: values[0] for name, values in optimizer.coefficients.items()}
    tried: list[Mapping[str, float]] = []
    scores: list[float] = []

    def sweep(settings: list[Mapping[str, float]]) -> None:
        scores.extend(validation_losses(bench, optimizer, settings, epochs, progress))
        tried.extend(settings)

    at_edge = ""
    if optimizer.learning_rate is not None:
        extension = 0
        for _ in range(1 + EXTENSIONS):
            rates = learning_rates(optimizer.learning_rate, extension)
            sweep([{"learning_rate": rate, **defaults} for rate in rates])
            at_edge = _edge([setting["learning_rate"] for setting in tried], scores)
            if not at_edge:
                break
            extension += 1 if at_edge == "highest" else -1
    if defaults or not tried:
        best = tried[int(np.argmin(scores))] if tried else {}
        names, values = list(optimizer.coefficients), optimizer.coefficients.values()
        combinations = [
            {**best, **dict(zip(names, combination, strict=True))}
            for combination in itertools.product(*values)
        ]
        sweep([setting for setting in combinations if setting not in tried] or combinations)
    best = int(np.argmin(scores))
    failed = not math.isfinite(scores[best])
    if failed and optimizer.learning_rate is not None:
        best = int(np.argmin([setting["learning_rate"] for setting in tried]))
    return Tuning(tried[best], tried, scores, at_edge, failed)


def _edge(rates: list[float], scores: list[float]) -> str:
    best = rates[int(np.argmin(scores))]
    if not math.isfinite(min(scores)):
        return "lowest"  # All diverged: go down.
    return "lowest" if best == min(rates) else "highest" if best == max(rates) else ""


def validation_losses(
    bench: Bench,
    optimizer: Optimizer,
    settings: Sequence[Mapping[str, float]],
    epochs: int,
    progress: Progress = lambda: None,
) -> list[float]:
    """Trains with all settings and all seeds of the bench as one computation.

    Args:
      bench: what is shared.
      optimizer: from the registry.
      settings: the numbers to try, the same names in each.
      epochs: how many.
      progress: called after each.

    Returns:
      For each setting the validation loss at the best epoch, averaged over seeds; infinite where
      the loss of any seed was not finite at some epoch.
    """
    pure = functions(bench, optimizer)
    stacked = {
        name: jnp.asarray([setting[name] for setting in settings], jnp.float32)
        for name in settings[0]
    }
    width = len(settings)

    def over_seeds_and_settings(function: Any, axes: tuple[Any, ...]) -> Any:
        # axes: for each argument "seeds", "both", "settings" or None.
        inner = tuple(0 if axis in ("seeds", "both") else None for axis in axes)
        outer = tuple(0 if axis in ("settings", "both") else None for axis in axes)
        return jax.jit(
            jax.vmap(jax.vmap(function, in_axes=inner), in_axes=outer, axis_size=width)
        )

    def epoch_and_loss(setting: Any, carry: Any, rows: Any, split: Any, batches: Any) -> Any:
        carry = pure.epoch(setting, carry, rows, split, batches)
        return carry, pure.evaluate(carry, rows, split, "validation")[0]

    start = over_seeds_and_settings(pure.start, ("settings", "seeds"))
    advance = over_seeds_and_settings(
        epoch_and_loss, ("settings", "both", None, "seeds", "seeds")
    )
    carry = start(stacked, bench.initial)
    losses = []
    for epoch in range(epochs):
        batches = jnp.asarray(bench.batches(optimizer, epoch))
        carry, loss = advance(stacked, carry, bench.rows, bench.splits, batches)
        losses.append(np.asarray(loss))
        progress()
    # (epochs, settings, seeds)
    curves = np.stack(losses)
    diverged = ~np.isfinite(curves).all(axis=0)
    best = np.where(diverged, np.inf, np.where(np.isfinite(curves), curves, np.inf).min(axis=0))
    return [float(score) for score in best.mean(axis=1)]
