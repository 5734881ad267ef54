"""`tritia sweep`: many settings of one optimizer on one data set, to a table and a picture."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tritia._compare import datasets, network
from tritia._compare.errors import UsageError
from tritia._compare.optimizers import OPTIMIZERS, Optimizer, Problem as Setup, unknown
from tritia.sweeps import _plots as plots, _space as space
from tritia.sweeps._problem import Problem, minibatches, plain_problem
from tritia.sweeps._runner import Halving, MemoryTooSmall, Result, TooFewRecords, build

CSV, PICTURE = "sweep.csv", "sweep.png"
_DEFAULT_COUNT = 16


class Task(NamedTuple):
    """What is swept.

    Attributes:
      optimizer: from the comparison's registry.
      setup: what the optimizer is told when it is built.
      problem: the network and its loss, judged by the validation metric.
      data: training and validation rows.
      batch: the minibatches, or None for full batches.
      steps_per_epoch: how many.
      metric: the name of the validation metric.
    """

    optimizer: Optimizer
    setup: Setup
    problem: Problem
    data: Any
    batch: Callable[..., Any] | None
    steps_per_epoch: int
    metric: str


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Args:
      arguments: as `tritia._command_line.sweep_options.add` parses them.

    Returns:
      The exit code, 0.

    Raises:
      UsageError: the request can't be carried out; one line says why.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    name = arguments.optimizer
    if name not in OPTIMIZERS:
        raise UsageError(unknown("optimizer", name, OPTIMIZERS))
    if arguments.dataset not in datasets.DATASETS:
        raise UsageError(unknown("data set", arguments.dataset, datasets.DATASETS))
    settings = settings_of(OPTIMIZERS[name], arguments.grid, arguments.draw, arguments.count)
    with console.status("loading data"):
        task = prepare(name, arguments.dataset, arguments)
    try:
        sweep = build(
            lambda setting: task.optimizer.build(setting, task.setup),
            task.problem,
            task.data,
            steps=arguments.epochs * task.steps_per_epoch,
            batch=task.batch,
            extra=_examples if task.optimizer.extra == "examples" else None,
            evaluation_params=task.optimizer.evaluation_params,
            seeds=arguments.seeds,
            records=arguments.epochs,
            memory=arguments.memory,
            halving=Halving() if arguments.halving else None,
            maximise=True,
        )
        result = sweep(settings)
    except MemoryTooSmall as error:
        raise UsageError(f"--memory: {error}") from error
    except TooFewRecords as error:
        raise UsageError(f"--halving and --epochs: {error}") from error
    out = arguments.out or Path("tritia-sweep") / arguments.dataset / name
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / CSV, result, arguments.seeds)
    title = f"{name} on {arguments.dataset}, {len(settings)} settings, {arguments.seeds} seeds"
    (out / PICTURE).write_bytes(plots.draw(result, title, f"validation {task.metric}"))
    _show(result, title, task.metric, out)
    return 0


def settings_of(
    optimizer: Optimizer,
    grids: Sequence[tuple[str, Sequence[float]]],
    draws: Sequence[tuple[str, space.Sampler]],
    count: int | None,
) -> list[dict[str, float]]:
    """Writes the settings that the command line asks for.

    Args:
      optimizer: whose numbers they are; those that are not swept keep their usual values.
      grids: numbers to try, by name.
      draws: numbers to draw, by name.
      count: how many draws; None for the usual number.

    Returns:
      The settings.

    Raises:
      UsageError: a name is not one of the optimizer's.
    """
    usual = {name: values[0] for name, values in optimizer.coefficients.items()}
    if optimizer.learning_rate is not None:
        usual = {"learning_rate": optimizer.learning_rate, **usual}
    if not usual:
        raise UsageError(f"{optimizer.call} has no numbers to sweep")
    names = [name for name, _ in [*grids, *draws]]
    for name in names:
        if name not in usual:
            raise UsageError(unknown(f"number of {optimizer.call}", name, usual))
        if names.count(name) > 1:
            raise UsageError(f"{name} is given twice")
    if grids and draws:
        raise UsageError("--grid and --draw don't go together")
    if count is not None and grids:
        raise UsageError("--count goes with --draw; --grid tries all combinations")
    if grids:
        points = space.grid(**dict(grids))
    else:
        samplers = dict(draws)
        if not samplers:
            if optimizer.learning_rate is None:
                raise UsageError(f"say which of {', '.join(usual)} to sweep, by --grid or --draw")
            if count is None:  # evenly rather than at random
                centre = optimizer.learning_rate
                rates = np.geomspace(centre / 100, centre * 100, _DEFAULT_COUNT)
                return [{**usual, "learning_rate": float(f"{rate:.3g}")} for rate in rates]
            centre = optimizer.learning_rate
            samplers = {"learning_rate": space.log_uniform(centre / 100, centre * 100)}
        points = space.draw(count or _DEFAULT_COUNT, 0, **samplers)
    return [{**usual, **point} for point in points]


def prepare(name: str, dataset_name: str, arguments: argparse.Namespace) -> Task:
    """Loads the data and builds the network.

    All seeds share one division of the rows; they have their own initial weights and minibatches.
    """
    optimizer = OPTIMIZERS[name]
    dataset = datasets.DATASETS[dataset_name](arguments.data_dir)
    split = datasets.split(dataset, 0)
    net = network.build(dataset, arguments.hidden)

    def rows(numbers: np.ndarray) -> dict[str, np.ndarray]:
        inputs = (dataset.inputs[numbers] - split.input_shift) * split.input_scale
        targets = dataset.targets[numbers]
        if dataset.task == "regression":
            targets = (targets - split.target_shift) * split.target_scale
        return {"inputs": inputs, "targets": targets}

    def loss(params: Any, batch: Any) -> jax.Array:
        outputs = net.apply(params, batch["inputs"])
        return jnp.mean(network.row_losses(dataset.task, outputs, batch["targets"]))

    def evaluate(params: Any, data: Any) -> jax.Array:
        held_out = data["validation"]
        outputs = net.apply(params, held_out["inputs"])
        ones = jnp.ones(outputs.shape[0])
        total = network.sums(dataset.task, outputs, held_out["targets"], ones)
        value, metric = network.loss_and_metric(dataset.task, total)
        return jnp.where(value <= dataset.diverged_loss, metric, jnp.nan)

    data = {"training": rows(split.training), "validation": rows(split.validation)}
    count = len(split.training)
    asked = dataset.batch_size if arguments.batch_size is None else arguments.batch_size or count
    size = min(asked, count)
    full = optimizer.full_batch or size == count
    return Task(
        optimizer,
        Setup(count, dataset.task, dataset.outputs),
        plain_problem(net.initialise, loss, evaluate),
        data,
        (lambda key, step, data: data["training"])
        if full
        else minibatches(size, lambda data: data["training"]),
        1 if full else count // size,
        dataset.metric,
    )


def _examples(batch: Any) -> dict[str, Any]:
    return {"inputs": batch["inputs"], "targets": batch["targets"]}


def write_csv(path: Path, result: Result, seeds: int) -> None:
    """Writes one row for each setting, seed and epoch that was trained."""
    names = list(result.settings[0])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        head = ["seed", "epoch", "step", "training_loss", "validation_metric", "diverged"]
        writer.writerow(["setting", *names, *head])
        for number, setting in enumerate(result.settings):
            for seed in range(seeds):
                for epoch in range(result.trained[number]):
                    writer.writerow(
                        [
                            number,
                            *setting.values(),
                            seed,
                            epoch + 1,
                            result.steps[epoch],
                            f"{result.losses[number, seed, epoch]:.6g}",
                            f"{result.values[number, seed, epoch]:.6g}",
                            int(result.diverged[number, seed]),
                        ]
                    )


def _show(result: Result, title: str, metric: str, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{title}: the best", title_style="bold")
    names = list(result.settings[0])
    for name in (*names, f"validation {metric}", "training loss"):
        table.add_column(name, justify="right")
    full = result.trained == result.trained.max()
    order = [int(i) for i in np.argsort(-result.scores, kind="stable") if full[i]]
    for i in [i for i in order if np.isfinite(result.scores[i])][:5]:
        loss = result.losses[i, :, -1].mean()
        numbers = [f"{result.settings[i][name]:.4g}" for name in names]
        table.add_row(*numbers, f"{result.scores[i]:.4f}", f"{loss:.4g}")
    console.print(table)
    diverged = int(result.diverged.any(axis=1).sum())
    words = [f"{diverged} of {len(result.settings)} settings diverged."] if diverged else []
    lanes = f"{result.lanes[0]} settings and {result.lanes[1]} seeds were trained at once"
    words.append(f"{lanes}, in {result.bytes / 2**20:.0f} MB. In {out}: {CSV}, {PICTURE}.")
    console.print(" ".join(words), style="dim", markup=False)
