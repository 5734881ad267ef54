"""What the user got wrong, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """The request cannot be carried out as it stands; the message says why, in one line.

    Arguments are named in backticks, `` `batch_size` ``, which the command line makes options of.
    It prints the message and exits with code 2, without a traceback.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name: the nearest match and all that are known."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."
