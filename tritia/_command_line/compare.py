"""`tritia compare`: asks `tritia._compare` for a comparison and shows what came of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tritia._command_line import interrupt, own_code, tables
from tritia._command_line.compare_options import command
from tritia._command_line.failures import keep_log, report_failure
from tritia._command_line.screen import complain, output, printable
from tritia._compare import experiment, folder, report
from tritia._compare.datasets import DESCRIPTIONS
from tritia._compare.errors import UsageError
from tritia._compare.experiment import Comparison
from tritia._compare.optimizers import OPTIMIZERS
from tritia._compare.records import Listener
from tritia._compare.request import Request, resolve

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand.

    Args:
      arguments: as `compare_options.add` has them parsed.

    Returns:
      The exit code.

    Raises:
      UsageError: the request can't be carried out; one line says why.
    """
    if arguments.list:
        with output():
            _list()
        return 0
    own_code.import_from_here()
    request = _request(arguments)
    interrupt.say(lambda: f"tritia compare: {_interrupted(request, None)}")
    try:
        with own_code.listeners(arguments, request.seeds) as listeners, folder.hold(request.out):
            return _compare(request, listeners)
    except UsageError:
        raise
    except Exception as error:
        return report_failure("tritia compare", request.out, error)


def _compare(request: Request, listeners: Sequence[Listener]) -> int:
    screen = Console(stderr=True)
    comparison = None
    try:
        with screen.status("loading data and initialising networks"):
            comparison = experiment.prepare(request, command(request))
        interrupt.say(lambda: f"tritia compare: {_interrupted(request, comparison)}")
        with keep_log(request.out):
            experiment.log.info("%s: %s", "resumed" if comparison.resumed else "started", request)
            if comparison.resumed:
                screen.print(_resumed(comparison), **_PLAIN)
            if request.data is not None:
                screen.print(comparison.bench.dataset.source, **_PLAIN)
            _train(comparison, screen, listeners)
    except KeyboardInterrupt:
        complain("tritia compare", _interrupted(request, comparison))
        return 130
    show(comparison)
    return 0


def _list() -> None:
    for title, entries in (
        ("Data sets", DESCRIPTIONS),
        ("Optimizers of tritia", {n: o.call for n, o in OPTIMIZERS.items() if o.ours}),
        ("Optimizers of Optax", {n: o.call for n, o in OPTIMIZERS.items() if not o.ours}),
    ):
        print(title)
        for name, words in entries.items():
            print(f"  {name:28}{words}")


def _request(arguments: argparse.Namespace) -> Request:
    apart = ("subcommand", "list", "tensorboard", "callback")
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if value is not None and name not in apart
    }
    return resolve(given)


def _train(comparison: Comparison, screen: Console, listeners: Sequence[Listener]) -> None:
    columns = (
        TextColumn("{task.description:32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        total = comparison.epochs_left()
        task = bar.add_task("", total=total)

        def advance(doing: str) -> None:
            nonlocal total
            current = bar.tasks[0].completed + 1
            total = max(total, int(current) + (0 if doing == "timing" else 1))
            bar.update(task, description=doing, completed=current, total=total)

        experiment.run(comparison, advance, listeners)


def _finished(comparison: Comparison) -> str:
    trained = list(comparison.curves)
    tuned = [n for n in comparison.tunings if n not in {**comparison.curves, **comparison.begun}]
    parts = []
    if trained:
        parts.append(f"{', '.join(trained)} (trained)")
    if comparison.begun:
        parts.append(f"{', '.join(comparison.begun)} (trained in part)")
    if tuned:
        parts.append(f"{', '.join(tuned)} ({'tuned' if comparison.request.tune else 'set up'})")
    return " and ".join(parts) or "nothing yet"


def _resumed(comparison: Comparison) -> str:
    request = comparison.request
    left = len(comparison.optimizers) - len(comparison.curves)
    what = "all of it is there" if left == 0 else f"{left} still to train"
    words = (
        f"Going on with {printable(request.out)}: {_scale(request)}; {_finished(comparison)};"
        f" {what}."
    )
    if comparison.anew:
        words += (
            f" {', '.join(comparison.anew)}: from the first epoch again, as there is no checkpoint"
            " to go on from."
        )
    return words


def _scale(request: Request) -> str:
    seeds, epochs = report.count(request.seeds, "seed"), report.count(request.epochs, "epoch")
    return f"{request.label}, {seeds}, {epochs}"


def _interrupted(request: Request, comparison: Comparison | None) -> str:
    kept = "nothing yet" if comparison is None else _finished(comparison)
    return f"interrupted. Kept in {request.out}: {kept}. To go on: {command(request)}"


def show(comparison: Comparison) -> None:
    """Prints what was found."""
    request = comparison.request
    heads, rows = report.table(
        comparison.figures(), comparison.bench.dataset, request.seeds, comparison.target
    )
    table = Table(title=_scale(request), title_style="bold")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    outputs = "report.md, metrics.csv, learning_curves.png, config.json"
    tables.show(
        table,
        Text(f"{report.LEGEND}\n", style="dim"),
        Text(f"{comparison.sentences()}\n"),
        Text(f"In {printable(request.out)}: {outputs}.", style="dim"),
    )
