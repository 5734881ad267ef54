"""The message and the clean-up where Ctrl-C ends the process."""

from __future__ import annotations

from collections.abc import Callable

from tritia._command_line.screen import printable
from tritia._compare import folder

_PATIENCE = 0.5  # seconds for the file that is being written

last_words: Callable[[], str] = lambda: "tritia: interrupted before anything was started"  # noqa: E731
"""Says what is kept; each command puts its own here."""


def say(words: Callable[[], str]) -> None:
    """Sets what is said from now on."""
    global last_words
    last_words = words


def leave() -> str:
    """Waits for the file that is being written and removes the lock; returns the last words."""
    folder.WRITING.acquire(timeout=_PATIENCE)
    folder.tidy_held()
    return printable(last_words())
