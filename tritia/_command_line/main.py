"""The command `tritia`: which subcommand runs, and how it ends.

Exit codes: 0 done; 1 something broke (the traceback is in run.log); 2 the request can't be carried
out as it stands (one line says why); 130 interrupted with Ctrl-C (what is finished is kept).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence

from _tritia_command import HELP

import tritia
from tritia._command_line import compare_options, report_options, screen, sweep_options
from tritia._command_line.parsing import ParseError, Parser, as_options
from tritia._compare.errors import UsageError

_EXTRA = {
    "flax": "flax",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "plotly": "plotly",
    "rich": "rich",
    "threadpoolctl": "threadpoolctl",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: the arguments; None for those of the process.

    Returns:
      The exit code.
    """
    command = "tritia"
    try:
        with screen.output():
            arguments = _parse(argv)
        if arguments is None:  # --help and --version have been printed
            return 0
        command = f"tritia {arguments.subcommand}"
        _require_extra()
        with _one_blas_thread():
            return _run(arguments)
    except ParseError as error:
        screen.complain(error.command, error)
        return 2
    except UsageError as error:
        screen.complain(command, as_options(error, command))
        return 2
    except KeyboardInterrupt:
        screen.complain(command, "interrupted before anything was started")
        return 130


def _run(arguments: argparse.Namespace) -> int:
    # Only now: what they import may be missing, and takes seconds.
    from tritia._command_line import failures

    try:
        if arguments.subcommand == "compare":
            from tritia._command_line import compare

            return compare.run(arguments)
        if arguments.subcommand == "report":
            from tritia._command_line import report

            return report.run(arguments)
        from tritia._command_line import sweep

        return sweep.run(arguments)
    except UsageError:
        raise
    except Exception as error:
        return failures.report_failure(f"tritia {arguments.subcommand}", None, error)


def _require_extra() -> None:
    missing = [name for module, name in _EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not installed; the command line needs them:"
            ' pip install "tritia[compare]", or in a checkout pip install ".[compare]"'
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


class _Tritia(Parser):
    """The parser whose help the script prints without it."""

    def format_help(self) -> str:
        return HELP


def _parser() -> Parser:
    parser = _Tritia(prog="tritia")
    parser.add_argument("--version", action="version", version=f"tritia {tritia.__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND", parser_class=Parser)
    compare_options.add(commands)
    sweep_options.add(commands)
    report_options.add(commands)
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace | None:
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments, unknown = parser.parse_known_args(words)
    except SystemExit:
        return None
    command = " ".join(filter(None, ("tritia", arguments.subcommand)))
    if unknown:
        raise ParseError(f"unrecognized arguments: {' '.join(unknown)}", command)
    for word in words:
        if word.endswith("=--"):  # argparse takes -- away, and leaves an empty list
            raise ParseError(f"argument {word[:-3]}: expected one argument, got --", command)
    if arguments.subcommand is None:
        parser.print_help()
        return None
    return arguments
