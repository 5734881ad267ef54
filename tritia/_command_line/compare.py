"""`tritia compare`: asks `tritia._compare` for a comparison and shows what came of it."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tritia._command_line.compare_options import command
from tritia._command_line.failures import keep_log, report_failure
from tritia._compare import experiment, report
from tritia._compare.datasets import DATASETS, DESCRIPTIONS
from tritia._compare.errors import UsageError
from tritia._compare.experiment import Comparison, Request
from tritia._compare.optimizers import OPTIMIZERS, look_up, unknown


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
        return _list()
    request = _request(arguments)
    screen = Console(stderr=True)
    comparison = None
    try:
        with screen.status("loading data and initialising networks"):
            comparison = experiment.prepare(request, command(request))
        with keep_log(request.out):
            experiment.log.info("%s: %s", "resumed" if comparison.resumed else "started", request)
            if comparison.resumed:
                screen.print(_resumed(comparison), highlight=False, markup=False)
            _train(comparison, screen)
    except KeyboardInterrupt:
        print(f"tritia compare: {_interrupted(request, comparison)}", file=sys.stderr)
        return 130
    except UsageError:
        raise
    except Exception as error:
        return report_failure("tritia compare", request.out, error)
    _show(comparison)
    return 0


def _list() -> int:
    for title, entries in (
        ("Data sets", DESCRIPTIONS),
        ("Optimizers of tritia", {n: o.call for n, o in OPTIMIZERS.items() if o.ours}),
        ("Optimizers of Optax", {n: o.call for n, o in OPTIMIZERS.items() if not o.ours}),
    ):
        print(title)
        for name, words in entries.items():
            print(f"  {name:28}{words}")
    return 0


def _request(arguments: argparse.Namespace) -> Request:
    if arguments.learning_rate is not None and arguments.tune is None:
        raise UsageError("--learning-rate goes with --no-tune: otherwise it is tuned")
    given = {
        name: value
        for name, value in vars(arguments).items()
        if value is not None and name not in ("subcommand", "list")
    }
    dataset = given.get("dataset", Request.dataset)
    request = Request(**{"out": Request.out / dataset, **given})
    if dataset not in DATASETS:
        raise UsageError(unknown("data set", dataset, DATASETS))
    look_up(request.optimizers)
    return request


def _train(comparison: Comparison, screen: Console) -> None:
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

        experiment.run(comparison, advance)


def _finished(comparison: Comparison) -> str:
    trained = list(comparison.curves)
    tuned = [name for name in comparison.tunings if name not in comparison.curves]
    parts = []
    if trained:
        parts.append(f"{', '.join(trained)} (trained)")
    if tuned:
        parts.append(f"{', '.join(tuned)} ({'tuned' if comparison.request.tune else 'set up'})")
    return " and ".join(parts) or "nothing yet"


def _resumed(comparison: Comparison) -> str:
    left = len(comparison.optimizers) - len(comparison.curves)
    what = "all of it is there" if left == 0 else f"{left} still to train"
    return f"Going on with {comparison.request.out}: {_finished(comparison)}; {what}."


def _interrupted(request: Request, comparison: Comparison | None) -> str:
    kept = "nothing yet" if comparison is None else _finished(comparison)
    return f"interrupted. Kept in {request.out}: {kept}. To go on: {command(request)}"


def _show(comparison: Comparison) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=170)
    request = comparison.request
    heads, rows = report.table(
        comparison.figures(), comparison.bench.dataset, request.seeds, comparison.target
    )
    title = (
        f"{request.dataset}, {report.count(request.seeds, 'seed')},"
        f" {report.count(request.epochs, 'epoch')}"
    )
    table = Table(title=title, title_style="bold")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(report.LEGEND, style="dim", markup=False)
    console.print()
    console.print(comparison.sentences(), markup=False)
    console.print()
    outputs = "report.md, metrics.csv, learning_curves.png, config.json"
    console.print(f"In {request.out}: {outputs}.", style="dim", markup=False)
