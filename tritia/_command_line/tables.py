"""Tables and paragraphs on standard output."""

from __future__ import annotations

from rich.console import Console, RenderableType

from tritia._command_line import screen


def show(*parts: RenderableType) -> None:
    """Prints tables and paragraphs on standard output, wide where it is no terminal.

    Whoever reads it may have read enough: the results are on disk.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=170)
    try:
        for part in parts:
            console.print(part)
        screen.flush()
    except (BrokenPipeError, SystemExit):  # Rich turns the one into the other
        screen.forget_output()
