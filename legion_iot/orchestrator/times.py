"""When what happened to a request at the orchestrator, on its own monotonic clock (seconds)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class InputSend:
    """The network's input, or a region of it, handed to the connection for one agent."""

    target: str
    start: float
    end: float
    size: int  # bytes of elements


@dataclass(slots=True)
class RequestTimes:
    """One request: latency runs from `arrived`, when its input has been read, to `ended`, when all outputs are there.

    `published` is when the answer was handed to the connection. `outputs` are the times of each agent's first and last
    fragment of an output.
    """

    taken: float
    arrived: float
    sends: list[InputSend] = field(default_factory=list)
    outputs: dict[str, tuple[float, float]] = field(default_factory=dict)
    ended: float = 0.0
    published: float = 0.0
    bytes_received: int = 0

    @property
    def first_output(self) -> float:
        """When the first fragment of an output came; `ended` where none came from an agent."""
        return min((first for first, _ in self.outputs.values()), default=self.ended)


class RequestClock:
    """Collects the times of the requests that have not ended; what belongs to none of them is ignored."""

    def __init__(self) -> None:
        self._requests: dict[str, RequestTimes] = {}

    def begin(self, request: str, taken: float, arrived: float) -> None:
        self._requests[request] = RequestTimes(taken, arrived)

    def sent(self, request: str, target: str, start: float, size: int) -> None:
        """A send that began at `start` is done."""
        if (times := self._requests.get(request)) is not None:
            times.sends.append(InputSend(target, start, time.monotonic(), size))

    def received(self, request: str, agent: str, now: float, size: int) -> None:
        """A fragment of an output is here."""
        if (times := self._requests.get(request)) is not None:
            times.outputs[agent] = (times.outputs.get(agent, (now, now))[0], now)
            times.bytes_received += size

    def end(self, request: str, seconds: float) -> RequestTimes | None:
        """The request ended after `seconds`, and is forgotten; None where it is not known."""
        times = self._requests.pop(request, None)
        if times is not None:
            times.ended = times.arrived + seconds
        return times
