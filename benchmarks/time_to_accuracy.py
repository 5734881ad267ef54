r"""Training time until a test metric, TIAM against what a user would pick instead.

    pip install "tritia[benchmarks]"
    python -m benchmarks.time_to_accuracy DATA... [--cora FOLDER] [--mnist FOLDER]

Two hidden layers of 100 units. Every method is tuned as `tritia compare` tunes it, on validation
rows: its learning rate, or the weight decay of `tiam`, which has none; then each seed trains with
all methods in one process, one after another, and the time of its epochs, compiled, is added up
until the test metric is there. Evaluating is not counted. Levenberg-Marquardt, by Optimistix, takes
part in regression, where its residuals are. Medians over the seeds; a method that most of them do
not bring there has a dash, and the best test metric that it came to instead. Tuning takes most of
the time; half an hour on MNIST with:

    python -m benchmarks.time_to_accuracy mnist --mnist FOLDER --epochs 10 --steps 30 \
        --tuning-seeds 1
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox
import jax
import jax.flatten_util
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix

from benchmarks.timing import header, table
from tritia._compare import datasets, training, tuning
from tritia._compare.optimizers import OPTIMIZERS, Optimizer

HIDDEN = (100, 100)
GOALS = {
    # Training and test metric; the test metric is the one that `tritia compare` counts epochs to,
    # but for Cora, where it is a harder one.
    "digits": (0.975, 0.96),
    "wine": (0.0, 0.95),
    "breast_cancer": (0.0, 0.95),
    "diabetes": (0.0, 0.4),
    "cora": (0.0, 0.8),
    "mnist": (0.0, 0.97),
}
MINIBATCHES = (
    "stochastic_tiam",
    "stochastic_tiam_inertia",
    "spectral_momentum",
    "adam",
    "adamw",
    "momentum",
    "muon",
)
FULL_BATCH = ("tiam", "adam", "momentum", "lbfgs")


class Side(NamedTuple):
    """One method, compiled for one seed.

    Attributes:
      label: as in the table.
      setting: its tuned numbers, for the table.
      epochs: how many it may take.
      start: (params, seed) -> carry.
      epoch: (carry, seed, number) -> carry.
      evaluate: (carry, seed, part) -> metric.
    """

    label: str
    setting: str
    epochs: int
    start: Callable[[Any, int], Any]
    epoch: Callable[[Any, int, int], Any]
    evaluate: Callable[[Any, int, str], jax.Array]


class Reached(NamedTuple):
    """How a run went; the first three are infinite where the goal was not reached.

    Attributes:
      epochs: it took.
      seconds: of training.
      cpu_seconds: of all threads, while it trained; other work on the machine disturbs them less.
      best: the best test metric on the way, to which a wild method may come by chance.
    """

    epochs: float
    seconds: float
    cpu_seconds: float
    best: float


def at_seed(tree: Any, seed: int) -> Any:
    """One seed's part."""
    return jax.tree.map(lambda leaf: leaf[seed], tree)


def registered(
    bench: training.Bench, name: str, full_batch: bool, epochs: int, tuning_seeds: int
) -> Side:
    """A method of the comparison's registry, tuned."""
    optimizer: Optimizer = OPTIMIZERS[name]
    rows_seen = "all rows" if full_batch else f"batches of {bench.batch_size}"
    optimizer = dataclasses.replace(optimizer, full_batch=full_batch)
    setting: Any = {}
    if optimizer.learning_rate is not None or optimizer.coefficients:
        setting = tuning.tune(bench.only(0, tuning_seeds), optimizer, epochs).setting
    pure = training.functions(bench, optimizer)
    numbers = {key: jnp.float32(value) for key, value in setting.items()}
    # The data are arguments: a constant would be folded at compile time.
    epoch = jax.jit(lambda *given: pure.epoch(numbers, *given))
    evaluate = jax.jit(pure.evaluate, static_argnums=3)
    start = jax.jit(lambda params: pure.start(numbers, params))
    return Side(
        f"{name}, {rows_seen}",
        ", ".join(f"{key} {value:g}" for key, value in setting.items()) or "none",
        epochs,
        lambda params, seed: start(params),
        lambda carry, seed, number: epoch(
            carry,
            bench.rows,
            at_seed(bench.splits, seed),
            jnp.asarray(bench.batches(optimizer, number)[seed]),
        ),
        lambda carry, seed, part: evaluate(carry, bench.rows, at_seed(bench.splits, seed), part)[1],
    )


def levenberg_marquardt(bench: training.Bench, epochs: int) -> Side:
    """Optimistix's on all rows, its linear systems by conjugate gradients."""
    systems = lineax.Normal(lineax.CG(rtol=1e-3, atol=1e-3, max_steps=100))
    solver = optimistix.LevenbergMarquardt(rtol=1e-6, atol=1e-6, linear_solver=systems)
    pure = training.functions(bench, OPTIMIZERS["sgd"])
    flatten = jax.flatten_util.ravel_pytree
    unravel = flatten(at_seed(bench.initial, 0))[1]

    def residuals(flat: jax.Array, split: Any) -> tuple[jax.Array, None]:
        inputs, targets = training.gather(bench.dataset, bench.rows, split, split.training)
        return (bench.net.apply(unravel(flat), inputs) - targets).ravel(), None

    @equinox.filter_jit
    def start(params: Any, split: Any) -> Any:
        flat = flatten(params)[0]
        out, aux = jax.eval_shape(residuals, flat, split)
        return flat, solver.init(residuals, flat, split, {}, out, aux, frozenset())

    @equinox.filter_jit
    def step(carry: Any, split: Any) -> Any:
        return solver.step(residuals, carry[0], split, {}, carry[1], frozenset())[:2]

    @functools.partial(jax.jit, static_argnums=2)
    def evaluate(flat: jax.Array, split: Any, part: str) -> jax.Array:
        return pure.evaluate(training.Carry(unravel(flat), ()), bench.rows, split, part)[1]

    return Side(
        "Levenberg-Marquardt, all rows",
        "none",
        epochs,
        # The first step only evaluates the start.
        lambda params, seed: step(
            start(params, at_seed(bench.splits, seed)), at_seed(bench.splits, seed)
        ),
        lambda carry, seed, number: step(carry, at_seed(bench.splits, seed)),
        lambda carry, seed, part: evaluate(carry[0], at_seed(bench.splits, seed), part),
    )


def time_to(bench: training.Bench, side: Side, seed: int, goal: tuple[float, float]) -> Reached:
    """Trains one seed until both metrics are there."""
    params = at_seed(bench.initial, seed)
    if not seed:
        carry = side.start(params, seed)
        for number in range(2):  # compiled, for what comes in and for what went out
            carry = jax.block_until_ready(side.epoch(carry, seed, number))
    carry, seconds, best = side.start(params, seed), np.zeros(2), -np.inf
    for number in range(side.epochs):
        began = np.array([time.perf_counter(), time.process_time()])
        carry = jax.block_until_ready(side.epoch(carry, seed, number))
        seconds += [time.perf_counter(), time.process_time()] - began
        training_goal, test_goal = goal
        test = float(side.evaluate(carry, seed, "test"))
        best = np.fmax(best, test)  # NaN where it diverged
        enough = not training_goal or side.evaluate(carry, seed, "training") >= training_goal
        if enough and test >= test_goal:
            return Reached(number + 1, seconds[0], seconds[1], best)
    return Reached(np.inf, np.inf, np.inf, best)


def show(name: str, folder: Path | None, arguments: argparse.Namespace) -> None:
    """Tunes, trains and prints the table of one data set."""
    bench = training.prepare(datasets.DATASETS[name](folder), HIDDEN, arguments.seeds, None)
    # Where all rows are one batch there is one way to take them.
    whole = bench.batch_size == bench.training_rows
    methods = [] if whole else [(method, False) for method in MINIBATCHES]
    methods += [(method, True) for method in FULL_BATCH]
    if whole:
        methods += [(method, True) for method in MINIBATCHES if method not in FULL_BATCH]
    sides, tuning_seeds = [], min(arguments.tuning_seeds, bench.seeds)
    for method, full in methods:
        began = time.perf_counter()
        epochs = arguments.steps if full else arguments.epochs
        sides.append(registered(bench, method, full, epochs, tuning_seeds))
        told = f"{name}: {sides[-1].label}: {sides[-1].setting}"
        print(f"{told}, tuned in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    if bench.net.task == "regression":
        sides.append(levenberg_marquardt(bench, arguments.steps))
    reached: dict[str, list[Reached]] = {side.label: [] for side in sides}
    for seed in range(bench.seeds):
        for side in sides:
            reached[side.label].append(time_to(bench, side, seed, GOALS[name]))
            print(f"{name}: seed {seed}: {side.label}: {reached[side.label][-1]}", file=sys.stderr)

    training_goal, test_goal = GOALS[name]
    goal = f"test {test_goal}" + (f" and training {training_goal}" if training_goal else "")
    print(f"{name}, {bench.training_rows} training rows, {bench.seeds} seeds, until {goal}:\n")
    rows = []
    for side in sides:
        epochs, seconds, cpu, best = np.median(reached[side.label], axis=0)
        there = sum(np.isfinite(run.epochs) for run in reached[side.label])
        figures = ["-", "-", "-"]
        if np.isfinite(epochs):
            figures = [f"{epochs:g}", f"{1e3 * seconds:.1f}", f"{1e3 * cpu:.1f}"]
        rows.append([side.label, side.setting, *figures, str(there), f"{best:.3f}"])
    columns = ["method", "tuned", "epochs", "ms", "CPU ms", "seeds there", "best test metric"]
    table(columns, rows)


def main() -> None:
    """Prints a table for each data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="*", help=f"any of {', '.join(GOALS)}; default: all at hand")
    parser.add_argument("--cora", type=Path, help="folder with the Planetoid files of Cora")
    parser.add_argument("--mnist", type=Path, help="folder with MNIST's files")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=30, help="at most, of minibatches")
    parser.add_argument("--steps", type=int, default=100, help="at most, on all rows")
    parser.add_argument(
        "--tuning-seeds", type=int, default=tuning.TUNING_SEEDS, help="at most, for each setting"
    )
    parser.add_argument("--quick", action="store_true", help="wine, 2 seeds, few epochs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.data, arguments.seeds = ["wine"], 2
        arguments.epochs, arguments.steps = 5, 20
    folders = {"cora": arguments.cora, "mnist": arguments.mnist}
    print(header(), end="\n\n")
    for name in arguments.data or GOALS:
        if name in folders and folders[name] is None:
            print(f"{name}: its folder is not given.\n")
        else:
            show(name, folders.get(name), arguments)


if __name__ == "__main__":
    main()
