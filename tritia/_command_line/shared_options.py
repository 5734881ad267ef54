"""The arguments that `tritia compare` and `tritia sweep` share. Not given, they are None."""

from __future__ import annotations

import argparse
from pathlib import Path

from tritia._command_line import parsing


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds what says which data to train on."""
    arg = parser.add_argument_group("data").add_argument
    arg(
        "--dataset",
        metavar="NAME",
        help="digits, few_digits, wine, ... (see tritia compare --list)",
    )
    arg(
        "--data-dir",
        metavar="DIR",
        type=parsing.folder,
        help="where the files of mnist or cora are",
    )
    arg("--data", metavar="FILE", type=Path, help="your own rows: .csv, .tsv, .parquet or .npz")
    arg("--target", metavar="COLUMN", help="the column of --data to predict")
    arg(
        "--task",
        choices=("classification", "regression"),
        help="what --target asks for (default: recognised)",
    )
    arg("--drop", metavar="A,B,...", type=parsing.names, help="columns of --data to leave out")
    arg(
        "--categories",
        metavar="A,B,...",
        type=parsing.names,
        help="columns of numbers in --data that are categories (text always is)",
    )


def add_training(parser: argparse.ArgumentParser, seeds: int) -> None:
    """Adds what says how to train; `seeds` are the default that the help names."""
    arg = parser.add_argument
    arg(
        "--seeds",
        metavar="N",
        type=parsing.seeds,
        help=f"random initialisations (default {seeds})",
    )
    arg("--epochs", metavar="N", type=parsing.epochs, help="epochs to train for (default 20)")
    arg("--hidden", metavar="A,B,...", type=parsing.widths, help="hidden layers (default 100,100)")
    arg(
        "--batch-size",
        metavar="N",
        type=parsing.batch_size,
        help="rows in a minibatch, or full (default: the data set's own)",
    )


def add_listeners(parser: argparse.ArgumentParser) -> None:
    """Adds what says who is told of every epoch."""
    arg = parser.add_argument_group("logging").add_argument
    arg(
        "--tensorboard",
        metavar="DIR",
        type=parsing.folder,
        help="write TensorBoard's files, a run for each optimizer and seed",
    )
    arg(
        "--callback",
        metavar="MODULE:FUNCTION",
        action="append",
        help="call it with a record of each epoch, for Weights & Biases, MLflow, ...; may be"
        " repeated",
    )
