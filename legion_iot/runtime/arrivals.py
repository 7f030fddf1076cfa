"""When the inputs of each step came in, on this participant's own monotonic clock."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from legion_iot.runtime.attempts import StepRun
from legion_iot.wire.messages import Heard

MAX_STEPS = 1024  # of all requests; those of requests that were given up fall out first


@dataclass(slots=True)
class Arrival:
    """The first and the latest input of one step of one request, in seconds; bytes and times by the others they
    came from."""

    first: float
    last: float
    bytes_received: int = 0
    peers: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def heard(self) -> tuple[Heard, ...]:
        """When each sender's first and last fragment came, from the first input on."""
        return tuple(Heard(peer, first - self.first, last - self.first) for peer, (first, last) in self.peers.items())


class Arrivals:
    """The arrivals of the steps that have not run yet."""

    def __init__(self) -> None:
        self._steps: OrderedDict[StepRun, Arrival] = OrderedDict()

    def __len__(self) -> int:
        return len(self._steps)

    def note(self, step: StepRun, now: float, peer: str = "", size: int = 0) -> None:
        """An input of the step is here; `peer` and `size` where it came as so many bytes from another participant."""
        arrival = self._steps.get(step)
        if arrival is None:
            arrival = self._steps[step] = Arrival(now, now)
            if len(self._steps) > MAX_STEPS:
                self._steps.popitem(last=False)
        arrival.first, arrival.last = min(arrival.first, now), max(arrival.last, now)
        arrival.bytes_received += size
        if peer:
            arrival.peers[peer] = (arrival.peers.get(peer, (now, now))[0], now)

    def take(self, step: StepRun) -> Arrival | None:
        """The step's arrival, which is forgotten; None where it is not known."""
        return self._steps.pop(step, None)
