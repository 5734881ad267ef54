"""Mini-batch TIAM on MNIST beside Adam and SGD with momentum: what it reaches, and what it costs.

Run `python -m benchmarks.stochastic_tiam PART... --data FOLDER --out RESULTS`, the folder with the
IDX files of MNIST and one for results, with any of the parts

  race       accuracy after each epoch, epochs and seconds to a target, all optimizers tuned
  variants   accuracy and time with other periods, ranks and batches: where the time goes
  choice     validation accuracy by damping and inertia: how the block step's were chosen
  targets    validation accuracy with first-order targets and with exact blocks

The race has both steps, of a fixed size (the default) and with inertia; the other parts, which are
about the block step, have inertia.

and it prints Markdown. What is finished stays in the folder of results: the same command goes on
where it was, also with more seeds.

Every learning rate falls to 0 over the run, by half a cosine. In the race each optimizer tries the
same number of batch sizes and learning rates with a seed that is not among those compared, judged
on validation rows after the last epoch; then it trains on training and validation rows together.
Where several train, an epoch of one follows an epoch of the other, so that whatever else the
machine does hits all of them. Seconds are those of one seed alone, without compilation.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import tritia
from benchmarks.timing import add_parts
from tritia._compare import datasets, training
from tritia._compare.optimizers import OPTIMIZERS, Optimizer, stochastic_alternating
from tritia.alternating import growing_period

BATCH_SIZES = (128, 256)
CONTESTANTS = {
    "adam": (OPTIMIZERS["adam"], (3e-4, 1e-3, 3e-3, 1e-2)),
    "momentum": (OPTIMIZERS["momentum"], (1e-2, 3e-2, 0.1, 0.3)),
    "stochastic_tiam": (OPTIMIZERS["stochastic_tiam"], (3e-3, 1e-2, 3e-2, 0.1)),
    "stochastic_tiam_inertia": (OPTIMIZERS["stochastic_tiam_inertia"], (0.3, 1.0, 3.0, 10.0)),
}
DAMPINGS = (1.0, 3.0, 10.0, 30.0)
# Learning rates over the damping: where a Gram matrix has little to say, a step is their ratio.
# Momentum p makes an effective learning rate 1 / (1 - p) times as large.
CHOICES: Mapping[str, tuple[Mapping[str, Any], Sequence[float]]] = {
    "none": ({"step": tritia.Inertia()}, (0.3, 1.0, 3.0)),
    "heavy ball, 0.9": ({}, (0.03, 0.1, 0.3)),
    "Nesterov, 0.9": ({"step": tritia.Inertia(0.9, 0.9)}, (0.03, 0.1, 0.3)),
    "heavy ball, 0.9, diagonals alone": ({"max_gram": 0}, (0.03, 0.1, 0.3)),
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "rank 8": {"rank": 8},
    "rank 16": {"rank": 16},
    "rank 64": {"rank": 64},
    "whole inverse": {"rank": None},
    "refresh up to every 30": {"refresh_period": growing_period(1, 30)},
    "factor up to every 300": {"factor_period": growing_period(5, 300)},
    "both": {
        "refresh_period": growing_period(1, 30),
        "factor_period": growing_period(5, 300),
    },
    "diagonal for the wide input": {"max_gram": 300},
    "diagonal for all": {"max_gram": 0},
}


class Entry(NamedTuple):
    """One optimizer at one setting.

    Attributes:
      label: of the optimizer; entries with the same label and batch size share what is compiled.
      optimizer: from the registry.
      batch_size: rows in a minibatch.
      setting: its numbers, "learning_rate" and perhaps others.
    """

    label: str
    optimizer: Optimizer
    batch_size: int
    setting: Mapping[str, Any]


class Curve(NamedTuple):
    """What one entry did with one seed.

    Attributes:
      accuracy: after each epoch.
      seconds: of each epoch, by the clock.
      cpu_seconds: of each epoch, of all threads together; other work on the machine counts less.
    """

    accuracy: list[float]
    seconds: list[float]
    cpu_seconds: list[float]


class Trainer:
    """Trains entries on one network, compiling each kind of them once."""

    def __init__(self, dataset: datasets.Dataset, network: str, seeds: int, epochs: int) -> None:
        width, layers = (int(number) for number in network.split("x"))
        self.title = f"784{f'-{width}' * layers}-10"
        self.epochs = epochs
        self.bench = training.prepare(dataset, (width,) * layers, seeds, None)
        self._compiled: dict[tuple[Any, ...], tuple[Callable[..., Any], ...]] = {}

    def run(self, entries: Sequence[Entry], seed: int, *, refit: bool) -> list[Curve]:
        """Trains with one seed, an epoch of each in turn.

        Args:
          entries: what to train.
          seed: decides the initial weights and the order of the rows.
          refit: whether to train on the validation rows too and judge by test rows; otherwise the
            validation rows judge.
        """
        part = "test" if refit else "validation"
        benches = [dataclasses.replace(self.bench, batch_size=e.batch_size) for e in entries]
        split, initial = jax.tree.map(
            lambda leaf: leaf[seed], (self.bench.splits, self.bench.initial)
        )
        if refit:
            rows = jnp.concatenate([self.bench.splits.training, self.bench.splits.validation], 1)
            benches = [
                dataclasses.replace(b, splits=b.splits._replace(training=rows)) for b in benches
            ]
            split = split._replace(training=rows[seed])
        functions = [self._compile(e, b) for e, b in zip(entries, benches, strict=True)]
        numbers = [jax.tree.map(jnp.float32, dict(e.setting)) for e in entries]
        carries = [f[0](n, initial) for f, n in zip(functions, numbers, strict=True)]
        curves = [Curve([], [], []) for _ in entries]
        for number in range(self.epochs):
            for i, (_, epoch, evaluate) in enumerate(functions):
                batches = jnp.asarray(benches[i].batches(entries[i].optimizer, number)[seed])
                arguments = (numbers[i], carries[i], self.bench.rows, split, batches)
                if not number:  # compile, and let the first run allocate
                    jax.block_until_ready(epoch(*arguments))
                began = time.perf_counter(), time.process_time()
                carries[i] = jax.block_until_ready(epoch(*arguments))
                curves[i].seconds.append(time.perf_counter() - began[0])
                curves[i].cpu_seconds.append(time.process_time() - began[1])
                curves[i].accuracy.append(
                    float(evaluate(carries[i], self.bench.rows, split, part)[1])
                )
        return curves

    def _compile(self, entry: Entry, bench: training.Bench) -> tuple[Callable[..., Any], ...]:
        key = (entry.label, entry.batch_size, bench.training_rows)
        if key not in self._compiled:
            steps = self.epochs * bench.steps_per_epoch(entry.optimizer)
            pure = training.functions(bench, decaying(entry.optimizer, steps))
            self._compiled[key] = (
                jax.jit(pure.start),
                jax.jit(pure.epoch),
                jax.jit(pure.evaluate, static_argnums=3),
            )
        return self._compiled[key]


def decaying(optimizer: Optimizer, steps: int) -> Optimizer:
    """The optimizer with its learning rate falling to 0 over the steps, by half a cosine."""

    def build(setting: Mapping[str, Any], problem: Any) -> optax.GradientTransformation:
        schedule: Any = optax.cosine_decay_schedule(setting["learning_rate"], steps)
        return optimizer.build({**setting, "learning_rate": schedule}, problem)

    return dataclasses.replace(optimizer, build=build)


def with_inertia(**settings: Any) -> Optimizer:
    """Mini-batch TIAM whose block steps have inertia: it shows most of what the blocks are worth.

    Args:
      **settings: arguments of `tritia.stochastic_tiam`.
    """
    return stochastic_alternating(1.0, **{"step": tritia.Inertia(0.9), **settings})


def kept(
    path: Path, trainer: Trainer, entries: Sequence[Entry], seed: int, *, refit: bool = False
) -> list[Curve]:
    """Reads the curves of a run from a file, or trains and writes them."""
    if path.exists():
        return [Curve(*curve) for curve in json.loads(path.read_text())]
    curves = trainer.run(entries, seed, refit=refit)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(curves))
    return curves


def table(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def final(curves: Sequence[Curve]) -> np.ndarray:
    """The accuracy after the last epoch; 0 where training diverged to NaN."""
    return np.nan_to_num([curve.accuracy[-1] for curve in curves])


def tune(trainer: Trainer, name: str, out: Path) -> tuple[Entry, list[list[str]]]:
    """The entry that is best on validation rows after the last epoch, and all of them."""
    rows, best, chosen = [], -np.inf, None
    optimizer, rates = CONTESTANTS[name]
    for batch_size in BATCH_SIZES:
        entries = [Entry(name, optimizer, batch_size, {"learning_rate": rate}) for rate in rates]
        path = out / f"tuning-{trainer.title}-{trainer.epochs}-{name}-{batch_size}.json"
        curves = kept(path, trainer, entries, 0)
        scores = final(curves)
        texts = [
            f"{entry.setting['learning_rate']:g}: {s:.4f}"
            for entry, s in zip(entries, scores, strict=True)
        ]
        rows.append([name, str(batch_size), *texts])
        if scores.max() > best:
            best, chosen = scores.max(), entries[int(scores.argmax())]
    assert chosen is not None
    return chosen, rows


def race(dataset: datasets.Dataset, arguments: argparse.Namespace) -> None:
    """Tunes every optimizer, then trains all of them with every seed."""
    targets = [float(target) for target in arguments.targets.split(",")]
    for network in arguments.networks.split(","):
        seeds = 1 + arguments.seeds  # the first one tunes and is not compared
        tuning = Trainer(dataset, network, 1, arguments.tuning_epochs)
        tuned = [tune(tuning, name, arguments.out) for name in CONTESTANTS]
        heads = ["optimizer", "batch", *(f"rate {i + 1}" for i in range(4))]
        print(f"\n{tuning.title}: validation accuracy after {tuning.epochs} epochs\n")
        print(table([heads, *(row for _, rows in tuned for row in rows)]), flush=True)

        trainer = Trainer(dataset, network, seeds, arguments.epochs)
        entries = [entry for entry, _ in tuned]
        chosen = "-".join(f"{e.batch_size}-{e.setting['learning_rate']:g}" for e in entries)
        runs = []
        for seed in range(1, seeds):
            path = arguments.out / f"race-{trainer.title}-{trainer.epochs}-{chosen}-{seed}.json"
            runs.append(kept(path, trainer, entries, seed, refit=True))
        print(f"\n{trainer.title}: test accuracy, medians of {arguments.seeds} seeds\n")
        print(race_table(entries, runs, targets), flush=True)


def race_table(entries: Sequence[Entry], runs: Any, targets: Sequence[float]) -> str:
    """The figures of `race`; "-" where most seeds miss a target.

    The last column is the median over seeds of the ratio of seconds to the last target: what a
    seed's optimizers took in turn was measured on the same machine at nearly the same time.
    """
    epochs = len(runs[0][0].accuracy)
    heads = ["optimizer", "batch", "learning rate", *(str(n + 1) for n in range(epochs))]
    heads += ["least, greatest", "s an epoch (quartiles)", "CPU s"]
    heads += [f"epochs, s to {target:g}" for target in targets]
    heads += [f"s to {targets[-1]:g} over {entries[0].label}'s"]
    rows = [heads]
    reference: list[float] = []
    for entry, curves in zip(entries, zip(*runs, strict=True), strict=True):
        accuracy = np.nan_to_num([curve.accuracy for curve in curves])  # 0 where it diverged
        seconds = np.array([curve.seconds for curve in curves])
        low, middle, high = np.percentile(seconds, [25, 50, 75])
        row = [entry.label, str(entry.batch_size), f"{entry.setting['learning_rate']:g}"]
        row += [f"{median:.4f}" for median in np.median(accuracy, axis=0)]
        row += [f"{accuracy[:, -1].min():.4f}, {accuracy[:, -1].max():.4f}"]
        row += [f"{middle:.2f} ({low:.2f} to {high:.2f})"]
        row += [f"{np.median([curve.cpu_seconds for curve in curves]):.2f}"]
        spent: list[float] = []
        for target in targets:
            reached = accuracy >= target
            first = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)
            spent = [
                sum(times[: int(n)]) if np.isfinite(n) else np.inf
                for times, n in zip(seconds, first, strict=True)
            ]
            count, clock = statistics.median_high(first.tolist()), statistics.median_high(spent)
            missed = int(np.sum(np.isinf(first)))
            note = f" ({missed} of {len(first)} never)" if missed else ""
            row.append(("-" if np.isinf(count) else f"{count:g}, {clock:.1f}") + note)
        reference = reference or spent  # the first entry's
        both = [a / b for a, b in zip(spent, reference, strict=True) if np.isfinite([a, b]).all()]
        row.append(f"{statistics.median(both):.2f}" if 2 * len(both) > len(spent) else "-")
        rows.append(row)
    return table(rows)


def variants(dataset: datasets.Dataset, arguments: argparse.Namespace) -> None:
    """Other settings of the Gram matrices, and other batches, beside Adam."""
    network = arguments.networks.split(",")[0]
    trainer = Trainer(dataset, network, 1, arguments.short_epochs)
    entries = [Entry("adam", OPTIMIZERS["adam"], 128, {"learning_rate": 1e-3})]
    split = jax.tree.map(lambda leaf: leaf[0], trainer.bench.splits)
    inputs, _ = training.gather(trainer.bench.dataset, trainer.bench.rows, split, split.training)
    known = {"first Gram matrix given": {"input_gram": gram(inputs)}}
    for label, settings in {**VARIANTS, **known}.items():
        optimizer = with_inertia(**settings)
        entries.append(Entry(label, optimizer, 128, {"learning_rate": 1.0}))
    for batch_size, rate, adam_rate in ((256, 1.5, 1.5e-3), (512, 2.0, 2e-3)):
        adam = {"learning_rate": adam_rate}
        entries.append(Entry("adam", OPTIMIZERS["adam"], batch_size, adam))
        setting = {"learning_rate": rate}
        entries.append(Entry("defaults", with_inertia(), batch_size, setting))
    path = arguments.out / f"variants-{trainer.title}-{trainer.epochs}.json"
    curves = kept(path, trainer, entries, 0)
    heads = ["setting", "batch", "learning rate", f"accuracy after {trainer.epochs}"]
    rows = [[*heads, "s an epoch", "over Adam's", "CPU s", "over Adam's"]]
    adam = (1.0, 1.0)
    for entry, curve in zip(entries, curves, strict=True):
        times = statistics.median(curve.seconds), statistics.median(curve.cpu_seconds)
        if entry.label == "adam":  # of the same batch size as those that follow
            adam = times
        row = [entry.label, str(entry.batch_size), f"{entry.setting['learning_rate']:g}"]
        row.append(f"{curve.accuracy[-1]:.4f}")
        row += [
            text for t, a in zip(times, adam, strict=True) for text in (f"{t:.2f}", f"{t / a:.2f}")
        ]
        rows.append(row)
    print(f"\n{trainer.title}: settings, validation accuracy\n\n{table(rows)}", flush=True)


def gram(inputs: jax.Array) -> jax.Array:
    """The Gram matrix of the first layer's inputs, the constant one of the bias among them."""
    rows = jnp.pad(inputs, ((0, 0), (0, 1)), constant_values=1)
    return rows.T @ rows / len(rows)


def choice(dataset: datasets.Dataset, arguments: argparse.Namespace) -> None:
    """The best of three learning rates for each damping and inertia, on validation rows."""
    network = arguments.networks.split(",")[0]
    trainer = Trainer(dataset, network, 1, arguments.short_epochs)
    rows = [["inertia", *(f"damping {damping:g}" for damping in DAMPINGS)]]
    for label, (settings, ratios) in CHOICES.items():
        optimizer = with_inertia(**settings)
        row = [label]
        for damping in DAMPINGS:
            entries = [
                Entry(label, optimizer, 128, {"learning_rate": ratio * damping, "damping": damping})
                for ratio in ratios
            ]
            path = arguments.out / f"choice-{trainer.title}-{trainer.epochs}-{label}-{damping}.json"
            row.append(best_of(entries, kept(path, trainer, entries, 0)))
        rows.append(row)
    print(f"\n{trainer.title}: validation accuracy after {trainer.epochs} epochs", end=" ")
    print(f"(at the best learning rate)\n\n{table(rows)}", flush=True)


def best_of(entries: Sequence[Entry], curves: Sequence[Curve]) -> str:
    """The best accuracy after the last epoch, and its learning rate."""
    scores = final(curves)
    best = int(scores.argmax())
    return f"{scores[best]:.4f} ({entries[best].setting['learning_rate']:g})"


def targets(dataset: datasets.Dataset, arguments: argparse.Namespace) -> None:
    """First-order targets against exact blocks, each at the best of its learning rates."""
    rows = [["network", "targets", "accuracy (learning rate)", "s an epoch"]]
    for network in arguments.networks.split(","):
        trainer = Trainer(dataset, network, 1, arguments.short_epochs)
        for kind in ("gradient", "exact"):
            optimizer = with_inertia(target_step=kind)
            entries = [
                Entry(kind, optimizer, 128, {"learning_rate": rate}) for rate in (0.3, 1.0, 3.0)
            ]
            path = arguments.out / f"targets-{trainer.title}-{trainer.epochs}-{kind}.json"
            curves = kept(path, trainer, entries, 0)
            seconds = statistics.median(itertools.chain(*(curve.seconds for curve in curves)))
            rows.append([trainer.title, kind, best_of(entries, curves), f"{seconds:.2f}"])
    print(
        f"\nValidation accuracy after {arguments.short_epochs} epochs\n\n{table(rows)}", flush=True
    )


PARTS = {"race": race, "variants": variants, "choice": choice, "targets": targets}


def main() -> None:
    parser = argparse.ArgumentParser(description="Mini-batch TIAM against Adam on MNIST.")
    add = parser.add_argument
    add_parts(parser, PARTS)
    add("--data", type=Path, required=True, help="folder with MNIST's IDX files")
    add("--out", type=Path, required=True, help="folder of results")
    add("--seeds", type=int, default=5)
    add("--epochs", type=int, default=8)
    add("--tuning-epochs", type=int, default=3)
    add("--short-epochs", type=int, default=2, help="of variants, choice and targets")
    add("--targets", default="0.97,0.975,0.98", help="test accuracies")
    add("--networks", default="256x2,128x5", help="width x hidden layers, ...")
    add("--quick", action="store_true", help="one seed, three epochs, two of tuning")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.epochs = 1, 3
        arguments.tuning_epochs = arguments.short_epochs = 2

    dataset = datasets.DATASETS["mnist"](arguments.data)
    device = jax.devices()[0].device_kind
    print(f"MNIST, ReLU, {platform.machine()}, {device}, jax {jax.__version__}")
    for part in arguments.parts:
        PARTS[part](dataset, arguments)


if __name__ == "__main__":
    main()
