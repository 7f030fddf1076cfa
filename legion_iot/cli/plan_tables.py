"""How `legion plan` shows a plan: who does what, how long it takes, and why it is so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from legion_iot.cli.console import out
from legion_iot.cli.figures import bytes_text, seconds_text
from legion_iot.cli.plan_grid import plan_table
from legion_iot.cli.plan_outcome import Outcome, kinds, percent_more
from legion_iot.planning.traffic import EXACT

if TYPE_CHECKING:
    from legion_iot.bench.verify import Verdict
    from legion_iot.planning.explanation import Explanation


def show(outcome: Outcome, accuracy: Verdict | None) -> None:
    """Print everything but the picture; `accuracy` is what the wire dtype does to the outputs, where it is used."""
    kind = f" ({outcome.plan.planner})" if outcome.plan.planner != outcome.planner else ""
    group = ", ".join(kinds(outcome.group))
    _line(f"{outcome.model} on {group}; planner {outcome.planner}{kind}, for {outcome.objective}")
    several = len(outcome.turns) > 1
    titles = [(f"replica {n}", f"{share:.0%} of requests") for n, share in enumerate(outcome.estimate.shares, 1)]
    turns = [(title if several else None, turn) for title, turn in zip(titles, outcome.turns, strict=True)]
    names = [name for name in outcome.group.names if name in outcome.plan.agents]
    out.print(plan_table(names, turns, out))
    out.print("(rows of the block's output, time computing, bytes sent; all predicted)", style="dim", soft_wrap=True)
    out.print(_loads(outcome))
    _results(outcome)
    _wire(outcome, accuracy)
    if outcome.explanation is not None:
        _reasons(outcome, outcome.explanation)


def _line(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)


def _loads(outcome: Outcome) -> Table:
    """Who is busy for how long, of the time a request takes, or of that between two answers."""
    table = Table(box=None, pad_edge=False)
    table.add_column("DEVICE", no_wrap=True)
    for heading in ("COMPUTES", "BUSY", "SENDS", "", "RECEIVES", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for load in outcome.loads:
        if load.computing_s or load.bytes_sent or load.bytes_received:
            part = f"{load.computing_s / outcome.seconds:.0%}" if outcome.seconds else ""
            computes = (seconds_text(load.computing_s), part) if load.computing_s else ("—", "")
            sends = (seconds_text(load.sending_s), bytes_text(load.bytes_sent))
            table.add_row(load.name, *computes, *sends, seconds_text(load.receiving_s), bytes_text(load.bytes_received))
    return table


def _results(outcome: Outcome) -> None:
    estimate = outcome.estimate
    _line(f"latency: {seconds_text(estimate.latency)}; in a busy group an answer every {_interval(estimate.interval)}")
    bound = f"no plan takes less than {seconds_text(outcome.bound)}"
    if outcome.objective == "throughput":
        bound = f"no plan answers more often than every {seconds_text(outcome.bound)}"
    _line(f"bound: {bound}; this one takes {percent_more(outcome.seconds, outcome.bound)}")
    if outcome.alone is None:
        _line("alone: no device has the memory for the whole model")
    else:
        factor = outcome.alone.seconds / outcome.seconds if outcome.seconds else 1.0
        does = "takes" if outcome.objective == "latency" else "answers every"
        _line(f"alone: {outcome.alone.device} {does} {seconds_text(outcome.alone.seconds)}, {factor:.2f} × as long")
    idle = [name for name in outcome.group.names if name not in outcome.plan.agents]
    if idle and outcome.explanation is None:
        _line(f"left out: {', '.join(idle)}")


def _wire(outcome: Outcome, accuracy: Verdict | None) -> None:
    if outcome.wire == EXACT:
        return
    if accuracy is None:
        _line(f"wire: no map travels between agents as {outcome.wire} in this plan")
        return
    change = "the outputs stay as they are"
    if not accuracy.exact:
        change = (
            f"the outputs differ by {100 * accuracy.max_rel_error:.2g} % of the largest value "
            f"(allowed with {outcome.wire}: {100 * accuracy.bound:g} %)"
        )
    stays = {True: "; the best class stays", False: "; the best class changes", None: ""}[accuracy.top_class_stays]
    out.print(
        f"wire: float32 maps travel between agents as {outcome.wire}; {change}{stays}",
        style=None if accuracy.ok else "red", markup=False, soft_wrap=True,
    )  # fmt: skip


def _interval(seconds: float) -> str:
    return f"{seconds_text(seconds)} ({1 / seconds:.2f} per second)" if seconds else "moment"


def _reasons(outcome: Outcome, why: Explanation) -> None:
    out.print()
    if not why.left_out:
        _line("no device is left out")
    for each in why.left_out:
        one = "" if len(each.devices) == 1 else "one of "
        cost = "it has not the memory, or no row to get" if each.seconds is None else _beside(outcome, each.seconds)
        _line(f"left out: {', '.join(each.devices)}; with {one}{'it' if not one else 'them'}: {cost}")
    if why.cuts:
        out.print()
        table = Table(box=None, pad_edge=False)
        for heading in ("CUT AFTER", "WITHOUT IT", "A UNIT EARLIER", "A UNIT LATER"):
            table.add_column(heading, justify="right" if heading != "CUT AFTER" else "left", no_wrap=True)
        for cut in why.cuts:
            cells = ("—" if s is None else _beside(outcome, s) for s in (cut.without, cut.earlier, cut.later))
            table.add_row(f"unit {cut.unit}", *cells)
        out.print(table)
    out.print()
    table = Table(box=None, pad_edge=False)
    table.add_column("PLANNER", no_wrap=True)
    for heading in ("BLOCKS", "DEVICES", outcome.objective.upper() if outcome.objective == "latency" else "INTERVAL"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for other in why.others:
        if other.seconds is None:
            table.add_row(other.planner, "—", "—", "—", other.reason)
        else:
            more = "the same plan" if other.is_same else percent_more(other.seconds, outcome.seconds)
            table.add_row(other.planner, str(other.blocks), str(len(other.agents)), seconds_text(other.seconds), more)
    out.print(table)


def _beside(outcome: Outcome, seconds: float) -> str:
    return f"{seconds_text(seconds)} {percent_more(seconds, outcome.seconds)}"
