"""The arguments of `tritia compare`."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from tritia._command_line import parsing, shared_options

if TYPE_CHECKING:
    from tritia._compare.request import Request


def add(commands: Any) -> None:
    """Adds the subcommand.

    Options that are not given are None; `Request` holds the defaults.

    Args:
      commands: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    compare = commands.add_parser(
        "compare",
        help="train a small network with several optimizers and compare them",
        description=(
            "Trains a multilayer perceptron with several optimizers and compares them by their"
            " learning curves, their spread over random initialisations and their time per epoch."
        ),
        epilog=(
            "examples:\n"
            "  tritia compare --dataset wine --optimizers sgd,adam,difference4 --seeds 10\n"
            "  tritia compare --data rows.csv --target price\n\n"
            "Interrupted? The same command goes on where it was. Finished? More --optimizers,\n"
            "--seeds or --epochs for the same --out train only what is missing. Results:\n"
            "report.html, report.md, metrics.csv, learning_curves.png and config.json in the\n"
            "folder of --out.\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arg = compare.add_argument
    arg("--list", action="store_true", help="list the optimizers and data sets, and stop")
    shared_options.add_data(compare)
    arg(
        "--optimizers",
        metavar="A,B,...",
        type=parsing.names,
        help="optimizers to compare (see --list)",
    )
    arg(
        "--optimizer-from",
        metavar="MODULE:FACTORY",
        action="append",
        help="an optimizer of your own besides: FACTORY(learning_rate) returns an"
        " optax.GradientTransformation; may be repeated",
    )
    shared_options.add_training(compare, seeds=5)
    arg(
        "--no-tune",
        dest="tune",
        action="store_const",
        const=False,
        help="skip the tuning of the learning rate; use each optimizer's usual one",
    )
    arg(
        "--learning-rate",
        metavar="X",
        type=parsing.positive_number,
        help="with --no-tune: the learning rate of every optimizer",
    )
    add_drawing(compare)
    shared_options.add_listeners(compare)
    arg(
        "--out",
        metavar="DIR",
        type=parsing.folder,
        help="folder of results (default tritia-compare/NAME); without --dataset, of both folders",
    )


def add_drawing(parser: argparse.ArgumentParser) -> None:
    """Adds what says how results are drawn."""
    arg = parser.add_argument
    arg(
        "--x-axis",
        choices=("epochs", "gradients"),
        help="draw against epochs (default) or gradient evaluations",
    )
    arg(
        "--goal",
        metavar="X",
        type=parsing.target,
        help="the test accuracy or R^2 of 'epochs to' (default: the data set's own)",
    )


def command(request: Request) -> str:
    """Writes the command line that asks for a request, omitting defaults.

    The data set is always said, unless it is "": without one there is more than one.
    """
    words = ["tritia", "compare"]
    usual: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(request)}
    place = "" if request.dataset == "" else request.label
    usual |= {"dataset": "", "out": usual["out"] / place}
    for field in dataclasses.fields(request):
        value, option = getattr(request, field.name), "--" + field.name.replace("_", "-")
        if value == usual[field.name] or value is None:
            continue
        if field.name == "tune":
            words.append("--no-tune")
        elif field.name == "optimizer_from":
            words += [word for spec in value for word in (option, spec)]
        elif field.name == "batch_size" and value == 0:
            words += [option, "full"]
        elif isinstance(value, tuple):
            words += [option, ",".join(map(str, value)) or "none"]
        else:
            words += [option, str(value)]
    return shlex.join(words)
