"""A group's requests as a trace in Chrome's format, for chrome://tracing and ui.perfetto.dev.

One process per participant. Its row `compute` is tiled: computing and waiting; `send` and the orchestrator's rows hold
what they are called; receiving may overlap from step to step, so it stands in a track of its own (async events).

Source: "Trace Event Format" (Google, 2016), JSON object format: complete (X), async (b, e), flow (s, f) and metadata
(M) events, times in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from legion_iot.wire.topics import ORCHESTRATOR
from legion_iot.wire.trace import RequestTrace, TraceGap, TraceTile

ROWS = {"computing": 1, "sending": 2, "request": 3}

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


def chrome_trace(requests: Sequence[RequestTrace], left_out: int, setting: str) -> dict[str, Any]:
    """The trace of requests, as a JSON object; `left_out` counts those with timings that were lost."""
    agents = dict.fromkeys(flow.target for request in requests for flow in request.flows)
    names = [ORCHESTRATOR, *(name for name in agents if name != ORCHESTRATOR)]
    writer = _Writer({name: number for number, name in enumerate(names, 1)}, requests)
    events = [*writer.processes()]
    for traced in requests:
        events += writer.request(traced)
        events += writer.of_orchestrator(traced)
        for tile in traced.tiles:
            events += writer.tile(traced, tile)
        for name in names[1:]:
            events += writer.waits(traced, [tile for tile in traced.tiles if tile.agent == name], name)
        events += writer.arrows(traced)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "setting": setting,
            "measured": MEASURED,
            "aligned": ALIGNED,
            "uncertainty_ms": {clock.agent: clock.uncertainty_ms for each in requests[-1:] for clock in each.clocks},
            "requests": len(requests),
            "requests_left_out_for_lost_timings": left_out,
            "covered": round(covered_share(requests), 4),
            "overlap": round(overlap_share(requests), 4),
        },
    }


def covered_share(requests: Sequence[RequestTrace]) -> float:
    """The part of all requests' latency in which at least one participant measured something."""
    latency = sum(request.latency_ms for request in requests)
    return sum(request.covered_ms for request in requests) / latency if latency else 0.0


def overlap_share(requests: Sequence[RequestTrace]) -> float:
    """The part of the time in which data travelled between two participants in which one of the two was computing."""
    transferring = sum(request.transferring_ms for request in requests)
    return sum(request.overlapping_ms for request in requests) / transferring if transferring else 0.0


class _Writer:
    """What was measured, as events; the zero of the axis is when the first request's input was taken up."""

    def __init__(self, pids: Mapping[str, int], requests: Sequence[RequestTrace]) -> None:
        self._pids = pids
        zero = min((each.arrived - each.reading_ms / 1e3 for each in requests), default=0.0)
        self._begins = {each.request: round((each.arrived - zero) * 1e3, 3) for each in requests}  # ms
        self._arrow = 0

    def _event(self, of: RequestTrace, phase: str, name: str, who: str, row: str, at: float, **more: Any) -> Event:
        return {
            "ph": phase,
            "name": name,
            "cat": row,
            "pid": self._pids[who],
            "tid": ROWS.get(row, 0),
            "ts": round((self._begins[of.request] + at) * 1e3, 3),
            **more,
        }

    def _slice(
        self, of: RequestTrace, name: str, who: str, row: str, start: float, end: float, **arguments: Any
    ) -> Event:
        arguments = {"request": of.request, **arguments}
        return self._event(of, "X", name, who, row, start, dur=round((end - start) * 1e3, 3), args=arguments)

    def _async(
        self, of: RequestTrace, name: str, who: str, row: str, key: str, start: float, end: float, **arguments: Any
    ) -> list[Event]:
        arguments = {"request": of.request, **arguments}
        return [
            self._event(of, "b", name, who, row, start, id=key, args=arguments),
            self._event(of, "e", name, who, row, end, id=key),
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

    def request(self, of: RequestTrace) -> Iterator[Event]:
        """The request as a whole, with its account; and reading the input and publishing the answer, which are not
        part of the latency."""
        end = of.latency_ms
        yield from self._async(
            of, f"request {of.request}", ORCHESTRATOR, "latency", of.request, 0.0, end, **_account(of)
        )
        yield self._slice(of, "read input", ORCHESTRATOR, "request", -of.reading_ms, 0.0)
        if of.publishing_ms:
            yield self._slice(of, "publish answer", ORCHESTRATOR, "request", end, end + of.publishing_ms)

    def of_orchestrator(self, of: RequestTrace) -> Iterator[Event]:
        """The input handed out, and the outputs that come in."""
        for send in of.sends:
            yield self._slice(
                of, "send the input", ORCHESTRATOR, "sending", send.start_ms, send.end_ms, step=None, bytes=send.bytes
            )
        if of.outputs_ms is not None:
            key = f"{of.request}/{ORCHESTRATOR}"
            yield from self._async(
                of, "receive outputs", ORCHESTRATOR, "receiving", key, of.outputs_ms, of.latency_ms,
                bytes=of.output_bytes,
            )  # fmt: skip

    def tile(self, of: RequestTrace, tile: TraceTile) -> Iterator[Event]:
        """One step of an agent; what it was queued is shown as the wait that it is part of."""
        label, received = of.label_of[tile.step], tile.begun_ms + tile.receiving_ms
        yield from self._async(
            of, f"receive for {label}", tile.agent, "receiving", f"{of.request}/{tile.agent}/{tile.step}",
            tile.begun_ms, received, step=tile.step, bytes=tile.bytes_received,
        )  # fmt: skip
        start = received + tile.queued_ms
        computed = start + tile.computing_ms
        yield self._slice(of, f"compute {label}", tile.agent, "computing", start, computed, step=tile.step)
        yield self._slice(
            of, f"send {label}", tile.agent, "sending", computed, computed + tile.sending_ms,
            step=tile.step, bytes=tile.bytes_sent,
        )  # fmt: skip

    def waits(self, of: RequestTrace, tiles: Sequence[TraceTile], who: str) -> Iterator[Event]:
        """What fills an agent's row between its computing and sending while the request is under way."""
        now, end = 0.0, of.latency_ms
        for tile in tiles:  # in order of when computing began
            start = tile.begun_ms + tile.receiving_ms + tile.queued_ms
            if start > now:
                queued = min(tile.queued_ms, start - now)
                receiving = min(tile.receiving_ms, start - now - queued)
                yield self._slice(
                    of, f"wait for the inputs of {of.label_of[tile.step]}", who, "computing", now, start,
                    step=tile.step, nothing_ms=round(start - now - queued - receiving, 3),
                    receiving_ms=round(receiving, 3), queued_ms=round(queued, 3),
                )  # fmt: skip
            now = max(now, start + tile.computing_ms + tile.sending_ms)
        if now < end:
            yield self._slice(of, "no more work in this request", who, "computing", now, end)

    def arrows(self, of: RequestTrace) -> Iterator[Event]:
        """From each send to the computing that needed it."""
        computed = {(t.agent, t.step): t.begun_ms + t.receiving_ms + t.queued_ms for t in of.tiles}
        sent: dict[tuple[str, int | None], float] = {
            (t.agent, t.step): computed[t.agent, t.step] + t.computing_ms for t in of.tiles
        }
        if of.sends:
            sent[ORCHESTRATOR, None] = of.sends[0].start_ms
        for flow in of.flows:
            start, end = sent.get((flow.source, flow.made_in)), computed.get((flow.target, flow.step))
            if start is not None and end is not None:
                self._arrow += 1
                yield self._event(of, "s", "transfer", flow.source, "sending", start, id=self._arrow)
                yield self._event(of, "f", "transfer", flow.target, "computing", end, id=self._arrow, bp="e")


def _account(of: RequestTrace) -> dict[str, Any]:
    return {
        "latency_ms": of.latency_ms,
        "covered": round(of.covered_ms / of.latency_ms, 4) if of.latency_ms else 0.0,
        "missing_ms": round(of.latency_ms - of.covered_ms, 3),
        "missing": [gap_text(gap) for gap in of.gaps],
        "transfers_ms": of.transferring_ms,
        "transfers_overlapping_computing_ms": of.overlapping_ms,
        "critical_path_ms": {share.kind: share.ms for share in of.path},
    }


def gap_text(gap: TraceGap) -> str:
    """A time in transit, for people."""
    return f"{gap.end_ms - gap.start_ms:.3f} ms in transit after {gap.after}, before {gap.before}"
