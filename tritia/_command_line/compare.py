"""`tritia compare`: asks `tritia._compare` for a comparison and shows what came of it."""

from __future__ import annotations

import argparse
import dataclasses

from rich.console import Console
from rich.text import Text

from tritia._command_line import interrupt, progress, tables
from tritia._command_line.compare_options import command
from tritia._command_line.failures import keep_log, report_failure
from tritia._command_line.screen import complain, output, printable
from tritia._compare import experiment, folder, report, results
from tritia._compare.datasets import DATASETS, DESCRIPTIONS
from tritia._compare.errors import UsageError
from tritia._compare.experiment import Comparison, Request
from tritia._compare.optimizers import OPTIMIZERS, look_up, unknown

USUAL_DATASETS = ("digits", "few_digits")
"""Without --dataset: minibatches of many rows, and full batches of few."""


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
    if arguments.dataset is not None:
        request = _request(arguments)
        return _run_one(request, command(request))
    out = arguments.out or Request.out
    requests = [
        _request(argparse.Namespace(**{**vars(arguments), "dataset": name, "out": out / name}))
        for name in USUAL_DATASETS
    ]
    # Both have to go on.
    words = command(dataclasses.replace(requests[0], dataset="", out=out))
    return next((code for code in (_run_one(request, words) for request in requests) if code), 0)


def _run_one(request: Request, go_on: str) -> int:
    interrupt.say(lambda: f"tritia compare: {_interrupted(request, None, go_on)}")
    try:
        with folder.hold(request.out):
            return _compare(request, go_on)
    except UsageError:
        raise
    except Exception as error:
        return report_failure("tritia compare", request.out, error)


def _compare(request: Request, go_on: str) -> int:
    screen = Console(stderr=True)
    comparison = None
    try:
        with screen.status("loading data and initialising networks"):
            comparison = experiment.prepare(request, command(request))
        interrupt.say(lambda: f"tritia compare: {_interrupted(request, comparison, go_on)}")
        with keep_log(request.out):
            experiment.log.info("%s: %s", "resumed" if comparison.resumed else "started", request)
            if comparison.resumed:
                screen.print(_resumed(comparison), highlight=False, markup=False, soft_wrap=True)
            _train(comparison, screen)
    except KeyboardInterrupt:
        complain("tritia compare", _interrupted(request, comparison, go_on))
        return 130
    _show(comparison)
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
    total, finished = comparison.epochs_left(), 0
    if not total:
        experiment.run(comparison)
        return
    with progress.shown("tritia compare", total, "epochs", screen) as tell:

        def advance(doing: str, done: int) -> None:
            nonlocal finished, total
            finished += done
            # Tuning may go on for longer than was thought, and the timing always follows.
            total = max(total, finished + (0 if doing == "timing" else 1))
            tell(doing, finished, total)

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
    return f"Going on with {printable(comparison.request.out)}: {_finished(comparison)}; {what}."


def _interrupted(request: Request, comparison: Comparison | None, go_on: str) -> str:
    kept = "nothing yet" if comparison is None else _finished(comparison)
    return f"interrupted. Kept in {request.out}: {kept}. To go on: {go_on}"


# What a narrow terminal goes without; the first goes first.
_DISPENSABLE = ("compile s", "epochs to", "training loss", "learning rate", "gradients a step")


def _show(comparison: Comparison) -> None:
    request = comparison.request
    heads, rows = report.table(
        comparison.figures(), comparison.bench.dataset, request.seeds, comparison.target
    )
    seeds = report.count(request.seeds, "seed")
    epochs = report.count(request.epochs, "epoch")
    title = f"{request.dataset}: {report.batches(comparison.bench)}, {seeds}, {epochs}"
    drawn = (results.PAGE, results.REPORT, results.METRICS, results.PICTURE, folder.CONFIG)
    outputs = ", ".join(name for name in drawn if name not in comparison.undrawn)
    tables.show(
        *tables.fitting(title, heads, rows, tables.width(), _DISPENSABLE),
        Text(f"{report.LEGEND}\n", style="dim"),
        *tables.bullets(comparison.conclusions()),
        Text(f"In {printable(request.out)}: {outputs}.", style="dim"),
    )
    for name, reason in comparison.undrawn.items():
        complain(
            "tritia compare",
            f"{name} could not be drawn ({reason[:300]}); the traceback is in"
            f" {request.out / folder.LOG}, and the same command draws it again",
        )
