"""How `legion demo` shows its report: the plan as a table, the answer, the times, the comparison."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from legion_iot.cli import plan_grid
from legion_iot.cli.console import err, out
from legion_iot.cli.lab import classes

if TYPE_CHECKING:
    from legion_iot.lab.report import DemoReport, PlanningReport


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
    out.print(planning_line(report.planner, report.planning), markup=False, soft_wrap=True)
    if report.bound:
        travel = f"travel between agents as {report.wire}" if report.wire_used else "do not travel in this plan"
        out.print(f"float32 maps {travel}", markup=False, soft_wrap=True)
    if report.packed:
        pairs = ", ".join(f"{source} → {target}" for source, target in report.packed)
        out.print(f"maps travel without their zeros: {pairs}", markup=False, soft_wrap=True)
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


def planning_line(planner: str, planning: PlanningReport) -> str:
    """By whom the plan was found, and what that took."""
    measured = f"{planning.runs} runs of {planning.parts} parts ({planning.device_seconds:.1f} s of computing)"
    tried = f", {planning.trials} plan{'s' * (planning.trials != 1)} tried" if planning.trials else ""
    return f"plan by {planner}, found in {planning.seconds:.1f} s: {measured}, {planning.links} links probed{tried}"


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
    turns = []
    for number, turn in enumerate(report.turns, 1):
        count = f"{turn.requests} request{'s' * (turn.requests != 1)}"
        turns.append(((f"replica {number}", count) if len(report.turns) > 1 else None, turn))
    return plan_grid.plan_table([agent.name for agent in report.agents], turns, console)
