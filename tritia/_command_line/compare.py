"""`tritia compare`: asks `tritia._compare` for a comparison and shows what came of it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tritia._command_line import interrupt, own_code, progress, tables
from tritia._command_line.compare_options import command
from tritia._command_line.failures import keep_log, report_failure
from tritia._command_line.screen import complain, output, printable
from tritia._compare import experiment, folder, report, results
from tritia._compare.datasets import DESCRIPTIONS
from tritia._compare.errors import UsageError
from tritia._compare.experiment import Comparison
from tritia._compare.optimizers import OPTIMIZERS
from tritia._compare.records import Listener
from tritia._compare.request import Request, resolve

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}

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
    own_code.import_from_here()
    if not _wants_both(arguments):
        request = _request(arguments)
        return _run_one(arguments, request, command(request))
    out = arguments.out or Request.out
    each = [_with_dataset(arguments, name, out) for name in USUAL_DATASETS]
    requests = [_request(one) for one in each]
    # Both have to go on.
    words = command(dataclasses.replace(requests[0], dataset="", out=out))
    codes = (_run_one(one, found, words) for one, found in zip(each, requests, strict=True))
    return next((code for code in codes if code), 0)


def _wants_both(arguments: argparse.Namespace) -> bool:
    """Whether no data are asked for, neither by name nor by a folder that goes on."""
    if arguments.dataset is not None or arguments.data is not None:
        return False
    out = arguments.out
    return out is None or folder.earlier_config(out, results.OUTPUTS) is None


def _with_dataset(arguments: argparse.Namespace, name: str, out: Path) -> argparse.Namespace:
    """The same for one of the usual data sets, with folders of its own."""
    given = {**vars(arguments), "dataset": name, "out": out / name}
    if arguments.tensorboard is not None:
        given["tensorboard"] = arguments.tensorboard / name
    return argparse.Namespace(**given)


def _run_one(arguments: argparse.Namespace, request: Request, go_on: str) -> int:
    interrupt.say(lambda: f"tritia compare: {_interrupted(request, None, go_on)}")
    try:
        with own_code.listeners(arguments, request.seeds) as listeners, folder.hold(request.out):
            return _compare(request, go_on, listeners)
    except UsageError:
        raise
    except Exception as error:
        return report_failure("tritia compare", request.out, error)


def _compare(request: Request, go_on: str, listeners: Sequence[Listener]) -> int:
    screen = Console(stderr=True)
    comparison = None
    try:
        with screen.status("loading data and initialising networks"):
            comparison = experiment.prepare(request, command(request))
        interrupt.say(lambda: f"tritia compare: {_interrupted(request, comparison, go_on)}")
        with keep_log(request.out):
            experiment.log.info("%s: %s", "resumed" if comparison.resumed else "started", request)
            if comparison.resumed:
                screen.print(_resumed(comparison), **_PLAIN)
            if request.data is not None:
                screen.print(comparison.bench.dataset.source, **_PLAIN)
            _train(comparison, screen, listeners)
    except KeyboardInterrupt:
        complain("tritia compare", _interrupted(request, comparison, go_on))
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
    total, finished = comparison.epochs_left(), 0
    if not total:
        experiment.run(comparison, listeners=listeners)
        return
    with progress.shown("tritia compare", total, "epochs", screen) as tell:

        def advance(doing: str, done: int) -> None:
            nonlocal finished, total
            finished += done
            # Tuning may go on for longer than was thought, and the timing always follows.
            total = max(total, finished + (0 if doing == "timing" else 1))
            tell(doing, finished, total)

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


def _interrupted(request: Request, comparison: Comparison | None, go_on: str) -> str:
    kept = "nothing yet" if comparison is None else _finished(comparison)
    return f"interrupted. Kept in {request.out}: {kept}. To go on: {go_on}"


# What a narrow terminal goes without; the first goes first.
_DISPENSABLE = ("compile s", "epochs to", "training loss", "learning rate", "gradients a step")


def show(comparison: Comparison) -> None:
    """Prints what was found."""
    request = comparison.request
    heads, rows = report.table(
        comparison.figures(), comparison.bench.dataset, request.seeds, comparison.target
    )
    seeds, epochs = report.count(request.seeds, "seed"), report.count(request.epochs, "epoch")
    title = f"{request.label}: {report.batches(comparison.bench)}, {seeds}, {epochs}"
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
