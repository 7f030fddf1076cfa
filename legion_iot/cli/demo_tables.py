"""How `legion demo` shows its report: the plan as a table, the answer, the times, the comparison."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from legion_iot.cli.console import err, out
from legion_iot.cli.lab import classes

if TYPE_CHECKING:
    from legion_iot.lab.report import BlockReport, DemoReport, TileReport, TurnReport


def show(report: DemoReport, saved: Path | None) -> None:
    """Print the report for people; `saved` is where a picture answer was written."""
    count = len(report.agents)
    over = "the embedded broker" if report.broker.startswith("embedded") else report.broker
    out.print(f"{report.model} on {count} agent{'s' if count > 1 else ''}, over {over}", markup=False, soft_wrap=True)
    for line in classes(report.lab) if report.lab else ():
        out.print(line, markup=False, soft_wrap=True)
    if not report.turns[0].blocks:
        err.print(
            f"nothing of {report.model} can be tiled: {report.trunk_ended_by}; one agent runs it whole",
            style="yellow", markup=False, soft_wrap=True,
        )  # fmt: skip
    out.print(plan_table(report, out))
    out.print("(rows of the block's output, time computing, bytes sent)", style="dim", soft_wrap=True)
    if report.bound:
        travel = f"travel between agents as {report.wire}" if report.wire_used else "do not travel in this plan"
        out.print(f"float32 maps {travel}", markup=False, soft_wrap=True)
    for answer in report.answer[:3]:
        out.print(f"{answer.score:7.1%}  {answer.label}", markup=False, soft_wrap=True)
    if saved is not None:
        out.print(f"picture saved as {saved}", markup=False, soft_wrap=True)
    median = statistics.median(report.latencies_ms)
    out.print(
        f"latency: median {median:.1f} ms of {len(report.latencies_ms)} request{'s' * (len(report.latencies_ms) > 1)} "
        f"({min(report.latencies_ms):.1f}–{max(report.latencies_ms):.1f}), published to answered\n"
        f"whole model on {'one' if report.lab is None else 'the fastest'} device: {report.single_device_ms:.1f} ms, "
        "computing only",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if report.exact:
        out.print("the outputs equal the whole model's, bit for bit", style="green")
    elif report.bound:
        _show_difference(report)
    else:
        err.print(
            f"the outputs differ from the whole model's: by {report.max_abs_error:g} at most "
            f"({report.max_rel_error:.2g} of the largest value)", style="red",
        )  # fmt: skip


def _show_difference(report: DemoReport) -> None:
    """How far the outputs are from the whole model's, where maps travelled in fewer bytes."""
    stays = {True: "; the best class stays", False: "; the best class changes", None: ""}[report.top_class_stays]
    (out if report.ok else err).print(
        f"the outputs differ from the whole model's by {report.max_abs_error:g} at most "
        f"({report.max_rel_error * 100:.2g} % of the largest value; "
        f"allowed with {report.wire}: {report.bound * 100:g} %){stays}",
        style="green" if report.ok else "red", soft_wrap=True,
    )  # fmt: skip


def show_trace(report: DemoReport, path: Path) -> None:
    """Print where the trace is, and how much of the latency it accounts for."""
    if report.trace is None:
        return
    about = report.trace["otherData"]
    left_out = about["requests_left_out_for_lost_timings"]
    out.print(
        f"trace of {about['requests']} requests saved as {path}: {about['covered']:.1%} of the latency is measured, "
        "the rest is in transit" + (f"; {left_out} left out, whose timings were lost" if left_out else "") + "\n"
        f"{about['overlap']:.1%} of the time that transfers take overlaps with computing at one of their ends",
        markup=False, soft_wrap=True,
    )  # fmt: skip


def plan_table(report: DemoReport, console: Console) -> Table:
    """Blocks down, agents across, where that fits the console; else one row for each block and agent."""
    table = _grid(report)
    unbounded = console.options.update(max_width=10_000)  # else the answer is cut to the console
    return table if console.measure(table, options=unbounded).maximum <= console.width else _list(report)


def _grid(report: DemoReport) -> Table:
    names = [agent.name for agent in report.agents]
    table = Table()
    table.add_column("block", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for title, turn in _turns(report):
        if title:
            table.add_row(title, end_section=True)
        for number, block in enumerate(turn.blocks, 1):
            tiles = {tile.agent: tile for tile in block.tiles}
            cells = ("\n".join(_cells(tiles[name])) if name in tiles else "—" for name in names)
            table.add_row(f"{number}\n{_units(block)}\n→ {_shape(block)}", *cells, end_section=True)
            if block.gathered is not None:
                table.add_row("gathered", *_only(block.gathered, names), end_section=True)
        if turn.tail is not None:
            table.add_row("tail", *_only(turn.tail, names), end_section=True)
    return table


def _only(tile: TileReport, names: Sequence[str]) -> Iterator[str]:
    """The row of what a single agent does."""
    return ("\n".join(_cells(tile)) if name == tile.agent else "—" for name in names)


def _turns(report: DemoReport) -> Iterator[tuple[str, TurnReport]]:
    """Each replica with what it is called, in two lines; nothing where there is one only."""
    for number, turn in enumerate(report.turns, 1):
        count = f"{turn.requests} request{'s' * (turn.requests != 1)}"
        yield f"replica {number}\n{count}" if len(report.turns) > 1 else "", turn


def _list(report: DemoReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("BLOCK", "OUTPUT", "AGENT"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ROWS", "COMPUTED", "SENT"):
        table.add_column(heading, no_wrap=True, justify="right")
    for title, turn in _turns(report):
        if title:
            table.add_row(*title.split("\n"))
        for number, block in enumerate(turn.blocks, 1):
            heading, shape = f"{number}: {_units(block)}", _shape(block)
            for tile in block.tiles:
                table.add_row(heading, shape, tile.agent, *_cells(tile))
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
    rows = "whole" if end <= first else f"row {first}" if end == first + 1 else f"rows {first}–{end - 1}"
    if tile.parts > 1:
        rows += f" in {tile.parts} parts"
    return rows, f"{tile.milliseconds:.1f} ms", _bytes(tile.bytes_sent)


def _bytes(count: int) -> str:
    if count >= 1e6:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB" if count >= 1e3 else f"{count} B"
