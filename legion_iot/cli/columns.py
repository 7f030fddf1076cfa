"""Tables that fit the terminal: as many columns as it is wide for, and a row is a line, whatever stands in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from legion_iot.cli.figures import printable

Row = TypeVar("Row")
Cell = str | Text | ProgressBar

GAP = 2  # blanks between two columns


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """What stands in it for a row: figures to the right, texts (`is_text`) to the left.

    Columns that are `extra` are shown where there is room for them as they are, the first ones first. Where there is
    too little for the others, those with a number of characters that is the `least` for them are cut to it, then the
    last ones are left out.
    """

    title: str
    cell: Callable[[Row], Cell]
    is_text: bool = False
    extra: bool = False
    least: int = 0


def table(columns: Sequence[Column[Row]], rows: Sequence[Row], width: int, is_gone: Callable[[Row], bool]) -> Table:
    """A table of that width at most; rows of what is gone are dim."""
    cells = {column.title: [column.cell(row) for row in rows] for column in columns}
    shown = _that_fit(columns, cells, width)
    made = Table(box=None, pad_edge=False, header_style="bold dim")
    for column in shown:
        # Rich makes those narrower first that may wrap; their cells do not.
        made.add_column(
            column.title, justify="left" if column.is_text else "right", no_wrap=not column.least, overflow="ellipsis",
            min_width=min(column.least, _width(column, cells)) or None,
        )  # fmt: skip
    for number, row in enumerate(rows):
        made.add_row(*(_uncut(cells[each.title][number]) for each in shown), style="dim" if is_gone(row) else "")
    return made


def _that_fit(columns: Sequence[Column[Row]], cells: dict[str, list[Cell]], width: int) -> list[Column[Row]]:
    widths = {column.title: _width(column, cells) for column in columns}
    shown = [column for column in columns if not column.extra]
    while len(shown) > 1 and _total(min(widths[each.title], each.least or width) for each in shown) > width:
        del shown[-1]
    for column in columns:
        if column.extra and _total(widths[each.title] for each in (*shown, column)) <= width:
            shown.append(column)
    return [column for column in columns if column in shown]


def _total(widths: Iterable[int]) -> int:
    return sum(each + GAP for each in widths) - GAP


def _width(column: Column[Row], cells: dict[str, list[Cell]]) -> int:
    return max(cell_len(column.title), *(_cell_width(cell) for cell in cells[column.title]), 1)


def _cell_width(cell: Cell) -> int:
    if isinstance(cell, ProgressBar):
        return cell.width or 0
    return cell_len(cell) if isinstance(cell, str) else cell.cell_len


def _uncut(cell: Cell) -> Text | ProgressBar:
    """As one line; a text that is too long ends in an ellipsis."""
    if isinstance(cell, ProgressBar):
        return cell
    text = Text(printable(cell)) if isinstance(cell, str) else cell
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
