"""What `tritia.tiam` reaches, and what inertia and depth do to it.

Run `python -m benchmarks.tiam PART... [--cora FOLDER] [--mnist FOLDER]` with any of the parts

  defaults   test metric after 10, 50 iterations, all data sets, 2 to 10 layers, default settings
  choice     validation metric of the settings that the defaults were chosen from
  cora       mean of 10 seeds by iteration: the defaults, and the setting nearest to the paper
  inertia    iterations to the same objective, with and without inertia
  mnist      test accuracy on MNIST with all rows at once, by how its pixels are scaled
  rows       5000, 10 000 and 60 000 rows of MNIST at once, beside Adam and L-BFGS on all of them
  wide       60 000 rows of MNIST at once, one hidden layer of 2000, beside the same
  orders     the orders of the pass: accuracy, and updates to an accuracy, 3 to 24 layers

and it prints Markdown. Data sets whose folder is not given are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import tritia
from benchmarks.families import classification_loss, outputs, perceptron
from benchmarks.tiam_cost import tiam_step
from benchmarks.timing import add_parts, header, table
from tritia._compare import datasets, training
from tritia._compare.optimizers import Optimizer, alternating

HIDDEN = 100
SMALL = ("digits", "wine", "breast_cancer", "diabetes")
DEFAULTS: Mapping[str, Any] = {
    "rho": 1e-3,
    "gamma": 1e-3,
    "mu": 0.1,
    "penalty_growth": 2.0,
    "inertia": (0.0, 0.0, 0.3),
}
CHOICES: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "mu = 0.03": {"mu": 0.03},
    "mu = 0.3": {"mu": 0.3},
    "rho = gamma = 3e-4": {"rho": 3e-4, "gamma": 3e-4},
    "rho = gamma = 1e-2": {"rho": 1e-2, "gamma": 1e-2},
    "gamma = 3e-4": {"gamma": 3e-4},
    "gamma = 3e-3": {"gamma": 3e-3},
    "penalty_growth = 1": {"penalty_growth": 1.0},
    "penalty_growth = 1.4": {"penalty_growth": 1.4},
    "penalty_growth = 2.8": {"penalty_growth": 2.8},
    "no inertia": {"inertia": (0.0, 0.0, 0.0)},
    "correct = 0.6": {"inertia": (0.0, 0.0, 0.6)},
}


def load(name: str, folders: Mapping[str, Path | None]) -> datasets.Dataset | None:
    """The data set, or None where its folder is not given."""
    if name in folders and folders[name] is None:
        return None
    return datasets.DATASETS[name](folders.get(name))


def curves(
    data: datasets.Dataset, depth: int, optimizer: Optimizer, iterations: int, seeds: int
) -> training.Curves:
    """Trains all seeds at once and evaluates after each iteration."""
    bench = training.prepare(data, (HIDDEN,) * (depth - 1), seeds, None)
    compiled = training.compile_training(bench, optimizer, {})
    return training.train(bench, optimizer, compiled, iterations)[0]


def show_defaults(
    folders: Mapping[str, Path | None],
    seeds: int,
    names: Sequence[str] = (*SMALL, "cora"),
    depths: Sequence[int] = (2, 3, 6, 10),
) -> None:
    """Default settings over data sets and depths."""
    print(f"Default settings, {HIDDEN} units a hidden layer, mean of {seeds} seeds (least).\n")

    def rows() -> Iterator[list[str]]:
        for name, depth in itertools.product(names, depths):
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
    print(f"Validation metric after 10 / 50 iterations, mean of {seeds} seeds.\n")
    # A compilation serves all settings, so the table has a row for each problem.
    rows = []
    problems = [(name, 3) for name in names]
    problems += [(name, 10) for name in names if name in ("digits", "cora")]
    for name, depth in problems:
        data = load(name, folders)
        assert data is not None
        run = record(data, depth, {}, seeds, 50, "validation")
        cells = []
        for settings in CHOICES.values():
            found = run({**DEFAULTS, **settings}).mean(axis=0)
            cells.append(f"{found[9]:.3f} / {found[49]:.3f}")
        rows.append([f"{name}, {depth}", *cells])
        print(*rows[-1], sep="; ", flush=True)
    print()
    table(
        ["setting", *(row[0] for row in rows)],
        zip(CHOICES, *(row[1:] for row in rows), strict=True),
    )


def show_cora(folders: Mapping[str, Path | None], seeds: int) -> None:
    """The published data set."""
    data = load("cora", folders)
    if data is None:
        return
    paper = {
        "coupling": "inequality",
        "block_order": "forward",
        "kernel_step": "exact",
        "rho": 1e-3,
        "mu": 0.05,
        "scale_mu": False,
        "standardize": False,
        "penalty_growth": 1.0,
        "tau": 1e-3,
        "inertia": tritia.Inertia(0.3, 0.3, 0.3),
    }
    marks = (5, 10, 15, 20, 50)

    def rows() -> Iterator[list[str]]:
        for label, settings in (
            ("defaults", {}),
            ("inequality, forward, exact, (0.3, 0.3, 0.3)", paper),
            ("the same, backtracking", {**paper, "kernel_step": "backtracking"}),
        ):
            test = curves(data, 3, alternating(**settings), 50, seeds).test_metric
            yield (
                [label, *(f"{test[:, at].mean():.3f} ± {test[:, at].std():.3f}" for at in marks)]
            )

    print(f"Cora, 3 layers of {HIDDEN}: test accuracy, mean and deviation of {seeds} seeds.\n")
    table(["setting", *(f"after {at}" for at in marks)], rows())


def show_inertia(folders: Mapping[str, Path | None], seeds: int) -> None:
    """Iterations to the objective that the plain method has after 100."""
    problems: dict[str, tuple[str, Mapping[str, Any]]] = {
        "digits, penalty": ("digits", {}),
        "digits, penalty, line_search": ("digits", {"kernel_step": "line_search"}),
        "digits, inequality, eps = 0.1": (
            "digits",
            {"coupling": "inequality", "eps": 0.1, "kernel_step": "exact"},
        ),
        "wine, penalty": ("wine", {}),
        "wine, penalty, line_search": ("wine", {"kernel_step": "line_search"}),
        "breast_cancer, penalty": ("breast_cancer", {}),
        "breast_cancer, backtracking": ("breast_cancer", {"kernel_step": "backtracking"}),
        "diabetes, penalty": ("diabetes", {}),
        "Cora, penalty": ("cora", {}),
        "Cora, inequality, eps = 0.1, tau = 1e-3": (
            "cora",
            {"coupling": "inequality", "eps": 0.1, "kernel_step": "exact", "tau": 1e-3},
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

            run = record(data, 3, settings, seeds, long, "objective")
            plain = lowest(run, (0.0, 0.0, 0.0))
            goal = plain[:, -1:]
            best, cells = np.inf, []
            for inertia in inertias:
                found = lowest(run, inertia)
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


Run = Callable[[Mapping[str, Any]], np.ndarray]


def lowest(run: Run, inertia: Sequence[float]) -> np.ndarray:
    """The lowest objective so far, by seed and iteration."""
    return np.minimum.accumulate(run({"inertia": inertia}), axis=1)


def record(
    data: datasets.Dataset,
    depth: int,
    settings: Mapping[str, Any],
    seeds: int,
    iterations: int,
    what: str,
) -> Run:
    """Returns what is measured after each iteration as a function of TIAM's numbers.

    Args:
      data: the examples.
      depth: layers, of `HIDDEN` units.
      settings: arguments of `tritia.tiam` that stay as they are.
      seeds: how many, trained at once.
      iterations: how many.
      what: "objective", or the part of the examples whose metric is taken.

    Returns:
      A function of further arguments of `tritia.tiam`, compiled once for all their values, to an
      array (seeds, iterations).
    """
    bench = training.prepare(data, (HIDDEN,) * (depth - 1), seeds, None)
    optimizer = alternating(**settings)
    pure = training.functions(bench, optimizer)
    batches = jnp.asarray(bench.batches(optimizer, 0))

    @jax.jit
    def compiled(numbers, rows, initial, splits, batches):
        def train(params, split, batch):
            def step(carry, _):
                carry = pure.epoch(numbers, carry, rows, split, batch)
                if what == "objective":
                    return carry, tritia.tiam_diagnostics(carry.state).objective
                return carry, pure.evaluate(carry, rows, split, what)[1]

            return jax.lax.scan(step, pure.start(numbers, params), length=iterations)[1]

        return jax.vmap(train)(initial, splits, batches)

    def run(numbers: Mapping[str, Any]) -> np.ndarray:
        traced = jax.tree.map(jnp.float32, dict(numbers))
        if "inertia" in traced:
            traced["inertia"] = tritia.Inertia(*traced["inertia"])
        return np.asarray(compiled(traced, bench.rows, bench.initial, bench.splits, batches))

    return run


def show_mnist(folders: Mapping[str, Path | None], seeds: int) -> None:
    """All rows of MNIST at once, which is what minibatches are for, under two scalings."""
    del seeds
    data = load("mnist", folders)
    if data is None:
        return
    sizes = (784, 256, 256, 10)
    split = datasets.split(data, 0)
    fitted = jnp.setdiff1d(jnp.arange(len(data.inputs)), split.test)
    solver = tritia.tiam(len(fitted))
    step = jax.jit(tiam_step(solver), donate_argnums=(0, 1))

    def rows() -> Iterator[list[str]]:
        for label, shift, scale in (
            ("one mean and deviation", data.inputs.mean(), data.inputs.std()),
            ("between 0 and 1", 0.0, 1.0),
        ):
            inputs, targets = jnp.asarray((data.inputs - shift) / scale), jnp.asarray(data.targets)
            params = perceptron(sizes)
            state, cells = solver.init(params), []
            for update in range(1, 21):
                params, state = step(params, state, inputs[fitted], targets[fitted])
                if update in (1, 5, 10, 20):
                    labels = outputs(params, inputs[split.test]).argmax(axis=1)
                    cells.append(f"{jnp.mean(labels == targets[split.test]):.3f}")
            yield [label, *cells]

    print("MNIST, 60000 rows, 784-256-256-10, default settings, one seed: test accuracy.\n")
    table(["pixels", *(f"after {at}" for at in (1, 5, 10, 20))], rows())


def show_rows(folders: Mapping[str, Path | None], seeds: int) -> None:
    """The more rows, the more the auxiliary variables leave the network: restarts, and peers."""
    del seeds
    falling = optax.exponential_decay(0.1, 20, 0.01)
    tiam = functools.partial(tritia.tiam, restart="always")
    methods: Mapping[str, Callable[[int], Any]] = {
        "tiam, defaults": tritia.tiam,
        'restart="always"': tiam,
        "the same, mu = 0.03": lambda n: tiam(n, mu=0.03),
        "the same, mu falling from 0.1 to 0.001": lambda n: tiam(n, mu=falling),
        "the same, triple inertia 0.5": lambda n: tritia.triple_inertia(
            tiam(n, mu=falling), predict=0.5
        ),
        'restart="always", penalty_growth=2.8, correct=0.9': lambda n: tiam(
            n, penalty_growth=2.8, inertia=tritia.Inertia(0.0, 0.0, 0.9)
        ),
        **_PEERS,
    }
    _show_rows(folders, (256, 256), (5_000, 10_000, 60_000), methods)


def show_wide(folders: Mapping[str, Path | None], seeds: int) -> None:
    """All rows of MNIST in a wider network."""
    del seeds
    tiam = functools.partial(
        tritia.tiam,
        restart="always",
        penalty_growth=2.8,
        inertia=tritia.Inertia(0.0, 0.0, 0.6),
    )
    methods: Mapping[str, Callable[[int], Any]] = {
        "tiam, defaults": tritia.tiam,
        'restart="always", penalty_growth=2.8, correct=0.6': tiam,
        "the same, mu = 0.03": lambda n: tiam(n, mu=0.03),
        "the same, mu = 0.01": lambda n: tiam(n, mu=0.01),
        **_PEERS,
    }
    _show_rows(folders, (2000,), (60_000,), methods)


_PEERS: Mapping[str, Callable[[int], Any]] = {
    **{f"Adam, {rate}": lambda n, rate=rate: optax.adam(rate) for rate in (1e-3, 3e-3, 1e-2)},
    "L-BFGS": lambda n: optax.lbfgs(),
}


def _show_rows(
    folders: Mapping[str, Path | None],
    hidden: Sequence[int],
    counts: Sequence[int],
    methods: Mapping[str, Callable[[int], Any]],
) -> None:
    """Accuracies on MNIST by method, the first of which says how long the others may take."""
    data = load("mnist", folders)
    if data is None:
        return
    pixels, labels = jnp.asarray(data.inputs), jnp.asarray(data.targets)
    test = datasets.split(data, 0).test
    fitted = np.setdiff1d(np.arange(len(labels)), test)
    sizes = (784, *hidden, 10)
    print(
        f"{'-'.join(map(str, sizes))}, pixels between 0 and 1, all rows at once, one seed: test /"
        " training accuracy after 5, 10, 20 updates, and when the CPU time of 20 updates of tiam's"
        " defaults is over.\n"
    )
    for count in counts:
        print(f"{count} rows:\n")
        chosen, limit, found = fitted[:count], np.inf, []
        for label, make in methods.items():
            cells, seconds, updates = _updates_of(
                make(count), sizes, pixels, labels, chosen, test, limit, label == "L-BFGS"
            )
            limit = 20 * seconds if limit == np.inf else limit
            found.append([label, *cells, f"{seconds:.3g}", str(updates)])
        marks = ("after 5", "after 10", "after 20", "at equal time")
        table(["", *marks, "CPU s an update", "updates"], found)


def _updates_of(
    solver: optax.GradientTransformation,
    sizes: Sequence[int],
    inputs: jax.Array,
    targets: jax.Array,
    rows: np.ndarray,
    test: np.ndarray,
    limit: float,
    searches: bool,
) -> tuple[list[str], float, int]:
    """At least 20 updates; returns accuracies, the CPU seconds of an update and their number."""
    x, y = inputs[rows], targets[rows]
    solver = optax.with_extra_args_support(solver)

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(classification_loss)(params, x, y)
        # Optax's line search takes no other arguments than those of its function.
        given: dict[str, Any] = {"inputs": x, "targets": y}
        if searches:
            given = {"value": value, "grad": gradient}
            given["value_fn"] = lambda params: classification_loss(params, x, y)
        updates, state = solver.update(gradient, state, params, **given)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def accuracy(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(outputs(params, x).argmax(axis=1) == y)

    def cell(params: Any) -> str:
        tested = accuracy(params, inputs[test], targets[test])
        return f"{tested:.3f} / {accuracy(params, x, y):.3f}"

    params = perceptron(sizes)
    state = solver.init(params)
    program = step.lower(params, state, x, y).compile()
    cells, spent, done = [], 0.0, 0
    while done < 20 or (np.isfinite(limit) and spent * (done + 1) / done < limit):
        began = time.process_time()
        params, state = jax.block_until_ready(program(params, state, x, y))
        spent, done = spent + time.process_time() - began, done + 1
        if done in (5, 10, 20):
            cells.append(cell(params))
    return [*cells, cell(params)], spent / done, done


def show_orders(folders: Mapping[str, Path | None], seeds: int) -> None:
    """The orders of the pass, over data sets and depths."""
    goals, orders = (0.9, 0.95), ("backward", "red_black", "pipeline")
    problems = [(name, 3) for name in ("wine", "breast_cancer", "diabetes")]
    problems += itertools.product(("digits", "cora", "mnist"), (3, 6, 12, 24))

    def needed(training: np.ndarray, goal: float) -> str:
        found = [np.flatnonzero(one >= goal) for one in training]
        return " ".join(str(at[0] + 1) if at.size else "never" for at in found)

    def rows() -> Iterator[list[str]]:
        for (name, depth), order in itertools.product(problems, orders):
            data = load(name, folders)
            if data is None:
                continue
            if name == "mnist":
                data = _few_of(data)
            marks = (10, 50, 100) if depth > 3 else (10, 50)
            trained, validated, tested = run_each_seed(data, depth, order, seeds, marks[-1])
            yield [
                f"{data.name}, {len(data.targets)} rows" if name == "mnist" else name,
                str(depth),
                order,
                *(
                    " / ".join(f"{found[:, at - 1].mean():.3f}" for at in marks)
                    for found in (validated, tested)
                ),
                *(needed(trained, goal) for goal in goals),
            ]

    print(
        f"{HIDDEN} units a hidden layer, default settings: accuracy (R^2 for diabetes), mean of"
        f" {seeds} seeds, after 10 / 50 updates, with more than three layers after 100 too; and"
        " the updates that each seed needs to an accuracy on its training rows.\n"
    )
    head = ["data", "layers", "order", "validation", "test", *(f"to {goal}" for goal in goals)]
    table(head, rows())


def _few_of(data: datasets.Dataset) -> datasets.Dataset:
    """The first 2000 rows to train and validate on, and the first 2000 to test."""
    assert data.test_rows is not None
    size = 2000
    others = np.setdiff1d(np.arange(len(data.targets)), data.test_rows)
    chosen = np.concatenate([others[:size], data.test_rows[:size]])
    return dataclasses.replace(
        data,
        inputs=data.inputs[chosen],
        targets=data.targets[chosen],
        test_rows=np.arange(size, 2 * size),
    )


def run_each_seed(
    data: datasets.Dataset, depth: int, order: str, seeds: int, iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trains one seed after the other, which compiles in less time than all at once.

    Returns:
      The metric on training, validation and test rows, each of shape (seeds, iterations).
    """
    bench = training.prepare(data, (HIDDEN,) * (depth - 1), seeds, None)
    optimizer = alternating(block_order=order)
    pure = training.functions(bench, optimizer)
    batches = jnp.asarray(bench.batches(optimizer, 0))
    parts: tuple[training.Part, ...] = ("training", "validation", "test")

    @jax.jit
    def start(params):
        return pure.start({}, params)

    @jax.jit
    def advance(carry, rows, split, batch):
        carry = pure.epoch({}, carry, rows, split, batch)
        return carry, [pure.evaluate(carry, rows, split, part)[1] for part in parts]

    found = np.empty((len(parts), seeds, iterations))
    for seed in range(seeds):
        params, split, batch = jax.tree.map(
            lambda leaf, seed=seed: leaf[seed], (bench.initial, bench.splits, batches)
        )
        carry = start(params)
        for at in range(iterations):
            carry, metrics = advance(carry, bench.rows, split, batch)
            found[:, seed, at] = metrics
    return found[0], found[1], found[2]


PARTS: Mapping[str, Callable[[Mapping[str, Path | None], int], None]] = {
    "defaults": show_defaults,
    "choice": show_choice,
    "cora": show_cora,
    "inertia": show_inertia,
    "mnist": show_mnist,
    "rows": show_rows,
    "wide": show_wide,
    "orders": show_orders,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What tritia.tiam reaches.")
    add_parts(parser, PARTS)
    parser.add_argument("--cora", type=Path, help="folder with the Planetoid files of Cora")
    parser.add_argument("--mnist", type=Path, help="folder with MNIST's files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2 seeds, wine, defaults alone")
    arguments = parser.parse_args()
    print(header(), end="\n\n")
    if arguments.quick:
        show_defaults({"cora": None}, 2, ("wine",), (2, 3))
        return
    for part in arguments.parts:
        PARTS[part]({"cora": arguments.cora, "mnist": arguments.mnist}, arguments.seeds)


if __name__ == "__main__":
    main()
