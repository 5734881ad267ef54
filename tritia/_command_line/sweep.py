"""`tritia sweep`: many settings of one optimizer on one data set, to a table and a picture."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.text import Text

from tritia._command_line import interrupt, own_code, progress, sweep_results, tables
from tritia._command_line.failures import report_failure
from tritia._command_line.screen import complain, printable
from tritia._command_line.sweep_problem import SweptTask, prepare
from tritia._command_line.sweep_settings import settings_of
from tritia._compare import folder
from tritia._compare.data_choice import DataChoice
from tritia._compare.datasets import Dataset
from tritia._compare.errors import UsageError, unknown
from tritia._compare.optimizers import OPTIMIZERS, Optimizer
from tritia._compare.own_code import optimizer as look_up_own
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
    own_code.import_from_here()
    choice, name, optimizer = _asked(arguments)
    settings = _settings(arguments, optimizer)
    out = arguments.out or Path("tritia-sweep") / choice.label / name
    interrupt.say(lambda: f"tritia sweep: {_INTERRUPTED}")
    try:
        with folder.hold(out):
            _sweep(arguments, choice, name, optimizer, settings, out)
            return 0
    except KeyboardInterrupt:
        complain("tritia sweep", _INTERRUPTED)
        return 130
    except UsageError:
        raise
    except Exception as error:
        return report_failure("tritia sweep", out, error)


def _asked(arguments: argparse.Namespace) -> tuple[DataChoice, str, Optimizer]:
    """Checks what can be checked before any work; returns the data and the optimizer."""
    if arguments.dataset is not None and arguments.data is not None:
        raise UsageError("`dataset` and `data` don't go together")
    given = {
        field.name: getattr(arguments, field.name)
        for field in dataclasses.fields(DataChoice)
        if getattr(arguments, field.name) is not None
    }
    if arguments.data is not None:
        given["dataset"] = None
    choice = DataChoice(**given)
    choice.check()
    if arguments.optimizer is not None and arguments.optimizer_from is not None:
        raise UsageError("`optimizer` and `optimizer_from` don't go together")
    if arguments.optimizer_from is not None:
        return choice, *look_up_own(arguments.optimizer_from)
    name = "sgd" if arguments.optimizer is None else arguments.optimizer
    if name not in OPTIMIZERS:
        raise UsageError(unknown("optimizer", name, OPTIMIZERS))
    return choice, name, OPTIMIZERS[name]


def _settings(arguments: argparse.Namespace, optimizer: Optimizer) -> list[dict[str, float]]:
    """Checks what can be checked before any work, and returns the settings to try."""
    settings = settings_of(optimizer, arguments.grid, arguments.draw, arguments.count)
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


def _sweep(
    arguments: argparse.Namespace,
    choice: DataChoice,
    name: str,
    optimizer: Optimizer,
    settings: list[dict[str, float]],
    out: Path,
) -> None:
    screen = Console(stderr=True, highlight=False)
    with screen.status("loading data"):
        dataset = choice.load()
        task = prepare(optimizer, dataset, arguments.hidden, arguments.batch_size)
    if choice.data is not None:
        screen.print(dataset.source, markup=False, soft_wrap=True)
    config = _config(arguments, choice, name, optimizer, settings, dataset)
    result = None
    if folder.results_before(out, config, sweep_results.OUTPUTS) is not None:
        result = sweep_results.load(out, settings, arguments.seeds, arguments.epochs)
    if result is None:
        result = _train(arguments, optimizer, settings, task, screen)
        folder.write_json(out / folder.CONFIG, config)
        sweep_results.save(out, result)
    else:
        words = f"Going on with {printable(out)}: all of it is there."
        screen.print(words, markup=False, soft_wrap=True)
    folder.write(out / sweep_results.CSV, sweep_results.table_csv(result))
    title = f"{name} on {dataset.name}, {len(settings)} settings, {arguments.seeds} seeds"
    picture = plots.draw(result, title, f"validation {dataset.metric}")
    folder.write(out / sweep_results.PICTURE, picture)
    _show(result, title, dataset.metric, out)


def _config(
    arguments: argparse.Namespace,
    choice: DataChoice,
    name: str,
    optimizer: Optimizer,
    settings: list[dict[str, float]],
    dataset: Dataset,
) -> dict[str, Any]:
    names = ("seeds", "epochs", "hidden", "batch_size", "halving", "memory")
    asked = {
        **dataclasses.asdict(choice),
        "optimizer": name,
        "optimizer_source": optimizer.source,
        **{name: getattr(arguments, name) for name in names},
    }
    return {
        "arguments": {**asked, "settings": settings},
        "dataset": dataset.description(),
        **folder.environment(),
    }


def _train(
    arguments: argparse.Namespace,
    optimizer: Optimizer,
    settings: list[dict[str, float]],
    task: SweptTask,
    screen: Console,
) -> Result:
    with progress.shown("tritia sweep", 1.0, "%", screen) as tell:
        tell("compiling", 0.0, 1.0)
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
                progress=lambda done: tell("training", done, 1.0),
            )(settings)
        except MemoryTooSmall as error:
            raise UsageError(f"--memory: {error}") from None


def _show(result: Result, title: str, metric: str, out: Path) -> None:
    names = list(result.settings[0])
    heads = ["", *(name.replace("_", " ") for name in names), f"validation {metric}"]
    heads.append("training loss")
    full = result.trained == result.trained.max()
    order = [int(i) for i in np.argsort(-result.scores, kind="stable") if full[i]]
    rows = []
    for rank, i in enumerate([i for i in order if np.isfinite(result.scores[i])][:5], start=1):
        loss = result.losses[i, :, -1].mean()
        numbers = [f"{result.settings[i][name]:.4g}" for name in names]
        rows.append([str(rank), *numbers, f"{result.scores[i]:.4f}", f"{loss:.4g}"])
    diverged = int(result.diverged.any(axis=1).sum())
    words = ["Means over seeds, at the last epoch."]
    if diverged:
        words.append(f"{diverged} of {len(result.settings)} settings diverged.")
    at_once = f"{result.at_once[0]} settings and {result.at_once[1]} seeds were trained at once"
    devices = jax.local_device_count()
    of_each = f" of each of {devices} devices" if devices > 1 else ""
    words.append(f"{at_once}, in {result.bytes / 2**20:.0f} MB{of_each}.")
    words.append(f"In {printable(out)}: {sweep_results.CSV}, {sweep_results.PICTURE}.")
    tables.show(
        *tables.fitting(f"{title}: the best", heads, rows, tables.width(), ("training loss",)),
        Text(" ".join(words), style="dim"),
    )
