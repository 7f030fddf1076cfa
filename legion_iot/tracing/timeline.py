"""A group's requests on one time axis, and where the latency of each went.

Each participant measured durations on its own monotonic clock; the axis is the orchestrator's, and agents are laid on
it by the messages both ends saw (`alignment`). Every `Span` was measured; what is in transit is what is left between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from legion_iot.planning.routing import ORCHESTRATOR, Routing, Transfer
from legion_iot.tracing.alignment import Alignment, Message, align
from legion_iot.tracing.times import RequestTimes
from legion_iot.wire.messages import TileTiming

MOST_SECONDS = 1e6  # of any duration an agent reports
LEGS = ("earlier attempts", "orchestrator", "sending", "transit", "queued", "computing")


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One request; `timings` by step and agent, of the `replica` of the plan it went through, as far as there are any.

    It was answered, unless it is not `ok`.
    """

    request: str
    times: RequestTimes
    timings: Mapping[tuple[int, str], TileTiming]
    replica: int = 0
    ok: bool = True


def possible(timing: TileTiming) -> bool:
    """Whether what an agent says can be: durations of no step last for longer than `MOST_SECONDS`."""
    heard = [seconds for each in timing.heard for seconds in (each.first, each.last)]
    durations = (timing.begun, timing.receiving, timing.queued, timing.seconds, timing.sending, *heard)
    return all(0 <= seconds <= MOST_SECONDS for seconds in durations)


@dataclass(frozen=True, slots=True)
class Span:
    """What one participant did for one step, in seconds of the orchestrator's clock.

    `kind` is `sending` or `receiving` of anyone, `computing` of an agent, or `queued`: inputs are complete, and neither
    computing nor (at the orchestrator) sending has begun. `step` is None for the network's input at the orchestrator.
    """

    who: str
    kind: str
    step: int | None
    start: float
    end: float
    size: int = 0  # bytes of elements that came from, or went to, other participants


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in a request in which nobody had anything under measurement: data were in transit between the two."""

    start: float
    end: float
    after: Span | None
    before: Span | None


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of the chain of events that determined when the answer came, in seconds of the orchestrator's clock.

    `kind` is one of `LEGS`. What is sent and in transit is on its way from `who` to the `target` for its `step`; else
    the step is the one that `who` computes, None at the orchestrator.
    """

    kind: str
    who: str
    step: int | None
    start: float
    end: float
    target: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """Where a request's latency went, in seconds.

    `covered` is the time in which at least one participant measured something. `path` is the chain of events that
    determined the answer's time, from arrival to the last output, by kind; its values sum to the latency. It is not
    known, and empty, where timings are missing.
    `transferring` is the sum of how long each transfer took, from the data being there to all of them being received,
    and `overlapping` the part of it in which sender or receiver was computing.
    """

    latency: float
    covered: float
    gaps: tuple[Gap, ...]
    path: Mapping[str, float]
    transferring: float
    overlapping: float


class Timeline:
    """The requests of one epoch, on the orchestrator's clock; how clocks are aligned can be given."""

    def __init__(
        self,
        routing: Routing,
        requests: Sequence[TracedRequest],
        alignments: Mapping[str, Alignment] | None = None,
    ) -> None:
        self.routing = routing
        self.requests = requests
        self._answers = {answer.replica: answer.step for answer in routing.answers}
        self._sources: dict[tuple[int, str], list[Transfer]] = {}
        for transfer in routing.transfers:
            self._sources.setdefault((transfer.step, transfer.target), []).append(transfer)
        self.alignments: Mapping[str, Alignment] = alignments or {}
        if alignments is None:
            self.alignments = align(self._messages(), ORCHESTRATOR)

    def spans(self, traced: TracedRequest) -> list[Span]:
        """Everything that was measured for a request, in order of time."""
        times, answer = traced.times, self._answers.get(traced.replica)
        spans = [Span(ORCHESTRATOR, "sending", None, s.start, s.end, s.size) for s in times.sends]
        if spans:
            spans.append(Span(ORCHESTRATOR, "queued", None, times.arrived, spans[0].start))
        elif not traced.ok and times.begun is None:
            spans.append(Span(ORCHESTRATOR, "queued", None, times.arrived, times.ended))
        if traced.ok or times.outputs:
            spans.append(Span(ORCHESTRATOR, "receiving", answer, times.first_output, times.ended, times.bytes_received))
        for (step, agent), timing in traced.timings.items():
            spans += self._agent_spans(step, agent, timing)
        return sorted(spans, key=lambda span: (span.start, span.end))

    def _agent_spans(self, step: int, agent: str, timing: TileTiming) -> Iterator[Span]:
        start = self.begun(agent, timing)
        sizes = {"receiving": timing.bytes_received, "sending": timing.bytes_sent}
        for kind, seconds in (
            ("receiving", timing.receiving),
            ("queued", timing.queued),
            ("computing", timing.seconds),
            ("sending", timing.sending),
        ):
            yield Span(agent, kind, step, start, start + seconds, sizes.get(kind, 0))
            start += seconds

    def begun(self, agent: str, timing: TileTiming) -> float:
        """When an agent received the first input of a step."""
        return self._offset(agent) + timing.begun

    def account(self, traced: TracedRequest) -> Account:
        """Where the latency of a request went."""
        start, end = traced.times.arrived, traced.times.ended
        gaps = tuple(_gaps(self.spans(traced), start, end))
        covered = end - start - sum(gap.end - gap.start for gap in gaps)
        return Account(end - start, covered, gaps, self._path(traced), *self._overlap(traced))

    def _overlap(self, traced: TracedRequest) -> tuple[float, float]:
        """How long all transfers took together, and how long of it one of their two ends was computing."""
        computing: dict[str, list[Span]] = {}
        for span in self.spans(traced):
            if span.kind == "computing":
                computing.setdefault(span.who, []).append(span)
        transferring = overlapping = 0.0
        for source, target, start, end in self._travels(traced):
            transferring += end - start
            spans = sorted((*computing.get(source, ()), *computing.get(target, ())), key=lambda span: span.start)
            overlapping += end - start - sum(gap.end - gap.start for gap in _gaps(spans, start, end))
        return transferring, overlapping

    def _travels(self, traced: TracedRequest) -> Iterator[tuple[str, str, float, float]]:
        """Each step's transfers from one participant to another, together: from the first being there to the last."""
        for (_, target), transfers in self._of(traced):
            for source in {transfer.source for transfer in transfers} - {target}:
                ours = [transfer for transfer in transfers if transfer.source == source]
                start = min(self._sent(traced, transfer)[0] for transfer in ours)
                end = self._came(traced, ours[0])[1]
                if end > start:
                    yield source, target, start, end

    def missing(self, traced: TracedRequest) -> list[tuple[int, str]]:
        """The steps of agents that have not been reported."""
        works = (work for work in self.routing.works if work.replica == traced.replica and work.agent != ORCHESTRATOR)
        return [(work.step, work.agent) for work in works if (work.step, work.agent) not in traced.timings]

    def waited_for(self, traced: TracedRequest) -> list[tuple[int, str]]:
        """Those of them of which all that they need was made."""
        return [
            task
            for task in self.missing(traced)
            if all(
                transfer.made_in is None or (transfer.made_in, transfer.source) in traced.timings
                for transfer in self._sources.get(task, ())
            )
        ]

    def _of(self, traced: TracedRequest) -> Iterator[tuple[tuple[int, str], list[Transfer]]]:
        """The transfers to each step and participant, of the request's replica, of which both ends are known."""
        for key, found in self._sources.items():
            if found[0].replica == traced.replica:
                known = [transfer for transfer in found if _is_known(traced, transfer)]
                if known:
                    yield key, known

    def _path(self, traced: TracedRequest) -> dict[str, float]:
        """Seconds by kind; empty where the chain of events is not known."""
        legs = self.legs(traced)
        path = dict.fromkeys(LEGS, 0.0) if legs else {}
        for leg in legs:
            path[leg.kind] += leg.end - leg.start
        return path

    def legs(self, traced: TracedRequest) -> list[Leg]:
        """From the answer back to the arrival, at each step along the input that came last.

        They have no gaps. None are known of a request that failed, or of which timings are missing.
        """
        legs: list[Leg] = []
        if not traced.ok or self.missing(traced):
            return legs
        step, who, now = self._answers.get(traced.replica, 0), ORCHESTRATOR, traced.times.ended

        def spend(kind: str, until: float, who: str, step: int | None, target: str = "") -> None:
            nonlocal now
            legs.append(Leg(kind, who, step, until, now, target))
            now = until

        while sources := self._sources.get((step, who)):
            transfer = max(sources, key=lambda source: self._came(traced, source)[1])
            made, sent = self._sent(traced, transfer)
            if transfer.source == who:
                spend("queued", made, who, step)
            else:
                spend("transit", min(max(sent, made), now), transfer.source, step, who)
                spend("sending", made, transfer.source, step, who)
            if transfer.made_in is None:
                break
            who, step = transfer.source, transfer.made_in
            timing = traced.timings[step, who]
            spend("computing", made - timing.seconds, who, step)
            spend("queued", made - timing.seconds - timing.queued, who, step)
        times = traced.times
        if times.attempt > 1 and times.begun is not None:
            spend("orchestrator", min(times.begun, now), ORCHESTRATOR, None)
            spend("earlier attempts", times.arrived, ORCHESTRATOR, None)
        else:
            spend("orchestrator", times.arrived, ORCHESTRATOR, None)
        return legs

    def _messages(self) -> Iterator[Message]:
        """What went from one participant to another, as the two ends saw it; agents' clocks begin with the epoch."""
        for traced in self.requests:
            for (_, target), transfers in self._of(traced):
                # A sender's first fragment may hold any of its tensors: it came after the first of them was there.
                for source in {transfer.source for transfer in transfers} - {target}:
                    ours = [transfer for transfer in transfers if transfer.source == source]
                    sent = min(self._sent(traced, transfer, aligned=False)[0] for transfer in ours)
                    yield Message(source, sent, target, self._came(traced, ours[0], aligned=False)[0])

    def _came(self, traced: TracedRequest, transfer: Transfer, *, aligned: bool = True) -> tuple[float, float]:
        """When the first and the last of what a source had for a step was taken in, on the target's clock or ours."""
        if transfer.source == transfer.target:
            kept = self._sent(traced, transfer, aligned=aligned)[0]
            return kept, kept
        if transfer.target == ORCHESTRATOR:
            return traced.times.outputs.get(transfer.source, (traced.times.ended, traced.times.ended))
        timing = traced.timings[transfer.step, transfer.target]
        start = timing.begun + (self._offset(transfer.target) if aligned else 0.0)
        for heard in timing.heard:
            if heard.peer == transfer.source:
                return start + heard.first, start + heard.last
        return start + timing.receiving, start + timing.receiving  # an older agent does not say

    def _sent(self, traced: TracedRequest, transfer: Transfer, *, aligned: bool = True) -> tuple[float, float]:
        """When a transfer's data were there to be sent, and when they had been handed to the connection."""
        if transfer.made_in is None:
            sends = [send for send in traced.times.sends if send.target == transfer.target]
            if not sends:
                return traced.times.arrived, traced.times.arrived
            return min(send.start for send in sends), max(send.end for send in sends)
        timing = traced.timings[transfer.made_in, transfer.source]
        made = timing.begun + timing.receiving + timing.queued + timing.seconds
        made += self._offset(transfer.source) if aligned else 0.0
        return made, made + timing.sending

    def _offset(self, agent: str) -> float:
        alignment = self.alignments.get(agent)
        return 0.0 if alignment is None else alignment.offset


def _is_known(traced: TracedRequest, transfer: Transfer) -> bool:
    """Whether it was measured when a transfer's data were there, and when they came."""
    made = transfer.made_in is None or (transfer.made_in, transfer.source) in traced.timings
    if transfer.target == ORCHESTRATOR:
        return made and (traced.ok or transfer.source in traced.times.outputs)
    return made and (transfer.step, transfer.target) in traced.timings


def _gaps(spans: Iterable[Span], start: float, end: float) -> Iterator[Gap]:
    """The parts of `start` to `end` that no span covers; spans in order of their start."""
    now, last = start, None
    for span in spans:
        if span.start > now and now < end:
            yield Gap(now, min(span.start, end), last, span)
        if span.end >= now:
            now, last = span.end, span
    if now < end:
        yield Gap(now, end, last, None)
