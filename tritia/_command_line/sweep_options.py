"""The arguments of `tritia sweep`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tritia._command_line import parsing, shared_options

if TYPE_CHECKING:
    from tritia.sweeps._space import Sampler

MOST_SETTINGS = 100_000
_MOST_MEMORY = 2**60
_UNITS = {"KB": 2**10, "MB": 2**20, "GB": 2**30}


def add(commands: Any) -> None:
    """Adds the subcommand.

    Args:
      commands: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    sweep = commands.add_parser(
        "sweep",
        help="train with many settings of one optimizer at once",
        description=(
            "Trains a multilayer perceptron with many settings of one optimizer, all at once, and"
            " judges them on validation rows."
        ),
        epilog=(
            "example:\n"
            "  tritia sweep --optimizer momentum --grid learning_rate=0.01,0.03,0.1\n\n"
            "Results: sweep.csv and sweep.png in the folder of --out. Without --grid and --draw,\n"
            "16 learning rates around the usual one are tried.\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arg = sweep.add_argument
    shared_options.add_data(sweep)
    arg("--optimizer", metavar="NAME", help="as in tritia compare (default sgd)")
    arg(
        "--optimizer-from",
        metavar="MODULE:FACTORY",
        help="an optimizer of your own in its place, as in tritia compare",
    )
    arg(
        "--grid",
        metavar="NAME=A,B,...",
        type=grid,
        action="append",
        default=[],
        help="numbers to try; may be repeated: all combinations are tried",
    )
    arg(
        "--draw",
        metavar="NAME=LOW:HIGH",
        type=draw,
        action="append",
        default=[],
        help="draw numbers, from log:LOW:HIGH evenly in the logarithm; may be repeated",
    )
    arg(
        "--count",
        metavar="N",
        type=parsing.count_up_to(MOST_SETTINGS),
        help="how many draws (default 16)",
    )
    shared_options.add_training(sweep, seeds=3)
    sweep.set_defaults(seeds=3, epochs=20, hidden=(100, 100))
    arg("--halving", action="store_true", help="stop the worse two thirds early, twice")
    arg(
        "--memory",
        metavar="SIZE",
        type=memory,
        default=2 * _UNITS["GB"],
        help="what to train at once may take on each device, such as 500MB (default 2GB)",
    )
    arg("--out", metavar="DIR", type=parsing.folder, help="default tritia-sweep/DATASET/OPTIMIZER")


def grid(text: str) -> tuple[str, tuple[float, ...]]:
    """Reads `NAME=A,B,...`."""
    name, listed = _named(text)
    numbers = tuple(parsing.finite_number(number) for number in parsing.names(listed))
    if not numbers:
        raise argparse.ArgumentTypeError(f"{parsing.shown(text)} has no numbers")
    return name, numbers


def draw(text: str) -> tuple[str, Sampler]:
    """Reads `NAME=LOW:HIGH` or `NAME=log:LOW:HIGH`."""
    from tritia.sweeps import _space as space

    name, described = _named(text)
    kind, _, bounds = (
        described.partition(":") if described.startswith("log:") else ("", "", described)
    )
    low, colon, high = bounds.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(
            f"{parsing.shown(text)} is not NAME=LOW:HIGH or NAME=log:LOW:HIGH"
        )
    sampler = space.log_uniform if kind == "log" else space.uniform
    try:
        return name, sampler(parsing.finite_number(low), parsing.finite_number(high))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{parsing.shown(text)}: {error}") from None


def memory(text: str) -> int:
    """Reads a number of bytes, such as 500MB or 2GB."""
    number, factor = text.strip().upper(), 1
    for unit, size in _UNITS.items():
        if number.endswith(unit):
            number, factor = number.removesuffix(unit), size
    try:
        value = float(number) * factor
    except ValueError:
        raise argparse.ArgumentTypeError(f"{parsing.shown(text)} is not a size") from None
    if not 1 <= value <= _MOST_MEMORY:
        raise argparse.ArgumentTypeError(f"{parsing.shown(text)} is not between 1 and 2^60 bytes")
    return int(value)


def _named(text: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not (name.strip() and equals and rest.strip()):
        raise argparse.ArgumentTypeError(f"{parsing.shown(text)} is not of the form NAME=...")
    return name.strip(), rest.strip()
