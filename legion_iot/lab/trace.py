"""A group's requests as a trace in Chrome's format, for chrome://tracing and ui.perfetto.dev.

One process per participant. Its row `compute` is tiled: computing and waiting; `send` and the orchestrator's rows hold
what they are called; receiving may overlap from step to step, so it stands in a track of its own (async events).

Source: "Trace Event Format" (Google, 2016), JSON object format: complete (X), async (b, e), flow (s, f) and metadata
(M) events, times in microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from legion_iot.lab.timeline import Account, Gap, Span, Timeline, TracedRequest
from legion_iot.planning.routing import ORCHESTRATOR, Routing, Work

ROWS = {"computing": 1, "sending": 2, "request": 3}
LARGEST_GAPS = 5  # named per request
LEAST_GAP = 1e-4  # seconds; shorter ones are counted, but not named

MEASURED = (
    "Every duration is measured by the participant itself, on its own monotonic clock: receiving (first to last input "
    "of a step taken in), queued (inputs complete, computing not begun), computing, sending (encoding, and handing to "
    "the MQTT connection). The orchestrator measures latency from the input read to the last output taken in."
)
ALIGNED = (
    "Clocks are not compared. Agents are laid on the orchestrator's time axis by messages that both ends saw: each is "
    "received after it was sent. The middle of what these bounds allow is taken; uncertainty_ms is the rest. "
    "Times in transit are what is left between one participant's measured spans and the next one's."
)

Event = dict[str, Any]


def chrome_trace(routing: Routing, requests: Sequence[TracedRequest], left_out: int, setting: str) -> dict[str, Any]:
    """The trace of the requests of one plan, as a JSON object; `left_out` counts those with timings that were lost."""
    timeline = Timeline(routing, requests)
    names = [ORCHESTRATOR, *dict.fromkeys(work.agent for work in routing.works if work.agent != ORCHESTRATOR)]
    writer = _Writer(routing, {name: number for number, name in enumerate(names, 1)}, requests)
    events = [*writer.processes()]
    accounts = {traced.request: timeline.account(traced) for traced in requests}
    for traced in requests:
        spans = timeline.spans(traced)
        events += writer.request(traced, accounts[traced.request])
        for span in spans:
            events += writer.span(traced, span)
        for name in names[1:]:
            events += writer.waits(traced, [s for s in spans if s.who == name], name)
        events += writer.arrows(traced, spans)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "setting": setting,
            "measured": MEASURED,
            "aligned": ALIGNED,
            "uncertainty_ms": {
                name: None if a.uncertainty is None else round(a.uncertainty * 1e3, 3)
                for name, a in sorted(timeline.alignments.items())
            },
            "requests": len(requests),
            "requests_left_out_for_lost_timings": left_out,
            "covered": round(covered_share(list(accounts.values())), 4),
            "overlap": round(overlap_share(list(accounts.values())), 4),
        },
    }


def covered_share(accounts: Sequence[Account]) -> float:
    """The part of all requests' latency in which at least one participant measured something."""
    latency = sum(account.latency for account in accounts)
    return sum(account.covered for account in accounts) / latency if latency else 0.0


def overlap_share(accounts: Sequence[Account]) -> float:
    """The part of the time in which data travelled between two participants in which one of the two was computing."""
    transferring = sum(account.transferring for account in accounts)
    return sum(account.overlapping for account in accounts) / transferring if transferring else 0.0


class _Writer:
    """Spans as events; the zero of the axis is when the first request's input was taken up."""

    def __init__(self, routing: Routing, pids: Mapping[str, int], requests: Sequence[TracedRequest]) -> None:
        self._routing = routing
        self._pids = pids
        self._zero = min((traced.times.taken for traced in requests), default=0.0)
        self._labels = _labels(routing)
        self._arrow = 0

    def _event(self, phase: str, name: str, who: str, row: str, at: float, **more: Any) -> Event:
        return {
            "ph": phase,
            "name": name,
            "cat": row,
            "pid": self._pids[who],
            "tid": ROWS.get(row, 0),
            "ts": round((at - self._zero) * 1e6, 3),
            **more,
        }

    def _slice(self, name: str, who: str, row: str, start: float, end: float, **arguments: Any) -> Event:
        return self._event("X", name, who, row, start, dur=round((end - start) * 1e6, 3), args=arguments)

    def _async(
        self, name: str, who: str, row: str, key: str, start: float, end: float, **arguments: Any
    ) -> list[Event]:
        return [
            self._event("b", name, who, row, start, id=key, args=arguments),
            self._event("e", name, who, row, end, id=key),
        ]

    def processes(self) -> Iterator[Event]:
        """What the rows are called."""
        for name, pid in self._pids.items():
            yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
            yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}
            rows = ("sending", "request") if name == ORCHESTRATOR else ("computing", "sending")
            for row in rows:
                yield {
                    "ph": "M", "name": "thread_name", "pid": pid, "tid": ROWS[row],
                    "args": {"name": {"computing": "compute", "sending": "send", "request": "input and answer"}[row]},
                }  # fmt: skip

    def request(self, traced: TracedRequest, account: Account) -> Iterator[Event]:
        """The request as a whole, with its account; and reading the input and publishing the answer, which are not
        part of the latency."""
        times, request = traced.times, traced.request
        yield from self._async(
            f"request {request}", ORCHESTRATOR, "latency", request, times.arrived, times.ended,
            request=request, **_account_json(account, self._span_name),
        )  # fmt: skip
        yield self._slice("read input", ORCHESTRATOR, "request", times.taken, times.arrived, request=request)
        if times.published > times.ended:
            yield self._slice("publish answer", ORCHESTRATOR, "request", times.ended, times.published, request=request)

    def span(self, traced: TracedRequest, span: Span) -> Iterator[Event]:
        if span.kind == "queued":
            return  # shown as the wait it is part of
        arguments = {"request": traced.request, "step": span.step, "bytes": span.size}
        if span.kind == "computing":
            del arguments["bytes"]
        name = self._span_name(span)
        if span.kind == "receiving":
            key = f"{traced.request}/{span.who}/{span.step}"
            yield from self._async(name, span.who, "receiving", key, span.start, span.end, **arguments)
        else:
            yield self._slice(name, span.who, span.kind, span.start, span.end, **arguments)

    def waits(self, traced: TracedRequest, spans: Sequence[Span], who: str) -> Iterator[Event]:
        """What fills an agent's row between its computing and sending while the request is under way."""
        working = sorted((s for s in spans if s.kind in ("computing", "sending")), key=lambda s: s.start)
        now, end = traced.times.arrived, traced.times.ended
        for span in working:
            if span.kind == "computing" and span.start > now:
                timing, waited = traced.timings[span.step or 0, who], span.start - now
                queued = min(timing.queued, waited)
                receiving = min(timing.receiving, waited - queued)
                yield self._slice(
                    f"wait for the inputs of {self._label(span)}", who, "computing", now, span.start,
                    request=traced.request, step=span.step,
                    nothing_ms=_ms(waited - queued - receiving), receiving_ms=_ms(receiving), queued_ms=_ms(queued),
                )  # fmt: skip
            now = max(now, span.end)
        if now < end:
            yield self._slice("no more work in this request", who, "computing", now, end, request=traced.request)

    def arrows(self, traced: TracedRequest, spans: Sequence[Span]) -> Iterator[Event]:
        """From each send to the computing that needed it."""
        sends = {(s.who, s.step): s for s in spans if s.kind == "sending"}
        targets = {(s.who, s.step): s for s in spans if s.kind == "computing"}
        pairs = {(t.source, t.made_in, t.target, t.step) for t in self._routing.transfers if t.source != t.target}
        for source, made_in, target, step in sorted(pairs, key=str):
            start, end = sends.get((source, made_in)), targets.get((target, step))
            if start is not None and end is not None:
                self._arrow += 1
                yield self._event("s", "transfer", source, "sending", start.start, id=self._arrow)
                yield self._event("f", "transfer", target, "computing", end.start, id=self._arrow, bp="e")

    def _label(self, span: Span) -> str:
        return "the input" if span.step is None else self._labels[span.step]

    def _span_name(self, span: Span) -> str:
        verb = {"receiving": "receive", "sending": "send", "computing": "compute", "queued": "begin"}[span.kind]
        what = self._label(span)
        return f"{verb} {what}" if span.kind != "receiving" or span.who == ORCHESTRATOR else f"receive for {what}"


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


def _account_json(account: Account, name: Callable[[Span], str]) -> dict[str, Any]:
    largest = sorted((g for g in account.gaps if g.end - g.start >= LEAST_GAP), key=lambda gap: gap.start - gap.end)
    return {
        "latency_ms": _ms(account.latency),
        "covered": round(account.covered / account.latency, 4) if account.latency else 0.0,
        "missing_ms": _ms(account.latency - account.covered),
        "missing": [_gap_text(gap, name) for gap in largest[:LARGEST_GAPS]],
        "transfers_ms": _ms(account.transferring),
        "transfers_overlapping_computing_ms": _ms(account.overlapping),
        "critical_path_ms": {kind: _ms(seconds) for kind, seconds in account.path.items()},
    }


def _gap_text(gap: Gap, name: Callable[[Span], str]) -> str:
    after = f"after {gap.after.who}: {name(gap.after)}" if gap.after else "after the request arrived"
    before = f"before {gap.before.who}: {name(gap.before)}" if gap.before else "before it ended"
    return f"{_ms(gap.end - gap.start):g} ms in transit {after}, {before}"


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
