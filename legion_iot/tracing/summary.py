"""A request on the time axis of its orchestrator, in the form in which it travels and is shown."""

from __future__ import annotations

from legion_iot.planning.routing import ORCHESTRATOR, Routing, Work
from legion_iot.tracing.timeline import Account, Gap, Span, Timeline, TracedRequest
from legion_iot.wire.messages import Result
from legion_iot.wire.trace import (
    RequestTrace,
    TraceClock,
    TraceFlow,
    TraceGap,
    TraceLabel,
    TraceSend,
    TraceShare,
    TraceTask,
    TraceTile,
)

LARGEST_GAPS = 5  # named per request
LEAST_GAP = 1e-4  # seconds; shorter ones are counted, but not named
VERBS = {"receiving": "receive", "sending": "send", "computing": "compute", "queued": "begin"}


def request_trace(timeline: Timeline, traced: TracedRequest, result: Result) -> RequestTrace:
    """What became of a request of the timeline, which ended with that result."""
    times, routing = traced.times, timeline.routing
    works = [work for work in routing.works if work.replica == traced.replica]
    agents = {work.agent for work in works} - {ORCHESTRATOR}
    labels = _labels(routing)
    account = timeline.account(traced)
    missing = timeline.missing(traced)
    return RequestTrace(
        request=traced.request,
        model=result.model,
        ok=result.ok,
        epoch=result.epoch,
        replica=traced.replica,
        attempts=times.attempt,
        arrived=times.arrived,
        latency_ms=_ms(times.ended - times.arrived),
        reading_ms=_ms(times.arrived - times.taken),
        publishing_ms=_ms(max(0.0, times.published - times.ended)),
        error=result.error,
        reason=result.reason,
        sends=tuple(
            TraceSend(send.target, _ms(send.start - times.arrived), _ms(send.end - times.arrived), send.size)
            for send in times.sends
        ),
        tiles=_tiles(timeline, traced),
        flows=tuple(
            TraceFlow(*flow)
            for flow in sorted(
                {
                    (transfer.source, transfer.made_in, transfer.target, transfer.step)
                    for transfer in routing.transfers
                    if transfer.source != transfer.target and transfer.replica == traced.replica
                },
                key=str,
            )
        ),
        outputs_ms=_ms(times.first_output - times.arrived) if result.ok or times.outputs else None,
        output_bytes=times.bytes_received,
        labels=tuple(TraceLabel(step, labels[step]) for step in dict.fromkeys(work.step for work in works)),
        clocks=tuple(
            TraceClock(name, None if alignment.uncertainty is None else _ms(alignment.uncertainty))
            for name, alignment in sorted(timeline.alignments.items())
            if name in agents
        ),
        covered_ms=_ms(account.covered),
        gaps=_gaps(account, times.arrived, labels),
        path=tuple(TraceShare(kind, _ms(seconds)) for kind, seconds in account.path.items()),
        transferring_ms=_ms(account.transferring),
        overlapping_ms=_ms(account.overlapping),
        missing=tuple(TraceTask(agent, step) for step, agent in missing),
        waited_for=() if result.ok else tuple(TraceTask(agent, step) for step, agent in timeline.waited_for(traced)),
    )


def _tiles(timeline: Timeline, traced: TracedRequest) -> tuple[TraceTile, ...]:
    """In order of when computing began."""
    tiles = [
        TraceTile(
            agent, step, _ms(timeline.begun(agent, timing) - traced.times.arrived), _ms(timing.receiving),
            _ms(timing.queued), _ms(timing.seconds), _ms(timing.sending), timing.bytes_received, timing.bytes_sent,
        )
        for (step, agent), timing in traced.timings.items()
    ]  # fmt: skip
    return tuple(sorted(tiles, key=lambda tile: tile.begun_ms + tile.receiving_ms + tile.queued_ms))


def _gaps(account: Account, arrived: float, labels: dict[int, str]) -> tuple[TraceGap, ...]:
    largest = sorted((g for g in account.gaps if g.end - g.start >= LEAST_GAP), key=lambda gap: gap.start - gap.end)
    return tuple(_gap(gap, arrived, labels) for gap in largest[:LARGEST_GAPS])


def _gap(gap: Gap, arrived: float, labels: dict[int, str]) -> TraceGap:
    after = _doing(gap.after, labels) if gap.after else "the request arrived"
    before = _doing(gap.before, labels) if gap.before else "it ended"
    return TraceGap(_ms(gap.start - arrived), _ms(gap.end - arrived), after, before)


def _doing(span: Span, labels: dict[int, str]) -> str:
    what = "the input" if span.step is None else labels[span.step]
    verb = VERBS[span.kind]
    return f"{span.who}: {verb} {'for ' if span.kind == 'receiving' and span.who != ORCHESTRATOR else ''}{what}"


def _labels(routing: Routing) -> dict[int, str]:
    """What each step is called: its block and part of it, with the replica where there are several."""
    steps: dict[tuple[int, int], set[int]] = {}
    for work in routing.works:
        if work.block is not None and not work.gathers:
            steps.setdefault((work.replica, work.block), set()).add(work.step)
    labels = {}
    for work in routing.works:
        parts = () if work.block is None else sorted(steps[work.replica, work.block])
        label = _label(work)
        if len(parts) > 1 and not work.gathers:
            label += f", part {parts.index(work.step) + 1}"
        labels[work.step] = label if routing.replicas == 1 else f"{label} of replica {work.replica + 1}"
    return labels


def _label(work: Work) -> str:
    if work.block is None:
        return "outputs" if work.agent == ORCHESTRATOR else "tail"
    if work.units is None:
        return f"block {work.block + 1}, gathered"
    first, last = work.units
    return f"block {work.block + 1} ({f'unit {first}' if first == last else f'units {first}–{last}'})"


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
