"""What the arguments of both commands are made of, and how parse errors are reported."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

from tritia._compare.errors import UsageError


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


def names(text: str) -> tuple[str, ...]:
    """Reads `A,B,...`."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def count(text: str) -> int:
    """Reads a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too small, it must be at least 1")
    return number


def widths(text: str) -> tuple[int, ...]:
    """Reads the widths of hidden layers, `A,B,...` or `none`."""
    return () if text.strip() == "none" else tuple(count(width) for width in names(text))


def batch_size(text: str) -> int:
    """Reads the rows of a minibatch; 0 for `full`."""
    return 0 if text.strip() == "full" else count(text)


def finite_number(text: str) -> float:
    """Reads a finite number."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return number


def positive_number(text: str) -> float:
    """Reads a finite number above 0."""
    number = finite_number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number
