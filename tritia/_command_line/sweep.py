"""`tritia sweep`: many settings of one optimizer on one data set, to a table and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tritia._command_line import interrupt, sweep_results
from tritia._command_line.failures import report_failure
from tritia._command_line.screen import complain, printable
from tritia._command_line.sweep_problem import SweptTask, prepare
from tritia._command_line.sweep_settings import settings_of
from tritia._command_line.tables import show
from tritia._compare import folder
from tritia._compare.datasets import DATASETS, Dataset
from tritia._compare.errors import UsageError
from tritia._compare.optimizers import OPTIMIZERS, unknown
from tritia.sweeps import Halving, Result, _plots as plots, build
from tritia.sweeps._halving import TooFewRecords, rung_ends
from tritia.sweeps._runner import MemoryTooSmall

_MOST_NUMBERS = 10**8  # in the curves
_INTERRUPTED = "interrupted; nothing is kept"


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Args:
      arguments: as `sweep_options.add` has them parsed.

    Returns:
      The exit code.

    Raises:
      UsageError: the request can't be carried out; one line says why.
    """
    settings = _settings(arguments)
    out = arguments.out or Path("tritia-sweep") / arguments.dataset / arguments.optimizer
    interrupt.say(lambda: f"tritia sweep: {_INTERRUPTED}")
    try:
        with folder.hold(out):
            _sweep(arguments, settings, out)
            return 0
    except KeyboardInterrupt:
        complain("tritia sweep", _INTERRUPTED)
        return 130
    except UsageError:
        raise
    except Exception as error:
        return report_failure("tritia sweep", out, error)


def _settings(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Checks what can be checked before any work, and returns the settings to try."""
    name = arguments.optimizer
    if name not in OPTIMIZERS:
        raise UsageError(unknown("optimizer", name, OPTIMIZERS))
    if arguments.dataset not in DATASETS:
        raise UsageError(unknown("data set", arguments.dataset, DATASETS))
    settings = settings_of(OPTIMIZERS[name], arguments.grid, arguments.draw, arguments.count)
    try:
        rung_ends(Halving() if arguments.halving else None, arguments.epochs)
    except TooFewRecords as error:
        raise UsageError(f"--halving and --epochs: {error}") from None
    numbers = len(settings) * arguments.seeds * arguments.epochs
    if numbers > _MOST_NUMBERS:
        raise UsageError(
            f"{len(settings)} settings, {arguments.seeds} seeds and {arguments.epochs} epochs are"
            f" curves of {numbers} points; at most {_MOST_NUMBERS} are kept"
        )
    return settings


def _sweep(arguments: argparse.Namespace, settings: list[dict[str, float]], out: Path) -> None:
    screen = Console(stderr=True, highlight=False)
    with screen.status("loading data"):
        dataset = DATASETS[arguments.dataset](arguments.data_dir)
        task = prepare(
            OPTIMIZERS[arguments.optimizer], dataset, arguments.hidden, arguments.batch_size
        )
    config = _config(arguments, settings, dataset)
    result = None
    if folder.holds_results(out, config, sweep_results.OUTPUTS):
        result = sweep_results.load(out, settings, arguments.seeds, arguments.epochs)
    if result is None:
        result = _train(arguments, settings, task, screen)
        folder.write_json(out / folder.CONFIG, config)
        sweep_results.save(out, result)
    else:
        words = f"Going on with {printable(out)}: all of it is there."
        screen.print(words, markup=False, soft_wrap=True)
    folder.write(out / sweep_results.CSV, sweep_results.table_csv(result))
    title = (
        f"{arguments.optimizer} on {dataset.name}, {len(settings)} settings,"
        f" {arguments.seeds} seeds"
    )
    picture = plots.draw(result, title, f"validation {dataset.metric}")
    folder.write(out / sweep_results.PICTURE, picture)
    _show(result, title, dataset.metric, out)


def _config(
    arguments: argparse.Namespace, settings: list[dict[str, float]], dataset: Dataset
) -> dict[str, Any]:
    names = ("dataset", "optimizer", "seeds", "epochs", "hidden", "batch_size", "halving", "memory")
    asked = {name: getattr(arguments, name) for name in names}
    return {
        "arguments": {**asked, "settings": settings, "data_dir": arguments.data_dir},
        "dataset": dataset.description(),
        **folder.environment(),
    }


def _train(
    arguments: argparse.Namespace,
    settings: list[dict[str, float]],
    task: SweptTask,
    screen: Console,
) -> Result:
    optimizer = OPTIMIZERS[arguments.optimizer]
    columns = (
        TextColumn("sweep"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        shown = bar.add_task("sweep", total=1.0)
        try:
            return build(
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
                progress=lambda done: bar.update(shown, completed=done),
            )(settings)
        except MemoryTooSmall as error:
            raise UsageError(f"--memory: {error}") from None


def _show(result: Result, title: str, metric: str, out: Path) -> None:
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
    diverged = int(result.diverged.any(axis=1).sum())
    words = [f"{diverged} of {len(result.settings)} settings diverged."] if diverged else []
    at_once = f"{result.at_once[0]} settings and {result.at_once[1]} seeds were trained at once"
    devices = jax.local_device_count()
    of_each = f" of each of {devices} devices" if devices > 1 else ""
    words.append(f"{at_once}, in {result.bytes / 2**20:.0f} MB{of_each}.")
    words.append(f"In {printable(out)}: {sweep_results.CSV}, {sweep_results.PICTURE}.")
    show(table, Text(" ".join(words), style="dim"))
