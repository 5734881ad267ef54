"""What `tritia.tiam` reaches, what an update costs, and what inertia and depth do to it.

Run `python benchmarks/tiam.py PART... [--cora FOLDER] [--mnist FOLDER]` with any of the parts

  defaults   test metric after 10, 50 iterations, all data sets, 2 to 10 layers, default settings
  choice     the same for the settings that the defaults were chosen from
  cora       mean of 10 seeds by iteration: the defaults, and the setting nearest to the paper
  digits     time to 0.975 training and 0.96 test accuracy, against tuned Adam in the same run
  cost       an update against a full-batch step of Adam, Cora's shapes
  inertia    iterations to the same objective, with and without inertia
  scaling    time by rows (MNIST) and by layers

and it prints Markdown. Data sets whose folder is not given are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import tritia
from tritia.compare import datasets, training, tuning
from tritia.compare.optimizers import OPTIMIZERS, Optimizer, alternating

HIDDEN = 100
SMALL = ("digits", "wine", "breast_cancer", "diabetes")
CHOICES: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "mu=0.03": {"mu": 0.03},
    "mu=0.3": {"mu": 0.3},
    "rho=gamma=1e-2": {"rho": 1e-2, "gamma": 1e-2},
    "gamma=3e-3": {"gamma": 3e-3},
    "penalty_growth=1": {"penalty_growth": 1.0},
    "penalty_growth=1.5": {"penalty_growth": 1.5},
    "no inertia": {"inertia": tritia.Inertia()},
    "correct=0.6": {"inertia": tritia.Inertia(0.0, 0.0, 0.6)},
    "mu=1e-3, the same for all layers": {"mu": 1e-3, "scale_mu": False},
}


def load(name: str, folders: Mapping[str, Path | None]) -> datasets.Dataset | None:
    """The data set, or None where its folder is not given."""
    if name in folders and folders[name] is None:
        return None
    return datasets.DATASETS[name](folders.get(name))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a Markdown table, each row as it comes."""
    print("|", " | ".join(head), "|")
    print("|", " | ".join("---" for _ in head), "|", flush=True)
    for row in rows:
        print("|", " | ".join(row), "|", flush=True)
    print()


def curves(
    data: datasets.Dataset, depth: int, optimizer: Optimizer, iterations: int, seeds: int
) -> training.Curves:
    """Trains all seeds at once and evaluates after each iteration."""
    bench = training.prepare(data, (HIDDEN,) * (depth - 1), seeds, None)
    compiled = training.compile_training(bench, optimizer, {})
    return training.train(bench, optimizer, compiled, iterations)


def show_defaults(folders: Mapping[str, Path | None], seeds: int) -> None:
    """Default settings over data sets and depths."""
    print(f"Default settings, {HIDDEN} units a hidden layer, mean of {seeds} seeds (least).\n")

    def rows() -> Iterator[list[str]]:
        for name, depth in itertools.product((*SMALL, "cora"), (2, 3, 6, 10)):
            data = load(name, folders)
            if data is None:
                continue
            found = curves(data, depth, alternating(), 50, seeds)
            test = found.test_metric
            cells = [
                f"{test[:, at].mean():.3f} ({test[:, at].min():.3f})" for at in (4, 10, 20, 50)
            ]
            yield [name, str(depth), *cells, f"{found.training_metric[:, 50].mean():.3f}"]

    head = ["data", "layers", *(f"test after {at}" for at in (4, 10, 20, 50)), "train after 50"]
    table(head, rows())


def show_choice(folders: Mapping[str, Path | None], seeds: int) -> None:
    """The settings that the defaults were chosen from."""
    names = [name for name in (*SMALL, "cora") if load(name, folders) is not None]
    problems = [(name, depth) for name in names for depth in (3, 10)]
    head = ["setting", *(f"{name}, {depth}" for name, depth in problems)]

    def rows() -> Iterator[list[str]]:
        for label, settings in CHOICES.items():
            cells = []
            for name, depth in problems:
                data = load(name, folders)
                assert data is not None
                test = curves(data, depth, alternating(**settings), 50, seeds).test_metric
                cells.append(f"{test[:, 10].mean():.3f} / {test[:, 50].mean():.3f}")
            yield [label, *cells]

    print(f"Test metric after 10 / 50 iterations, mean of {seeds} seeds.\n")
    table(head, rows())


def show_cora(folders: Mapping[str, Path | None], seeds: int) -> None:
    """The published data set."""
    data = load("cora", folders)
    if data is None:
        return
    paper = {
        "coupling": "inequality",
        "sweep": "forward",
        "weight_step": "exact",
        "rho": 1e-3,
        "mu": 0.05,
        "scale_mu": False,
        "penalty_growth": 1.0,
        "tau": 1e-3,
        "inertia": tritia.Inertia(0.3, 0.3, 0.3),
    }
    marks = (5, 10, 15, 20, 50)

    def rows() -> Iterator[list[str]]:
        for label, settings in (
            ("defaults", {}),
            ("inequality, forward, exact, (0.3, 0.3, 0.3)", paper),
            ("the same, backtracking", {**paper, "weight_step": "backtracking"}),
        ):
            test = curves(data, 3, alternating(**settings), 50, seeds).test_metric
            yield (
                [label, *(f"{test[:, at].mean():.3f} ± {test[:, at].std():.3f}" for at in marks)]
            )

    print(f"Cora, 3 layers of {HIDDEN}: test accuracy, mean and deviation of {seeds} seeds.\n")
    table(["setting", *(f"after {at}" for at in marks)], rows())


def show_digits(folders: Mapping[str, Path | None], seeds: int) -> None:
    """Time to an accuracy on digits, each side with all rows or minibatches."""
    del folders
    data = load("digits", {})
    assert data is not None
    bench = training.prepare(data, (HIDDEN,) * 2, seeds, 128)
    adam = OPTIMIZERS["adam"]
    full = dataclasses.replace(adam, full_batch=True)
    sides: list[tuple[str, Optimizer, int]] = [
        ("tiam, defaults", alternating(), 12),
        ("adam, full batch", full, 60),
        ("adam, batches of 128", adam, 12),
    ]
    runs = []
    for label, optimizer, epochs in sides:
        setting = tuning.tune(bench, optimizer, epochs).setting if optimizer.learning_rate else {}
        runs.append((label, optimizer, epochs, setting))
    # One seed at a time, as a user trains, in turn.
    reached: dict[str, list[tuple[float, float]]] = {label: [] for label, *_ in runs}
    compiled = {}
    for seed in range(seeds):
        one = dataclasses.replace(
            bench,
            splits=jax.tree.map(lambda leaf, seed=seed: leaf[seed : seed + 1], bench.splits),
            initial=jax.tree.map(lambda leaf, seed=seed: leaf[seed : seed + 1], bench.initial),
            seeds=1,
        )
        for label, optimizer, epochs, setting in runs:
            if label not in compiled:
                compiled[label] = _single(one, optimizer, setting)
            reached[label].append(_time_to(one, optimizer, compiled[label], epochs))
    rows = []
    for label, _, _, setting in runs:
        epochs = [pair[0] for pair in reached[label]]
        seconds = [pair[1] for pair in reached[label]]
        rate = f"{setting['learning_rate']:g}" if setting else "none"
        rows.append(
            [
                label,
                rate,
                f"{statistics.median(epochs):g}",
                f"{1e3 * statistics.median(seconds):.1f}",
                str(sum(np.isfinite(epochs))),
            ]
        )
    print(
        "digits, 3 layers: epochs and time (compiled) until 0.975 training and 0.96 test accuracy,"
        f" medians of {seeds} seeds and splits, one at a time.\n"
    )
    table(["method", "learning rate", "epochs", "milliseconds", f"reached, of {seeds}"], rows)


def _single(bench: training.Bench, optimizer: Optimizer, setting: Mapping[str, float]) -> Any:
    """The compiled functions of one seed: start, epoch, evaluate."""
    pure = training.functions(bench, optimizer)
    numbers = {name: jnp.float32(value) for name, value in setting.items()}
    start = jax.jit(lambda params: pure.start(numbers, params))
    epoch = jax.jit(
        lambda carry, rows, split, batches: pure.epoch(numbers, carry, rows, split, batches)
    )

    @jax.jit
    def evaluate(carry, rows, split):
        return tuple(pure.evaluate(carry, rows, split, part)[1] for part in ("training", "test"))

    return start, epoch, evaluate


def _time_to(
    bench: training.Bench, optimizer: Optimizer, compiled: Any, epochs: int
) -> tuple[float, float]:
    """Epochs and seconds of training until both accuracies are reached."""
    start, epoch, evaluate = compiled
    split, params = jax.tree.map(lambda leaf: leaf[0], (bench.splits, bench.initial))
    batches = [jnp.asarray(bench.batches(optimizer, e)[0]) for e in range(epochs)]
    jax.block_until_ready(epoch(start(params), bench.rows, split, batches[0]))  # compiled, warm
    carry, seconds = start(params), 0.0
    for done, batch in enumerate(batches, start=1):
        began = time.perf_counter()
        carry = jax.block_until_ready(epoch(carry, bench.rows, split, batch))
        seconds += time.perf_counter() - began
        train, test = evaluate(carry, bench.rows, split)
        if train >= 0.975 and test >= 0.96:
            return done, seconds
    return float("inf"), float("inf")


Step = Callable[[Any, Any, jax.Array, jax.Array], tuple[Any, Any]]


def make_params(sizes: Sequence[int]) -> Any:
    """He-initialised dense layers."""
    keys = jax.random.split(jax.random.key(0), len(sizes))
    return [
        {"kernel": jax.random.normal(key, (i, o)) * (2 / i) ** 0.5, "bias": jnp.zeros(o)}
        for key, i, o in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]


def apply(params: Any, x: jax.Array) -> jax.Array:
    """The network's outputs."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def solver_step(solver: Any) -> Step:
    """An update of the alternating solver."""

    def step(params, state, x, y):
        updates, state = solver.update(None, state, params, inputs=x, targets=y)
        return optax.apply_updates(params, updates), state

    return step


def adam_step(optimizer: optax.GradientTransformation) -> Step:
    """A step of Adam on all rows."""

    def step(params, state, x, y):
        def loss(params):
            rows = optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y)
            return jnp.mean(rows)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return step


def time_in_turn(
    sizes: Sequence[int],
    rows: int,
    sides: Mapping[str, Any],
    rounds: int,
    data: tuple[jax.Array, jax.Array] | None = None,
) -> dict[str, float]:
    """Seconds of one step of each side, medians of rounds in which each is stepped once.

    Args:
      sizes: widths of the network.
      rows: examples.
      sides: by name, (optimizer, its step).
      rounds: how many.
      data: inputs and labels; None draws them at random.
    """
    if data is None:
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(rows, sizes[0])) / np.sqrt(sizes[0]), jnp.float32)
        y = jnp.asarray(rng.integers(sizes[-1], size=rows))
    else:
        x, y = data
    running: dict[str, list[Any]] = {}
    for name, (optimizer, step) in sides.items():
        params = make_params(sizes)
        compiled = jax.jit(step, donate_argnums=(0, 1))
        carry = (params, optimizer.init(params))
        for _ in range(3):
            carry = jax.block_until_ready(compiled(*carry, x, y))
        running[name] = [compiled, carry, []]
    for _ in range(rounds):
        for run in running.values():
            began = time.perf_counter()
            run[1] = jax.block_until_ready(run[0](*run[1], x, y))
            run[2].append(time.perf_counter() - began)
    return {name: statistics.median(run[2]) for name, run in running.items()}


def show_cost(folders: Mapping[str, Path | None], seeds: int) -> None:
    """An update against a full-batch step of Adam."""
    del folders, seeds
    shapes = {
        "Cora's: 140 rows, 7165-100-100-7": ((7165, 100, 100, 7), 140),
        "digits': 1437 rows, 64-100-100-10": ((64, 100, 100, 10), 1437),
        "10000 rows, 784-256-256-10": ((784, 256, 256, 10), 10000),
        "2000 rows, 100, 12 layers": ((100,) * 12 + (10,), 2000),
    }

    def rows() -> Iterator[list[str]]:
        for label, (sizes, count) in shapes.items():
            adam = optax.adam(1e-3)
            sides = {"adam": (adam, adam_step(adam))}
            for kind in ("auto", "exact", "line_search", "backtracking"):
                solver = tritia.tiam(count, weight_step=kind)
                sides[kind] = (solver, solver_step(solver))
            seconds = time_in_turn(sizes, count, sides, 40 if count < 5000 else 9)
            yield (
                [label, f"{1e3 * seconds['adam']:.2f}"]
                + [
                    f"{1e3 * seconds[kind]:.2f} ({seconds[kind] / seconds['adam']:.2f})"
                    for kind in sides
                    if kind != "adam"
                ]
            )

    print("Milliseconds an update, in brackets the ratio to Adam's step on all rows.\n")
    table(["shapes", "adam", "auto", "exact", "line_search", "backtracking"], rows())


def show_inertia(folders: Mapping[str, Path | None], seeds: int) -> None:
    """Iterations to the objective that the plain method has after 100."""
    problems: dict[str, tuple[str, Mapping[str, Any]]] = {
        "digits, penalty": ("digits", {}),
        "digits, penalty, line_search": ("digits", {"weight_step": "line_search"}),
        "digits, inequality, eps = 0.1": (
            "digits",
            {"coupling": "inequality", "eps": 0.1, "weight_step": "exact"},
        ),
        "wine, penalty": ("wine", {}),
        "wine, penalty, line_search": ("wine", {"weight_step": "line_search"}),
        "breast_cancer, penalty": ("breast_cancer", {}),
        "breast_cancer, backtracking": ("breast_cancer", {"weight_step": "backtracking"}),
        "diabetes, penalty": ("diabetes", {}),
        "Cora, penalty": ("cora", {}),
        "Cora, inequality, eps = 0.1, tau = 1e-3": (
            "cora",
            {"coupling": "inequality", "eps": 0.1, "weight_step": "exact", "tau": 1e-3},
        ),
    }
    inertias = [
        (0.0, 0.0, 0.3),
        (0.0, 0.0, 0.6),
        (0.0, 0.0, 0.9),
        (0.5, 0.5, 0.0),
        (0.9, 0.9, 0.0),
        (0.3, 0.3, 0.3),
        (0.6, 0.6, 0.6),
    ]
    long = 100

    def rows() -> Iterator[list[str]]:
        for label, (name, settings) in problems.items():
            data = load(name, folders)
            if data is None:
                continue

            objectives = _objectives(data, settings, seeds, long)
            plain = objectives((0.0, 0.0, 0.0))
            goal = plain[:, -1:]
            best, cells = np.inf, []
            for inertia in inertias:
                found = objectives(inertia)
                needed = np.where(
                    (found <= goal).any(axis=1), (found <= goal).argmax(axis=1) + 1.0, np.inf
                )
                share = float(np.median(needed)) / long
                best = min(best, share)
                cells.append(f"{share:.2f}" if np.isfinite(share) else "more")
            yield [label, *cells, f"{best:.2f}"]

    print(
        f"Share of the plain method's {long} iterations after which the objective is as low, 3"
        f" layers, median of {seeds} seeds; (predict, evaluate, correct).\n"
    )
    table(["problem", *map(str, inertias), "best"], rows())


def _objectives(
    data: datasets.Dataset, settings: Mapping[str, Any], seeds: int, iterations: int
) -> Callable[[Sequence[float]], np.ndarray]:
    """The lowest objective so far by seed and iteration, as a function of the coefficients."""
    bench = training.prepare(data, (HIDDEN,) * 2, seeds, None)
    optimizer = alternating(**settings)
    pure = training.functions(bench, optimizer)
    batches = jnp.asarray(bench.batches(optimizer, 0))

    @jax.jit
    def run(inertia, rows, initial, splits, batches):
        setting = {"inertia": inertia}

        def train(params, split, batch):
            def step(carry, _):
                carry = pure.epoch(setting, carry, rows, split, batch)
                return carry, tritia.diagnostics(carry.state).objective

            return jax.lax.scan(step, pure.start(setting, params), length=iterations)[1]

        return jax.vmap(train)(initial, splits, batches)

    def objectives(inertia: Sequence[float]) -> np.ndarray:
        coefficients = tritia.Inertia(*map(jnp.float32, inertia))
        found = run(coefficients, bench.rows, bench.initial, bench.splits, batches)
        return np.minimum.accumulate(np.asarray(found), axis=1)

    return objectives


def show_scaling(folders: Mapping[str, Path | None], seeds: int) -> None:
    """Time by rows and by layers; the slope on log axes."""
    del seeds
    mnist = load("mnist", folders)

    def seconds(sizes, count):
        data = None
        if mnist is not None and sizes[0] == mnist.inputs.shape[1]:
            x = (mnist.inputs[:count] - mnist.inputs.mean()) / mnist.inputs.std()
            data = (jnp.asarray(x), jnp.asarray(mnist.targets[:count]))
        solver = tritia.tiam(count)
        return time_in_turn(sizes, count, {"tiam": (solver, solver_step(solver))}, 5, data)["tiam"]

    for what, values, run in (
        (
            "rows of MNIST, or random ones without its folder (784-256-256-10)",
            (1000, 10000, 60000),
            lambda v: seconds((784, 256, 256, 10), v),
        ),
        ("layers (2000 rows of 100)", (3, 6, 12), lambda v: seconds((100,) * v + (10,), 2000)),
    ):
        times = [run(value) for value in values]
        slope = np.polyfit(np.log(values), np.log(times), 1)[0]
        head = [what, *map(str, values), "slope on log axes"]
        table(
            head, [["milliseconds an update", *(f"{1e3 * t:.1f}" for t in times), f"{slope:.2f}"]]
        )


PARTS: Mapping[str, Callable[[Mapping[str, Path | None], int], None]] = {
    "defaults": show_defaults,
    "choice": show_choice,
    "cora": show_cora,
    "digits": show_digits,
    "cost": show_cost,
    "inertia": show_inertia,
    "scaling": show_scaling,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What tritia.tiam reaches and costs.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--cora", type=Path, help="folder with the Planetoid files of Cora")
    parser.add_argument("--mnist", type=Path, help="folder with MNIST's files")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    for part in arguments.parts or PARTS:
        PARTS[part]({"cora": arguments.cora, "mnist": arguments.mnist}, arguments.seeds)


if __name__ == "__main__":
    main()
