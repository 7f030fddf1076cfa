"""A request's trace as text: a table in order of time, a chart of who did what when, and where the latency went."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from legion_iot.wire.topics import ORCHESTRATOR
from legion_iot.wire.trace import RequestTrace, TraceTask, TraceTile

COLUMNS = ("at", "agent", "step", "wait", "receive", "queue", "compute", "send", "in", "out")
_MARKS = (("compute", "█"), ("send", "▓"), ("receive", "░"))  # what is more important first
_IDLE = "·"
_UNITS = re.compile(r" \(units? [^)]*\)")  # of a block, for which a row has no room
_MOST_NAME = 16  # columns of a participant's name in the chart
_MOST_NAMED = 5  # of those that something is missing of

_Span = tuple[str, float, float]  # what, from, until


def text_before(traced: RequestTrace) -> Iterator[str]:
    """What the request was, and how it ended."""
    how = "answered" if traced.ok else f"failed with {traced.error}"
    yield f"request {traced.request} of {traced.model}: {how} after {traced.latency_ms:.1f} ms, {_which(traced)}"
    if not traced.ok:
        yield f"reason: {traced.reason}"
        if traced.waited_for:
            yield f"waited for {_tasks(traced, traced.waited_for)}"
        elif not traced.sends:
            yield "it was never begun"
    elif traced.missing:
        yield f"the report of {_tasks(traced, traced.missing)} was lost, so the account has holes"


def _which(traced: RequestTrace) -> str:
    attempt = f", attempt {traced.attempts}" if traced.attempts > 1 else ""
    replica = f", replica {traced.replica + 1}" if traced.replica else ""
    return f"epoch {traced.epoch}{replica}{attempt}"


def _tasks(traced: RequestTrace, tasks: Sequence[TraceTask]) -> str:
    named = [f"{task.agent} ({traced.label_of[task.step]})" for task in tasks[:_MOST_NAMED]]
    more = len(tasks) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def rows(traced: RequestTrace) -> Iterator[tuple[str, ...]]:
    """A row for each step, in order of when computing began; times in ms, sizes in kB.

    An agent waits from the request's arrival, or from when its step before was done, until the first input came.
    """
    done: dict[str, float] = {}
    for tile in traced.tiles:
        wait = max(0.0, tile.begun_ms - done.get(tile.agent, 0.0))
        start = _start(tile)
        done[tile.agent] = start + tile.computing_ms + tile.sending_ms
        times = (wait, tile.receiving_ms, tile.queued_ms, tile.computing_ms, tile.sending_ms)
        sizes = (f"{size / 1e3:.1f}" for size in (tile.bytes_received, tile.bytes_sent))
        step = _UNITS.sub("", traced.label_of[tile.step])
        yield f"{start:.1f}", tile.agent, step, *(f"{ms:.1f}" for ms in times), *sizes


def gantt(traced: RequestTrace, width: int) -> Iterator[str]:
    """A line for each participant, no longer than `width`: what it did in each moment, by what most of it was."""
    spans = _spans(traced)
    names = max(min(len(name), _MOST_NAME) for name in spans)
    columns = max(10, width - names - 2)
    scale = columns / traced.latency_ms if traced.latency_ms else 0.0
    for name, of in spans.items():
        line = [_IDLE] * columns
        for what, mark in reversed(_MARKS):
            for _, start, end in (span for span in of if span[0] == what):
                first, last = int(start * scale), int(end * scale)
                for column in range(max(0, first), min(columns, max(first + 1, last))):
                    line[column] = mark
        yield f"{name[:_MOST_NAME]:<{names}}  {''.join(line)}"
    legend = "  ".join(f"{mark} {what}" for what, mark in _MARKS)
    length = f"{traced.latency_ms:.1f} ms"
    yield f"{'':<{names}}  {legend}{length.rjust(columns - len(legend)) if columns > len(legend) + len(length) else ''}"


def _spans(traced: RequestTrace) -> dict[str, list[_Span]]:
    """By participant, the orchestrator first."""
    spans: dict[str, list[_Span]] = {ORCHESTRATOR: [("send", send.start_ms, send.end_ms) for send in traced.sends]}
    if traced.outputs_ms is not None:
        spans[ORCHESTRATOR].append(("receive", traced.outputs_ms, traced.latency_ms))
    for name in sorted({flow.target for flow in traced.flows} - {ORCHESTRATOR}):
        spans[name] = []
    for tile in traced.tiles:
        start = _start(tile)
        computed = start + tile.computing_ms
        spans.setdefault(tile.agent, []).extend(
            [
                ("receive", tile.begun_ms, tile.begun_ms + tile.receiving_ms),
                ("compute", start, computed),
                ("send", computed, computed + tile.sending_ms),
            ]
        )
    return spans


def _start(tile: TraceTile) -> float:
    """When computing began."""
    return tile.begun_ms + tile.receiving_ms + tile.queued_ms


def text_behind(traced: RequestTrace) -> Iterator[str]:
    """Where the latency went, and how sure that is."""
    latency = traced.latency_ms
    shares = [share for share in traced.path if share.ms >= 0.05]
    if shares:
        yield "what the answer had to wait for:"
        for share in sorted(shares, key=lambda share: -share.ms):
            yield f"  {share.kind:<16} {share.ms:9.1f} ms  {share.ms / latency:4.0%}"
    transit = latency - traced.covered_ms
    yield f"somebody measured something in {traced.covered_ms:.1f} ms of it; {transit:.1f} ms are left"
    for gap in traced.gaps:
        yield f"  {gap.end_ms - gap.start_ms:.1f} ms in transit after {gap.after}, before {gap.before}"
    known = [clock for clock in traced.clocks if clock.uncertainty_ms is not None]
    if known:
        worst = max(known, key=lambda clock: clock.uncertainty_ms or 0.0)
        yield f"agents' times may be off by {worst.uncertainty_ms:.1f} ms here at most ({worst.agent})"
