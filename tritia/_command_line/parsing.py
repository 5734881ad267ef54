"""What the arguments of both commands are made of, and how parse errors are reported."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tritia._compare.errors import UsageError

_LEAST_FLOAT32, _MOST_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127


class ParseError(UsageError):
    """The arguments of a command can't be read.

    Attributes:
      command: which, such as "tritia sweep".
    """

    def __init__(self, message: str, command: str):
        """Keeps the command beside the message."""
        super().__init__(message)
        self.command = command


class Parser(argparse.ArgumentParser):
    """A parser that raises `ParseError` where argparse would print the usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raises the error under the name of the command that is parsed."""
        raise ParseError(message, self.prog)


_ARGUMENT = re.compile("`([a-z][a-z_]*)`")


def as_options(message: object, command: str) -> str:
    """Writes a message of the library, which names arguments in backticks, with their options.

    Args:
      message: of the library.
      command: whose options they are, such as "tritia sweep".

    Returns:
      The message with --out, say, in the place of `` `out` ``.
    """

    def option(found: re.Match[str]) -> str:
        name = found[1]
        # The folder of `tritia report` is no option.
        positional = name == "out" and command == "tritia report"
        return "DIR" if positional else "--" + name.replace("_", "-")

    return _ARGUMENT.sub(option, str(message))


def names(text: str) -> tuple[str, ...]:
    """Reads `A,B,...`."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def count_up_to(most: int) -> Callable[[str], int]:
    """Returns a reader of whole numbers from 1 to `most`, beyond which nothing would end."""

    def count(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # also for more than some thousand digits
            raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number") from None
        if number < 1:
            raise argparse.ArgumentTypeError(f"{shown(text)} is too small, it must be at least 1")
        if number > most:
            raise argparse.ArgumentTypeError(f"{shown(text)} is too large, at most {most}")
        return number

    return count


seeds = count_up_to(10_000)
epochs = count_up_to(1_000_000)
_width = count_up_to(1_000_000)
_rows = count_up_to(10**9)


def widths(text: str) -> tuple[int, ...]:
    """Reads the widths of hidden layers, `A,B,...` or `none`."""
    if text.strip() == "none":
        return ()
    found = tuple(_width(width) for width in names(text))
    if not found:
        raise argparse.ArgumentTypeError(f"{shown(text)} has no widths; none for no hidden layer")
    return found


def batch_size(text: str) -> int:
    """Reads the rows of a minibatch; 0 for `full`."""
    return 0 if text.strip() == "full" else _rows(text)


def finite_number(text: str) -> float:
    """Reads a number that is finite in float32, in which everything is computed."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not finite")
    if abs(number) > _MOST_FLOAT32:
        raise argparse.ArgumentTypeError(f"{shown(text)} is too large, beyond {_MOST_FLOAT32:.1e}")
    return number


def positive_number(text: str) -> float:
    """Reads a finite number above 0."""
    number = finite_number(text)
    if number < _LEAST_FLOAT32:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not above 0 in float32")
    return number


def target(text: str) -> float:
    """Reads a test accuracy or R^2: 1 is perfect, and below -1 lies no goal."""
    number = finite_number(text)
    if not -1 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not between -1 and 1")
    return number


def folder(text: str) -> Path:
    """Reads the name of a folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; the current folder is .")
    return Path(text)


def shown(text: str) -> str:
    """Returns what was given, in quotes and not too long, for a message."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
