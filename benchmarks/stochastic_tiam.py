"""Mini-batch TIAM against Adam on MNIST: accuracy per epoch, epochs and seconds to a target.

Run `python benchmarks/stochastic_tiam.py --data FOLDER`, the folder with the IDX files of MNIST.

Both sides choose one of as many settings on validation rows, with one seed that is not among those
compared. Then every seed trains with both in one process, an epoch of one after an epoch of the
other, so that whatever else the machine does hits both. A second is that of one seed alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tritia.compare import datasets, training, tuning
from tritia.compare.optimizers import OPTIMIZERS, Optimizer

BATCH_SIZES = (128, 256)
LEARNING_RATES = {"adam": (3e-4, 1e-3, 3e-3), "stochastic_tiam": (0.1, 0.3, 1.0)}


@dataclasses.dataclass
class Contestant:
    """One optimizer with its tuned setting, compiled for one seed.

    Attributes:
      optimizer: from the registry.
      bench: with the batch size chosen.
      setting: the learning rate chosen.
      start: params -> carry.
      epoch: (carry, split, batches) -> carry.
      evaluate: (carry, split) -> test accuracy.
      accuracy: per seed, per epoch.
      seconds: per seed, per epoch.
    """

    optimizer: Optimizer
    bench: training.Bench
    setting: dict[str, float]
    epoch: Any = None
    evaluate: Any = None
    start: Any = None
    accuracy: list[list[float]] = dataclasses.field(default_factory=list)
    seconds: list[list[float]] = dataclasses.field(default_factory=list)


def tune(name: str, bench: training.Bench, epochs: int) -> Contestant:
    """Tries every batch size and learning rate on the validation rows of the last seed."""
    optimizer = OPTIMIZERS[name]
    last = jax.tree.map(lambda leaf: leaf[-1:], (bench.splits, bench.initial))
    bench = dataclasses.replace(bench, splits=last[0], initial=last[1], seeds=1)
    best, chosen = -np.inf, None
    for batch_size in BATCH_SIZES:
        sized = dataclasses.replace(bench, batch_size=batch_size)
        settings = [{"learning_rate": rate} for rate in LEARNING_RATES[name]]
        scores, _ = tuning.validate(sized, optimizer, settings, epochs)
        for setting, score in zip(settings, scores, strict=True):
            print(f"  {name}, batch {batch_size}, {setting}: validation {score:.4f}", flush=True)
            if score > best:
                best, chosen = score, Contestant(optimizer, sized, setting)
    assert chosen is not None
    return chosen


def compile_for_one_seed(contestant: Contestant, bench: training.Bench) -> None:
    """Compiles an epoch and the evaluation, and runs both once."""
    pure = training.functions(contestant.bench, contestant.optimizer)
    numbers = {name: jnp.float32(value) for name, value in contestant.setting.items()}

    @jax.jit
    def epoch(carry: Any, rows: Any, split: Any, batches: Any) -> Any:
        return pure.epoch(numbers, carry, rows, split, batches)

    @jax.jit
    def evaluate(carry: Any, rows: Any, split: Any) -> Any:
        return pure.evaluate(carry, rows, split, "test")[1]

    start = jax.jit(lambda params: pure.start(numbers, params))
    contestant.epoch = lambda carry, split, batches: epoch(carry, bench.rows, split, batches)
    contestant.evaluate = lambda carry, split: evaluate(carry, bench.rows, split)
    contestant.start = start


def train(contestants: dict[str, Contestant], bench: training.Bench, epochs: int) -> None:
    """Trains every seed but the last with all contestants, epoch by epoch in turn."""
    for contestant in contestants.values():
        compile_for_one_seed(contestant, bench)
    for seed in range(bench.seeds - 1):
        split, initial = jax.tree.map(lambda leaf, s=seed: leaf[s], (bench.splits, bench.initial))
        carries = {name: c.start(initial) for name, c in contestants.items()}
        for contestant in contestants.values():
            contestant.accuracy.append([])
            contestant.seconds.append([])
        for number in range(epochs):
            for name, contestant in contestants.items():
                sized = dataclasses.replace(contestant.bench, seeds=bench.seeds)
                batches = jnp.asarray(sized.batches(contestant.optimizer, number)[seed])
                if not number and not seed:  # compile, and let the first run allocate
                    jax.block_until_ready(contestant.epoch(carries[name], split, batches))
                began = time.perf_counter()
                carry = jax.block_until_ready(contestant.epoch(carries[name], split, batches))
                contestant.seconds[-1].append(time.perf_counter() - began)
                contestant.accuracy[-1].append(float(contestant.evaluate(carry, split)))
                carries[name] = carry


def table(contestants: dict[str, Contestant], epochs: int, targets: list[float]) -> str:
    """The figures as Markdown: medians over seeds; "-" where most seeds miss a target."""
    heads = ["optimizer", "batch", "learning rate"]
    heads += [f"epoch {number}" for number in range(1, epochs + 1)]
    heads += ["s per epoch"]
    heads += [f"epochs, s to {target}" for target in targets]
    rows = []
    for name, contestant in contestants.items():
        accuracy = np.array(contestant.accuracy)
        row = [name, str(contestant.bench.batch_size), f"{contestant.setting['learning_rate']:g}"]
        row += [f"{median:.4f}" for median in np.median(accuracy, axis=0)]
        row += [f"{np.median(contestant.seconds):.2f}"]
        for target in targets:
            counts, seconds = [], []
            for run, times in zip(accuracy, contestant.seconds, strict=True):
                count = next((i + 1 for i, a in enumerate(run) if a >= target), None)
                counts.append(count or np.inf)
                seconds.append(sum(times[:count]) if count else np.inf)
            median = statistics.median_high(counts)
            reached = f"{median:g}, {statistics.median_high(seconds):.1f}"
            row.append("-" if np.isinf(median) else reached)
        rows.append(row)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Tunes, trains and prints."""
    parser = argparse.ArgumentParser(description="Mini-batch TIAM against Adam on MNIST.")
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST's IDX files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--tuning-epochs", type=int, default=4)
    parser.add_argument("--targets", default="0.97,0.975,0.98", help="test accuracies")
    parser.add_argument("--networks", default="256x2,128x5", help="width x hidden layers, ...")
    parser.add_argument("--quick", action="store_true", help="one seed, three epochs, no tuning")
    parser.add_argument("--out", type=Path, help="file that the Markdown is written to")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.epochs = 1, 3

    targets = [float(target) for target in arguments.targets.split(",")]
    dataset = datasets.DATASETS["mnist"](arguments.data)
    header = (
        f"MNIST, {platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__},"
        f" medians of {arguments.seeds} seeds."
    )
    sections = [header]
    for network in arguments.networks.split(","):
        width, layers = (int(part) for part in network.split("x"))
        # One seed more, which tunes and is not compared.
        bench = training.prepare(dataset, (width,) * layers, arguments.seeds + 1, None)
        contestants = {}
        for name in LEARNING_RATES:
            if arguments.quick:
                setting = {"learning_rate": LEARNING_RATES[name][1]}
                contestants[name] = Contestant(OPTIMIZERS[name], bench, setting)
            else:
                contestants[name] = tune(name, bench, arguments.tuning_epochs)
        train(contestants, bench, arguments.epochs)
        title = f"784{f'-{width}' * layers}-10, ReLU, {bench.training_rows} training rows:"
        sections.append(f"{title}\n\n{table(contestants, arguments.epochs, targets)}")
        print(sections[-1], flush=True)
        if arguments.out:
            arguments.out.write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
