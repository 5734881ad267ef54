"""What both commands do where something breaks: the traceback goes to run.log."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

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


def report_failure(command: str, folder: Path, error: Exception) -> int:
    """Writes the traceback to run.log and one line to standard error; returns the exit code."""
    log, where = folder / LOG, ""
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        where = f"; the traceback is in {log}"
    except OSError:
        traceback.print_exc()
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{command}: failed ({reason[:300]}){where}", file=sys.stderr)
    return 1
