"""Tables and paragraphs on standard output."""

from __future__ import annotations

from rich.console import Console, RenderableType

from tritia._command_line import screen


def show(*parts: RenderableType) -> None:
    """Prints tables and paragraphs, wide where there is no terminal that would break the lines."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=170)
    with screen.output():
        try:
            for part in parts:
                console.print(part)
        except SystemExit:  # what Rich makes of a closed pipe
            raise BrokenPipeError from None
