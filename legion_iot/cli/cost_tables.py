"""How `legion cost` shows its matrices: a table for each device, and triangles of short numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.table import Table

from legion_iot.cli.console import out

if TYPE_CHECKING:
    from legion_iot.planning.fits import Array
    from legion_iot.planning.matrices import CostMatrices

_CELL = 4  # characters of a number in a triangle
_SCALES = ((1e3, "ms"), (1.0, "s"))


def short_number(value: float) -> str:
    """Two or three digits, in no more than four characters below 10,000."""
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}".removeprefix("0")


def show_group(matrices: CostMatrices) -> None:
    """S, E and R of every device, side by side as far as the terminal is wide, and T."""
    out.print(Columns([_device(matrices, number) for number in range(len(matrices.devices))], padding=(0, 4)))
    out.print("S send a unit's input · E run it alone, ± standard deviation · R get its output", style="dim")
    scale, unit = _scale(matrices.block)
    out.print()
    out.print(f"T: cost of the block from one unit to another, in {unit}", soft_wrap=True)
    for table in _triangle(matrices.block * scale):
        out.print(table)


def show_device(matrices: CostMatrices, device: str) -> None:
    """S, E, R and A of one device."""
    number = matrices.devices.index(device)
    out.print(_device(matrices, number))
    out.print()
    out.print(f"A: rows a unit needs on {device} when fused, over those it needs alone", soft_wrap=True)
    for table in _triangle(matrices.enlargement[number], lambda value: f"{value:.2f}"[:_CELL].rstrip(".")):
        out.print(table)


def _device(matrices: CostMatrices, number: int) -> Table:
    name = matrices.devices[number]
    table = Table(box=None, pad_edge=False, title=name, title_justify="left", title_style="bold")
    for heading in ("UNIT", "ROWS", "S ms", "E ms", "±", "R ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for unit, strips in enumerate(matrices.rows):
        rows = strips[name]
        if not len(rows):
            table.add_row(str(unit), "none", *["—"] * 4)
            continue
        run, deviation = matrices.run[number, unit], matrices.run_deviation[number, unit]
        times = [1e3 * value for value in (matrices.send[number, unit], run, matrices.get[number, unit])]
        send, run_ms, get = (short_number(value) for value in times)
        strip = str(rows.start) if len(rows) == 1 else f"{rows.start}–{rows.stop - 1}"
        table.add_row(str(unit), strip, send, run_ms, f"{deviation / run:.0%}", get)
    return table


def _scale(values: Array) -> tuple[float, str]:
    """The factor and the unit in which the largest finite entry has no more than four digits."""
    largest = max((value for value in values.flat if value < float("inf")), default=0.0)
    return next(((scale, unit) for scale, unit in _SCALES if largest * scale < 9999.5), _SCALES[-1])


def _triangle(values: Array, text: Callable[[float], str] = short_number) -> Iterator[Table]:
    """The upper triangle, first units down and last units across, in as many tables as the width needs."""
    count = len(values)
    fitting = max(1, (out.width - len("i\\j ")) // (_CELL + 1))
    for start in range(0, count, fitting):
        columns = range(start, min(count, start + fitting))
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("i\\j", justify="right", style="dim")
        for last in columns:
            table.add_column(str(last), justify="right", no_wrap=True, min_width=_CELL)
        for first in range(columns.stop):
            cells = ("·" if last < first else text(values[first, last]) for last in columns)
            table.add_row(str(first), *cells)
        yield table
