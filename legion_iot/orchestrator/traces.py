"""What is kept of a model's requests, so that one can be told afterwards what became of them (`legion trace`).

Timings are reported beside the answer, and may come after it. Of each request those of its last attempt are kept; of
requests that have ended, the last ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from legion_iot.planning.routing import Routing
from legion_iot.tracing.summary import request_trace
from legion_iot.tracing.timeline import Timeline, TracedRequest, possible
from legion_iot.tracing.times import InputSend, RequestTimes
from legion_iot.wire.messages import Result, TileTiming
from legion_iot.wire.trace import RequestTrace

KEPT = 64  # requests of a model that have ended
ALIGNED = 8  # of them, of the same epoch, by whose messages clocks are aligned


@dataclass(slots=True, eq=False)
class _Request:
    times: RequestTimes
    epoch: int = 0
    routing: Routing | None = None  # of the epoch in which its last attempt began
    replica: int = 0
    timings: dict[tuple[int, str], TileTiming] = field(default_factory=dict)
    result: Result | None = None

    def traced(self, name: str) -> TracedRequest:
        """A copy, which does not change with what is reported later."""
        return TracedRequest(name, self.times, dict(self.timings), self.replica, self.result is None or self.result.ok)


class Traces:
    """All requests that were taken in and are under way, and the last `KEPT` that have ended."""

    def __init__(self) -> None:
        self._open: dict[str, _Request] = {}
        self._ended: dict[str, _Request] = {}  # the newest last

    @property
    def names(self) -> tuple[str, ...]:
        """Those that have ended, the newest last."""
        return tuple(self._ended)

    def ended_at(self, request: str) -> float:
        """When it did, in seconds of the monotonic clock."""
        return self._ended[request].times.ended

    # --- what happens ---

    def arrived(self, request: str, taken: float, arrived: float) -> None:
        """A request is there; its input was taken up, and read."""
        self._open[request] = _Request(RequestTimes(taken, arrived))

    def begun(self, request: str, attempt: int, epoch: int, routing: Routing, replica: int, now: float) -> None:
        """A region of its input is to be sent in an attempt; the first one begins it."""
        found = self._open.get(request)
        if found is None or (found.routing is not None and found.times.attempt == attempt):
            return
        found.times.begin(attempt, now)
        found.epoch, found.routing, found.replica, found.timings = epoch, routing, replica, {}

    def sent(self, request: str, send: InputSend) -> None:
        """A region of its input was handed to the connection."""
        if (found := self._open.get(request)) is not None:
            found.times.sends.append(send)

    def received(self, request: str, agent: str, now: float, size: int) -> None:
        """A fragment of an output is here."""
        if (found := self._open.get(request)) is not None:
            found.times.received(agent, now, size)

    def timed(self, agent: str, timing: TileTiming) -> None:
        """An agent has reported a step; what cannot be, or is of another attempt, is not kept."""
        found = self._open.get(timing.request) or self._ended.get(timing.request)
        if found is None or found.routing is None or not possible(timing):
            return
        if (timing.epoch, timing.attempt) == (found.epoch, found.times.attempt):
            found.timings[timing.step, agent] = timing

    def ended(self, result: Result, seconds: float) -> RequestTimes | None:
        """A request has ended after so many seconds; None where it was never taken in."""
        found = self._open.pop(result.request, None)
        if found is None:
            return None
        found.times.ended, found.result = found.times.arrived + seconds, result
        if result.error != "busy":  # which may be thousands, of which there is nothing to tell
            self._ended[result.request] = found
            while len(self._ended) > KEPT:
                del self._ended[next(iter(self._ended))]
        return found.times

    # --- what can be told ---

    def of(self, request: str) -> Callable[[], RequestTrace] | None:
        """What makes the trace of a request, in any thread; None where it is not kept."""
        found = self._ended.get(request)
        if found is None or found.result is None:
            return None
        result, routing, traced = found.result, found.routing, found.traced(request)
        if routing is None:
            return lambda: request_trace(Timeline(Routing((), ()), (traced,)), traced, result)
        requests = traced, *self._like(request, found.epoch)
        return lambda: request_trace(Timeline(routing, requests), traced, result)

    def timeline(self, request: str) -> tuple[Timeline, TracedRequest] | None:
        """A request that has begun and ended, among others of its epoch; None where it is not kept."""
        found = self._ended.get(request)
        if found is None or found.routing is None:
            return None
        traced = found.traced(request)
        return Timeline(found.routing, (traced, *self._like(request, found.epoch))), traced

    def _like(self, request: str, epoch: int) -> list[TracedRequest]:
        """The last other requests of an epoch."""
        like = [name for name, each in self._ended.items() if each.epoch == epoch and name != request]
        return [self._ended[name].traced(name) for name in like[1 - ALIGNED :]]
