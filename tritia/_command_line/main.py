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

import tritia
from tritia._command_line import compare_options, sweep_options
from tritia._command_line.parsing import ParseError, Parser
from tritia._compare.errors import UsageError

_EXTRA = {
    "flax": "flax",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
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
        try:
            arguments = _parse(argv)
        except SystemExit as finished:  # --help and --version
            return int(finished.code or 0)
        if arguments.subcommand is None:
            _parser().print_help()
            return 0
        command = f"tritia {arguments.subcommand}"
        _require_extra()
        with _one_blas_thread():
            return _run(arguments)
    except ParseError as error:
        return _refuse(error, error.command)
    except UsageError as error:
        return _refuse(error, command)
    except KeyboardInterrupt:
        print(f"{command}: interrupted before anything was started", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    # Only now: what they import may be missing, and takes seconds.
    if arguments.subcommand == "compare":
        from tritia._command_line import compare

        return compare.run(arguments)
    from tritia._command_line import sweep

    return sweep.run(arguments)


def _refuse(error: UsageError, command: str) -> int:
    print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _require_extra() -> None:
    missing = [name for module, name in _EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not installed; the command line needs:"
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


def _parser() -> Parser:
    parser = Parser(prog="tritia", description=tritia.__doc__)
    parser.add_argument("--version", action="version", version=f"tritia {tritia.__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND", parser_class=Parser)
    compare_options.add(commands)
    sweep_options.add(commands)
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:
        command = " ".join(filter(None, ("tritia", arguments.subcommand)))
        raise ParseError(f"unrecognized arguments: {' '.join(unknown)}", command)
    return arguments
