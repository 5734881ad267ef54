"""How far a command is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

from tritia._command_line.screen import complain

SECONDS_BETWEEN_LINES = 5.0
_PATIENCE = 3.0  # seconds before a time left is more than a guess


class Steps:
    """What is done, of how much, and since when.

    Attributes:
      doing: in words.
      done: steps.
      total: steps; it grows where there turns out to be more to do.
    """

    def __init__(self, total: float):
        """Starts the clock."""
        self.doing, self.done, self.total = "starting", 0.0, total
        self._began = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def left(self) -> str:
        """The time left at the speed so far, in words."""
        seconds = self.elapsed()
        if seconds < _PATIENCE or not self.done:
            return "time left unknown"
        return f"about {_clock(seconds * (self.total - self.done) / self.done)} left"


Report = Callable[[str, float, float], None]
"""Takes what is being done, the steps done and their total."""


@contextlib.contextmanager
def shown(command: str, total: float, unit: str, screen: Console) -> Iterator[Report]:
    """Shows how far it is while it lasts.

    Args:
      command: whose progress it is.
      total: how many steps there are.
      unit: of a step, such as "epochs"; "%" where steps are fractions of the whole.
      screen: on standard error.

    Yields:
      What takes the news.
    """
    steps = Steps(total)
    with _bar(steps, unit, screen) if screen.is_terminal else _lines(command, steps, unit) as tell:

        def report(doing: str, done: float, total: float) -> None:
            steps.doing, steps.done, steps.total = doing, done, total
            tell()

        yield report


@contextlib.contextmanager
def _bar(steps: Steps, unit: str, screen: Console) -> Iterator[Callable[[], None]]:
    # What is done may be cut; the numbers may not.
    doing = TextColumn("{task.description}", table_column=Column(ratio=2, no_wrap=True))
    fixed = Column(no_wrap=True)
    count = (
        TextColumn("{task.percentage:3.0f}%", table_column=fixed)
        if unit == "%"
        else MofNCompleteColumn(table_column=fixed)
    )
    columns = [SpinnerColumn(), doing]
    if screen.width >= 80:
        columns.append(BarColumn(bar_width=None, table_column=Column(ratio=1)))
    columns.append(count)
    if unit != "%":
        columns.append(TextColumn(unit, table_column=fixed))
    columns += [
        TimeElapsedColumn(table_column=fixed),
        TextColumn("{task.fields[left]}", table_column=fixed),
    ]
    # The spinner and the clock go on while it compiles.
    with Progress(*columns, console=screen, transient=True, expand=True) as bar:
        task = bar.add_task(steps.doing, total=steps.total, left=steps.left())

        def tell() -> None:
            bar.update(
                task,
                description=steps.doing,
                completed=steps.done,
                total=steps.total,
                left=steps.left(),
            )

        yield tell


@contextlib.contextmanager
def _lines(command: str, steps: Steps, unit: str) -> Iterator[Callable[[], None]]:
    over = threading.Event()

    def lines() -> None:
        while not over.wait(SECONDS_BETWEEN_LINES):
            complain(command, line(steps, unit))

    thread = threading.Thread(target=lines, daemon=True)
    thread.start()
    try:
        yield lambda: None
    finally:
        over.set()
        thread.join()


def line(steps: Steps, unit: str) -> str:
    """How far it is, for those who read a log."""
    far = (
        f"{100 * steps.done / steps.total:.0f}%"
        if unit == "%"
        else f"{steps.done:.0f} of {steps.total:.0f} {unit}"
    )
    return f"{steps.doing}: {far}, {_clock(steps.elapsed())} so far, {steps.left()}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
