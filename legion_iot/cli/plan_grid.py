"""A plan as a table: who computes which rows of which block, how long, and how many bytes it sends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from legion_iot.cli.figures import bytes_text

if TYPE_CHECKING:
    from legion_iot.lab.report import BlockReport, TileReport, TurnReport

    Turns = Sequence[tuple[tuple[str, str] | None, TurnReport]]  # each with a title, where there are several


def plan_table(names: Sequence[str], turns: Turns, console: Console) -> Table:
    """Blocks down, agents across, where that fits the console; else one row for each block and agent.

    Replicas have few agents in common, so they are listed, too.
    """
    table = _grid(names, turns)
    unbounded = console.options.update(max_width=10_000)  # else the answer is cut to the console
    fits = console.measure(table, options=unbounded).maximum <= console.width
    return table if fits and len(turns) == 1 else _list(turns)


def _grid(names: Sequence[str], turns: Turns) -> Table:
    table = Table()
    table.add_column("block", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for title, turn in turns:
        if title:
            table.add_row("\n".join(title), end_section=True)
        for number, block in enumerate(turn.blocks, 1):
            tiles = {tile.agent: tile for tile in block.tiles}
            cells = (_in_lines(tiles[name]) if name in tiles else "—" for name in names)
            table.add_row(f"{number}\n{_units(block)}\n→ {_shape(block)}", *cells, end_section=True)
            if block.gathered is not None:
                table.add_row("gathered", *_only(block.gathered, names), end_section=True)
        if turn.tail is not None:
            table.add_row("tail", *_only(turn.tail, names), end_section=True)
    return table


def _only(tile: TileReport, names: Sequence[str]) -> Iterator[str]:
    """The row of what a single agent does."""
    return (_in_lines(tile) if name == tile.agent else "—" for name in names)


def _in_lines(tile: TileReport) -> str:
    """What stands in a column of its own, which is to be narrow."""
    rows, milliseconds, sent = _cells(tile)
    return "\n".join((rows, *_more(tile), milliseconds, sent))


def _list(turns: Turns) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("BLOCK", "OUTPUT", "AGENT"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ROWS", "COMPUTED", "SENT"):
        table.add_column(heading, no_wrap=True, justify="right")
    for title, turn in turns:
        if title:
            table.add_row(*title)
        for number, block in enumerate(turn.blocks, 1):
            heading, shape = f"{number}: {_units(block)}", _shape(block)
            for tile in block.tiles:
                rows, *rest = _cells(tile)
                table.add_row(heading, shape, tile.agent, ", ".join((rows, *_more(tile))), *rest)
                heading = shape = ""
            if block.gathered is not None:
                table.add_row("gathered", "", block.gathered.agent, *_cells(block.gathered))
        if turn.tail is not None:
            table.add_row("tail", "", turn.tail.agent, *_cells(turn.tail))
    return table


def _units(block: BlockReport) -> str:
    first, last = block.units
    return f"unit {first}" if first == last else f"units {first}–{last}"


def _shape(block: BlockReport) -> str:
    return "×".join(str(size) for size in block.output_shape[1:])


def _cells(tile: TileReport) -> tuple[str, str, str]:
    first, end = tile.rows
    rows = "whole" if end <= first else _numbers("row", first, end)
    return rows, f"{tile.milliseconds:.1f} ms", bytes_text(tile.bytes_sent)


def _more(tile: TileReport) -> Iterator[str]:
    """What is said of few tiles only."""
    if tile.columns is not None:
        yield _numbers("column", *tile.columns)
    if tile.parts > 1:
        yield f"{tile.parts} parts"


def _numbers(what: str, first: int, end: int) -> str:
    return f"{what} {first}" if end == first + 1 else f"{what}s {first}–{end - 1}"
