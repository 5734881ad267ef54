"""`tritia sweep`: many settings of one optimizer on one data set, to a table and a picture."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tritia._command_line.sweep_problem import prepare
from tritia._command_line.sweep_settings import settings_of
from tritia._compare.datasets import DATASETS
from tritia._compare.errors import UsageError
from tritia._compare.optimizers import OPTIMIZERS, unknown
from tritia.sweeps import Halving, Result, _plots as plots, build
from tritia.sweeps._halving import TooFewRecords
from tritia.sweeps._runner import MemoryTooSmall

CSV, PICTURE = "sweep.csv", "sweep.png"


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Args:
      arguments: as `sweep_options.add` has them parsed.

    Returns:
      The exit code, 0.

    Raises:
      UsageError: the request can't be carried out; one line says why.
    """
    screen = Console(stderr=True, highlight=False)
    name = arguments.optimizer
    if name not in OPTIMIZERS:
        raise UsageError(unknown("optimizer", name, OPTIMIZERS))
    if arguments.dataset not in DATASETS:
        raise UsageError(unknown("data set", arguments.dataset, DATASETS))
    optimizer = OPTIMIZERS[name]
    settings = settings_of(optimizer, arguments.grid, arguments.draw, arguments.count)
    with screen.status("loading data"):
        dataset = DATASETS[arguments.dataset](arguments.data_dir)
        task = prepare(optimizer, dataset, arguments.hidden, arguments.batch_size)
    columns = (
        TextColumn("sweep"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        bar_task = bar.add_task("sweep", total=1.0)
        try:
            sweep = build(
                lambda setting: optimizer.build(setting, task.learning_task),
                task.problem,
                task.data,
                steps=arguments.epochs * task.steps_per_epoch,
                batch=task.batch,
                extra=task.extra,
                evaluation_params=optimizer.evaluation_params,
                seeds=arguments.seeds,
                records=arguments.epochs,
                memory=arguments.memory,
                halving=Halving() if arguments.halving else None,
                maximise=True,
                progress=lambda done: bar.update(bar_task, completed=done),
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
    (out / PICTURE).write_bytes(plots.draw(result, title, f"validation {dataset.metric}"))
    _show(result, title, dataset.metric, out)
    return 0


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
    at_once = f"{result.at_once[0]} settings and {result.at_once[1]} seeds were trained at once"
    words.append(f"{at_once}, in {result.bytes / 2**20:.0f} MB. In {out}: {CSV}, {PICTURE}.")
    console.print(" ".join(words), style="dim", markup=False)
