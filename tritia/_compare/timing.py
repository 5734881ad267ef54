"""How the cost is measured: one epoch of each optimizer in turn, on a machine that may be busy.

Learning curves are computed one optimizer after the other, and a machine is not equally fast for
all of them. So their epochs are timed afterwards, one epoch of each in turn, over several rounds.
A time is that of one compiled epoch for all seeds together on one device, however many of them
trained, divided by the number of seeds: it includes gathering and scaling the minibatches,
gradients, the update and, for seeds run as one vmapped computation, what batching them gains. It
leaves out compiling, shuffling and evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from tritia._compare.optimizers import Optimizer
from tritia._compare.training import Bench, Compiled, Progress

ROUNDS = 15
_FEWEST_ROUNDS = 3
_BUDGET_SECONDS = 20.0


def time_epochs(
    bench: Bench,
    optimizers: Mapping[str, Optimizer],
    compiled: Mapping[str, Compiled],
    progress: Progress = lambda: None,
) -> dict[str, list[float]]:
    """Times one epoch of each optimizer in turn, up to `ROUNDS` times.

    Args:
      bench: what is shared.
      optimizers: by name.
      compiled: their compiled training, by the same names.
      progress: called after each round.

    Returns:
      For each name, seconds per epoch and seed, one per round; fewer rounds when they are slow.
    """
    batches = {
        name: jnp.asarray(bench.batches(optimizer, 0)) for name, optimizer in optimizers.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for name in optimizers:  # Warm up: the first run allocates.
        jax.block_until_ready(compiled[name].epoch(compiled[name].carry, batches[name]))
    began = time.perf_counter()
    for done in range(ROUNDS):
        if done >= _FEWEST_ROUNDS and time.perf_counter() - began > _BUDGET_SECONDS:
            break
        for name in optimizers:
            start = time.perf_counter()
            jax.block_until_ready(compiled[name].epoch(compiled[name].carry, batches[name]))
            seconds[name].append((time.perf_counter() - start) / bench.seeds)
        progress()
    return seconds
