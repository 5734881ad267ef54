"""Tables and paragraphs on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tritia._command_line import screen

_WIDE = 170  # where there is no terminal that would break the lines


def width() -> int:
    """How many characters fit beside each other on standard output."""
    console = Console()
    return console.width if console.is_terminal else _WIDE


def show(*parts: RenderableType) -> None:
    """Prints tables and paragraphs, wide where there is no terminal that would break the lines."""
    console = Console(highlight=False, markup=False, width=width())
    with screen.output():
        try:
            for part in parts:
                console.print(part)
        except SystemExit:  # what Rich makes of a closed pipe
            raise BrokenPipeError from None


def bullets(sentences: Sequence[str]) -> list[RenderableType]:
    """A list, its lines indented behind the bullets."""
    parts: list[RenderableType] = []
    for sentence in sentences:
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row("-", Text(sentence))
        parts.append(grid)
    return [*parts, Text("")]


def fitting(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    dispensable: Sequence[str] = (),
) -> list[RenderableType]:
    """A table no wider than the terminal in which no word is cut.

    Where it is too wide, first the heads and what follows the first figure in a cell go to lines of
    their own, then the gaps close, then columns are left out, which is said. Names in the first
    column stay whole.

    Args:
      title: above it.
      heads: of the columns.
      rows: of cells.
      width: in characters.
      dispensable: heads of columns that may be left out, the first of them first; the beginning
        of a head is enough.

    Returns:
      The table, and a line below it where columns are left out.
    """
    columns = {head: [row[i] for row in rows] for i, head in enumerate(heads)}
    gap = 1  # beside the character that Rich puts between columns
    if _width(columns, gap) > width:
        columns = {
            _broken_head(head): cells if head == heads[0] else list(map(_broken_cell, cells))
            for head, cells in columns.items()
        }
    if _width(columns, gap) > width:
        gap = 0
    left_out = []
    for start in dispensable:
        for head in [head for head in columns if head.replace("\n", " ").startswith(start)]:
            if _width(columns, gap) > width:
                del columns[head]
                left_out.append(" ".join(head.split()).replace("/ ", "/"))
    table = Table(
        title=title,
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, gap, 0, 0),
        collapse_padding=True,
        pad_edge=False,
    )
    for index, head in enumerate(columns):
        table.add_column(head, justify="left" if index == 0 else "right", overflow="fold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    if not left_out:
        return [table]
    return [table, Text(f"Left out at this width: {', '.join(left_out)}.", style="dim")]


def _width(columns: Mapping[str, Sequence[str]], gap: int) -> int:
    widest = (
        max(len(line) for cell in (head, *cells) for line in cell.split("\n"))
        for head, cells in columns.items()
    )
    return sum(widest) + gap * (len(columns) - 1) + len(columns) - 1


def _broken_head(head: str) -> str:
    return head.replace(" ", "\n").replace("/", "/\n")


def _broken_cell(cell: str) -> str:
    """On lines of their own: a range or a count behind a figure, coefficients."""
    if "=" in cell:
        return cell.replace(", ", ",\n")
    return cell.replace(" [", "\n[").replace(" (", "\n(")
