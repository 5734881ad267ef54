"""The arguments of `tritia compare`."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from tritia._command_line import parsing

if TYPE_CHECKING:
    from tritia._compare.experiment import Request


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
            "example:\n"
            "  tritia compare --dataset wine --optimizers sgd,adam,difference4 --seeds 10\n\n"
            "Interrupted? The same command goes on where it was. Results: report.html, report.md,\n"
            "metrics.csv, learning_curves.png and config.json in the folder of --out.\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arg = compare.add_argument
    arg("--list", action="store_true", help="list the optimizers and data sets, and stop")
    arg(
        "--dataset",
        metavar="NAME",
        help="digits, few_digits (default: both), wine, ... (see --list)",
    )
    arg(
        "--optimizers",
        metavar="A,B,...",
        type=parsing.names,
        help="optimizers to compare (see --list)",
    )
    arg("--seeds", metavar="N", type=parsing.seeds, help="random initialisations (default 5)")
    arg("--epochs", metavar="N", type=parsing.epochs, help="epochs to train for (default 20)")
    arg("--hidden", metavar="A,B,...", type=parsing.widths, help="hidden layers (default 100,100)")
    arg(
        "--batch-size",
        metavar="N",
        type=parsing.batch_size,
        help="rows in a minibatch, or full (default: the data set's own)",
    )
    arg(
        "--data-dir",
        metavar="DIR",
        type=parsing.folder,
        help="where the files of mnist or cora are",
    )
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
    arg(
        "--x-axis",
        choices=("epochs", "gradients"),
        help="draw against epochs (default) or gradient evaluations",
    )
    arg(
        "--target",
        metavar="X",
        type=parsing.target,
        help="the test accuracy or R^2 of 'epochs to target' (default: the data set's own)",
    )
    arg(
        "--out",
        metavar="DIR",
        type=parsing.folder,
        help="folder of results (default tritia-compare/NAME); without --dataset, of both folders",
    )


def command(request: Request) -> str:
    """Writes the command line that asks for a request, omitting defaults.

    The data set is always said, unless it is "": without one there is more than one.
    """
    words = ["tritia", "compare"]
    usual = {field.name: field.default for field in dataclasses.fields(request)}
    usual |= {"dataset": "", "out": request.__class__.out / request.dataset}
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if value == usual[field.name]:
            continue
        if field.name == "tune":
            words.append("--no-tune")
            continue
        words.append("--" + field.name.replace("_", "-"))
        if field.name == "batch_size" and value == 0:
            words.append("full")
        elif isinstance(value, tuple):
            words.append(",".join(map(str, value)) or "none")
        else:
            words.append(str(value))
    return shlex.join(words)
