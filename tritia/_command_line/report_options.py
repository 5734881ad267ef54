"""The arguments of `tritia report`."""

from __future__ import annotations

from typing import Any

from tritia._command_line import compare_options, parsing, shared_options


def add(commands: Any) -> None:
    """Adds the subcommand.

    Args:
      commands: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    report = commands.add_parser(
        "report",
        help="draw the results of a comparison again, without training",
        description=(
            "Draws the results that tritia compare left in a folder again, without training:"
            " against another axis, with another goal, or with some of the optimizers."
        ),
        epilog="metrics.csv always holds all optimizers.",
    )
    report.add_argument("out", metavar="DIR", type=parsing.folder, help="the folder of results")
    report.add_argument(
        "--optimizers",
        metavar="A,B,...",
        type=parsing.names,
        help="those to draw, in this order (default: all)",
    )
    compare_options.add_drawing(report)
    shared_options.add_listeners(report)
