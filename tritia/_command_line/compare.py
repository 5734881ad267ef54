"""The command line: `tritia compare`, and `tritia sweep`, which is run by `tritia.sweeps`.

Exit codes: 0 done; 1 something broke (the traceback is in run.log); 2 the request can't be carried
out as it stands (one line says why); 130 interrupted with Ctrl-C (what is finished is kept).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tritia
from tritia._command_line import sweep_options
from tritia._compare.errors import UsageError

_EXTRA = {
    "flax": "flax",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "threadpoolctl": "threadpoolctl",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: the arguments; None for those of the process.

    Returns:
      The exit code.
    """
    try:
        arguments = _parser().parse_args(argv)
    except UsageError as error:
        return _refuse(error)
    except SystemExit as finished:  # --help and --version
        return int(finished.code or 0)
    if arguments.subcommand is None:
        _parser().print_help()
        return 0
    command = f"tritia {arguments.subcommand}"
    try:
        _require_extra()
        if arguments.subcommand == "compare" and arguments.list:
            return _list()
        with _one_blas_thread():
            if arguments.subcommand == "sweep":
                from tritia._command_line.sweep import run

                return run(arguments)
            return _compare(arguments)
    except UsageError as error:
        return _refuse(error, command)
    except KeyboardInterrupt:
        sweep = arguments.subcommand == "sweep"
        when = "; nothing is kept" if sweep else " before anything was started"
        print(f"{command}: interrupted{when}", file=sys.stderr)
        return 130


def _refuse(error: UsageError, command: str = "tritia compare") -> int:
    print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _require_extra() -> None:
    missing = [name for module, name in _EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not installed; the comparison needs:"
            ' pip install "tritia[compare]"'
        )


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Keeps SciPy's BLAS from sharing its work among threads.

    On the CPU, XLA has SciPy factorise the systems of TIAM. They are small: threads gain nothing on
    them, and wait for each other where another process has a core.
    """
    import scipy.linalg  # noqa: F401  (only what is loaded already can be limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tritia", description=tritia.__doc__)
    parser.add_argument("--version", action="version", version=f"tritia {tritia.__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND", parser_class=_Parser)
    compare = commands.add_parser(
        "compare",
        help="train a small network with several optimizers and compare them",
        description=(
            "Trains a multilayer perceptron with several optimizers and compares them by their"
            " learning curves, their spread over random initialisations and their time per epoch."
        ),
        epilog=(
            "Interrupted? The same command goes on where it was. Results: report.md, metrics.csv,"
            " learning_curves.png and config.json in the folder of --out."
        ),
    )
    add = compare.add_argument
    add("--list", action="store_true", help="list the optimizers and data sets, and stop")
    add("--dataset", metavar="NAME", help="digits (default), breast_cancer, wine, diabetes, ...")
    add("--optimizers", metavar="A,B,...", type=_names, help="optimizers to compare (see --list)")
    add("--seeds", metavar="N", type=_count, help="random initialisations (default 5)")
    add("--epochs", metavar="N", type=_count, help="epochs to train for (default 20)")
    add("--hidden", metavar="A,B,...", type=_widths, help="hidden layers (default 100,100)")
    add(
        "--batch-size",
        metavar="N",
        type=_batch_size,
        help="rows in a minibatch, or full (default: the data set's own)",
    )
    add("--data-dir", metavar="DIR", type=Path, help="where the files of mnist or cora are")
    add(
        "--no-tune",
        action="store_true",
        help="skip the tuning of the learning rate; use each optimizer's usual one",
    )
    add(
        "--learning-rate",
        metavar="X",
        type=_positive,
        help="with --no-tune: the learning rate of every optimizer",
    )
    add(
        "--x-axis",
        choices=("epochs", "gradients"),
        help="draw against epochs (default) or gradient evaluations",
    )
    add(
        "--target",
        metavar="X",
        type=sweep_options.finite_number,
        help="the test accuracy or R^2 of 'epochs to target' (default: the data set's own)",
    )
    add("--out", metavar="DIR", type=Path, help="folder of results (default tritia-compare/NAME)")
    sweep_options.add(commands, _count, _widths, _batch_size)
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _count(text: str) -> int:
    count = _integer(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is too small, it must be at least 1")
    return count


def _widths(text: str) -> tuple[int, ...]:
    return () if text.strip() == "none" else tuple(_count(width) for width in _names(text))


def _batch_size(text: str) -> int:
    return 0 if text.strip() == "full" else _count(text)


def _positive(text: str) -> float:
    number = sweep_options.finite_number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _list() -> int:
    from tritia._compare.datasets import DESCRIPTIONS
    from tritia._compare.optimizers import OPTIMIZERS

    for title, entries in (
        ("Data sets", DESCRIPTIONS),
        ("Optimizers of tritia", {n: o.call for n, o in OPTIMIZERS.items() if o.ours}),
        ("Optimizers of Optax", {n: o.call for n, o in OPTIMIZERS.items() if not o.ours}),
    ):
        print(title)
        for name, words in entries.items():
            print(f"  {name:28}{words}")
    return 0


def _request(arguments: argparse.Namespace) -> Any:
    from tritia._compare.datasets import DATASETS
    from tritia._compare.experiment import Request
    from tritia._compare.optimizers import look_up, unknown

    if arguments.learning_rate is not None and not arguments.no_tune:
        raise UsageError("--learning-rate goes with --no-tune: otherwise it is tuned")
    given = {
        name: value
        for name, value in vars(arguments).items()
        if value is not None and name not in ("subcommand", "list", "no_tune")
    }
    request = Request(tune=not arguments.no_tune, **given)
    if request.dataset not in DATASETS:
        raise UsageError(unknown("data set", request.dataset, DATASETS))
    look_up(request.optimizers)
    if arguments.out is None:
        given["out"] = request.out / request.dataset
        request = Request(tune=request.tune, **given)
    return request


def _compare(arguments: argparse.Namespace) -> int:
    request = _request(arguments)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from tritia._compare import experiment, results

    screen = Console(stderr=True)
    comparison = None
    try:
        with screen.status("loading data and initialising networks"):
            comparison = experiment.prepare(request)
        with _log_to(request.out / results.LOG):
            experiment.log.info("%s: %s", "resumed" if comparison.resumed else "started", request)
            if comparison.resumed:
                screen.print(_resumed(comparison), highlight=False)
            columns = (
                TextColumn("{task.description:32}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            with Progress(
                *columns, console=screen, transient=True, disable=not screen.is_terminal
            ) as bar:
                total = comparison.epochs_left()
                task = bar.add_task("", total=total)

                def advance(doing: str) -> None:
                    nonlocal total
                    current = bar.tasks[0].completed + 1
                    total = max(total, int(current) + (0 if doing == "timing" else 1))
                    bar.update(task, description=doing, completed=current, total=total)

                experiment.run(comparison, advance)
    except KeyboardInterrupt:
        print(f"tritia compare: {_interrupted(request, comparison)}", file=sys.stderr)
        return 130
    except UsageError:
        raise
    except Exception as error:
        return _broke(request.out / results.LOG, error)
    _show(comparison)
    return 0


class _log_to:
    """Appends the library's log to a file while it lasts."""

    def __init__(self, path: Path):
        self.handler = logging.FileHandler(path, encoding="utf-8")
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def __enter__(self) -> None:
        logger = logging.getLogger("tritia.compare")
        logger.setLevel(logging.INFO)
        logger.addHandler(self.handler)

    def __exit__(self, *failure: object) -> None:
        logging.getLogger("tritia.compare").removeHandler(self.handler)
        self.handler.close()


def _finished(comparison: Any) -> str:
    trained = list(comparison.curves)
    tuned = [name for name in comparison.tunings if name not in comparison.curves]
    parts = []
    if trained:
        parts.append(f"{', '.join(trained)} (trained)")
    if tuned:
        parts.append(f"{', '.join(tuned)} ({'tuned' if comparison.request.tune else 'set up'})")
    return " and ".join(parts) or "nothing yet"


def _resumed(comparison: Any) -> str:
    left = len(comparison.optimizers) - len(comparison.curves)
    what = "all of it is there" if left == 0 else f"{left} still to train"
    return f"Going on with {comparison.request.out}: {_finished(comparison)}; {what}."


def _interrupted(request: Any, comparison: Any) -> str:
    kept = "nothing yet" if comparison is None else _finished(comparison)
    return f"interrupted. Kept in {request.out}: {kept}. To go on: {request.command()}"


def _broke(log: Path, error: Exception) -> int:
    where = ""
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        where = f"; the traceback is in {log}"
    except OSError:
        traceback.print_exc()
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"tritia compare: failed ({reason[:300]}){where}", file=sys.stderr)
    return 1


def _show(comparison: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from tritia._compare import report

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=150)
    request = comparison.request
    heads, rows = report.table(
        comparison.figures(), comparison.bench.dataset, request.seeds, comparison.target
    )
    seeds = f"{request.seeds} seed{'s' if request.seeds > 1 else ''}"
    table = Table(title=f"{request.dataset}, {seeds}, {request.epochs} epochs", title_style="bold")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(report.LEGEND, style="dim", markup=False)
    console.print()
    console.print(comparison.paragraph(), markup=False)
    console.print()
    console.print(
        f"In {request.out}: report.md, metrics.csv, learning_curves.png, config.json.",
        style="dim",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())
