"""What is printed: nothing that a terminal takes for commands, and no traceback at a pipe's end."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from tritia._compare.errors import UsageError

_MOST = 1000


def printable(text: object) -> str:
    """Returns text on one line, with what can't be printed as an escape sequence that can be read.

    Names may come from a file, or from a command line in another encoding.
    """
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= _MOST else f"{line[: _MOST - 3]}..."


def complain(command: str, message: object) -> None:
    """Prints one line on standard error."""
    # Where there is nobody to read it, there is nobody to tell.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"{command}: {printable(message)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def output() -> Iterator[None]:
    """Wraps what prints on standard output.

    Where a pipe is closed, whoever reads it has read enough, and results are on disk.

    Raises:
      UsageError: it takes nothing, like a disk that is full.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
    except OSError as error:
        _forget_output()
        raise UsageError(f"cannot print ({error.strerror or error})") from None


def _forget_output() -> None:
    """Sends what is still to be printed nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
