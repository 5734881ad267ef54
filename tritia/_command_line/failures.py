"""What both commands do where something breaks: the traceback goes to run.log."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from tritia._command_line.screen import complain
from tritia._compare.folder import LOG


@contextlib.contextmanager
def keep_log(folder: Path) -> Iterator[None]:
    """Appends the library's log to the folder's run.log while it lasts."""
    handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("tritia.compare")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def report_failure(command: str, folder: Path | None, error: Exception) -> int:
    """Keeps the traceback and prints one line; returns the exit code.

    Args:
      command: that failed.
      folder: whose run.log takes the traceback; None, or one that can't be written, for a file of
        its own among the temporary ones.
      error: what was raised.

    Returns:
      1.
    """
    text = "".join(traceback.format_exception(error))
    where = "; its traceback could not be kept"
    for keep in (_append, _keep_apart):
        with contextlib.suppress(OSError):
            where = f"; the traceback is in {keep(folder, text)}"
            break
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    complain(command, f"failed ({reason[:300]}){where}")
    return 1


def _append(folder: Path | None, text: str) -> Path:
    if folder is None:
        raise FileNotFoundError
    with (folder / LOG).open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return folder / LOG


def _keep_apart(folder: Path | None, text: str) -> Path:
    descriptor, path = tempfile.mkstemp(prefix="tritia-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return Path(path)
