"""What the user got wrong, in one line."""

from __future__ import annotations


class UsageError(Exception):
    """The request cannot be carried out as it stands; the message says why, in one line.

    The command line prints the message and exits with code 2, without a traceback.
    """
