"""What became of one request: the answer to `bridge/request/trace`.

Times are in milliseconds from the request's arrival on, when its input had been read; those of agents are laid on the
orchestrator's axis (`legion_iot.tracing`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

PAGE = 400  # tiles and flows in one message, which is about 60 kB then


@dataclass(frozen=True, slots=True)
class TraceTile:
    """One step of one agent: from `begun` on it received, was queued, computed and sent, one after the other."""

    agent: str
    step: int
    begun_ms: float
    receiving_ms: float
    queued_ms: float
    computing_ms: float
    sending_ms: float
    bytes_received: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class TraceSend:
    """The network's input, or a region of it, handed to the connection for one agent."""

    agent: str
    start_ms: float
    end_ms: float
    bytes: int


@dataclass(frozen=True, slots=True)
class TraceFlow:
    """What `source` made in one step (None: the network's input) went to `target` for another."""

    source: str
    made_in: int | None
    target: str
    step: int


@dataclass(frozen=True, slots=True)
class TraceTask:
    """A step of an agent."""

    agent: str
    step: int


@dataclass(frozen=True, slots=True)
class TraceLabel:
    """What a step is called."""

    step: int
    label: str


@dataclass(frozen=True, slots=True)
class TraceClock:
    """How far an agent's times may be off on the orchestrator's axis, at most; None where that is not known."""

    agent: str
    uncertainty_ms: float | None


@dataclass(frozen=True, slots=True)
class TraceGap:
    """A time in which nobody measured anything: data were in transit after one thing, and before another one."""

    start_ms: float
    end_ms: float
    after: str
    before: str


@dataclass(frozen=True, slots=True)
class TraceShare:
    """So much of the latency was of that kind, on the path that determined when the answer came."""

    kind: str
    ms: float


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """One request, in its last attempt.

    `arrived` is in seconds of the orchestrator's own clock, and tells only how far apart requests were. `reading_ms`
    and `publishing_ms` come before and after the latency. In `covered_ms` of it somebody measured something, and what
    is left was transit; `gaps` are the longest of these. `path` sums to the latency; it is empty where the timings of
    some steps are `missing`, because reports were lost or the request failed. What a failed request `waited_for` are
    the steps that had not been done, though all that they needed had. Transfers took `transferring_ms` altogether, and
    in `overlapping_ms` of that one of their two ends computed.
    """

    request: str
    model: str
    ok: bool
    epoch: int
    replica: int
    attempts: int
    arrived: float
    latency_ms: float
    reading_ms: float
    publishing_ms: float
    error: str = ""
    reason: str = ""
    sends: tuple[TraceSend, ...] = ()
    tiles: tuple[TraceTile, ...] = ()
    flows: tuple[TraceFlow, ...] = ()
    outputs_ms: float | None = None  # when the first part of an output came
    output_bytes: int = 0
    labels: tuple[TraceLabel, ...] = ()
    clocks: tuple[TraceClock, ...] = ()
    covered_ms: float = 0.0
    gaps: tuple[TraceGap, ...] = ()
    path: tuple[TraceShare, ...] = ()
    transferring_ms: float = 0.0
    overlapping_ms: float = 0.0
    missing: tuple[TraceTask, ...] = ()
    waited_for: tuple[TraceTask, ...] = ()

    @property
    def label_of(self) -> dict[int, str]:
        """What each step is called."""
        return {each.step: each.label for each in self.labels}


def page(trace: RequestTrace, offset: int) -> tuple[RequestTrace, int]:
    """The trace with a page of its tiles and flows, from the offset on, and where the next one begins, 0 at the end."""
    count, end = len(trace.tiles), offset + PAGE
    flows = trace.flows[max(0, offset - count) : max(0, end - count)]
    part = replace(trace, tiles=trace.tiles[offset:end], flows=flows)
    return part, end if end < count + len(trace.flows) else 0


def put_together(pages: list[RequestTrace]) -> RequestTrace:
    """The trace of which these are all pages, in order."""
    tiles = tuple(tile for each in pages for tile in each.tiles)
    return replace(pages[-1], tiles=tiles, flows=tuple(flow for each in pages for flow in each.flows))
