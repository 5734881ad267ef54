"""Reading files that somebody else made: regular files only, and never more than is expected."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from tritia._compare.errors import UsageError


def open_regular(path: Path, most_bytes: int) -> BinaryIO:
    """Opens a file for reading.

    A named pipe would wait for its writer, and a link to a device may never end.

    Args:
      path: of the file, or of a link to it.
      most_bytes: the largest size allowed.

    Returns:
      The file, unbuffered reading from its beginning.

    Raises:
      FileNotFoundError: there is none.
      UsageError: it is not a regular file, is too large or can't be opened.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits.
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be opened ({error.strerror or error})") from None
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise UsageError(f"{path} is not a regular file")
    if about.st_size > most_bytes:
        os.close(descriptor)
        raise UsageError(f"{path} has {about.st_size} bytes; at most {most_bytes} are read")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Reads a regular file as a whole; raises what `open_regular` does.

    Args:
      path: of the file, or of a link to it.
      most_bytes: the largest size allowed.

    Returns:
      Its content.
    """
    with open_regular(path, most_bytes) as file:
        return file.read(most_bytes)
