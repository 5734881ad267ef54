"""What both commands do to import a user's own code and to tell it of the training."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator

from tritia._compare import own_code, records


def import_from_here() -> None:
    """Makes the current directory importable, as it is under `python -m`."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


@contextlib.contextmanager
def listeners(arguments: argparse.Namespace, seeds: int) -> Iterator[list[records.Listener]]:
    """Makes those who are told of every epoch, while it lasts.

    Args:
      arguments: as `shared_options.add_listeners` has them parsed.
      seeds: how many are trained.

    Yields:
      Functions of a `records.Record`.

    Raises:
      UsageError: one of them isn't there.
    """
    import_from_here()
    found: list[records.Listener] = [
        own_code.find("callback", spec) for spec in arguments.callback or ()
    ]
    with contextlib.ExitStack() as stack:
        if arguments.tensorboard is not None:
            board = records.TensorBoard(arguments.tensorboard, seeds)
            stack.callback(board.close)
            found.append(board)
        yield found
