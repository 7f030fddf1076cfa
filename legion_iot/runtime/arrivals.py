"""When the inputs of each step came in, on this participant's own monotonic clock."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_STEPS = 1024  # of all requests; those of requests that were given up fall out first


@dataclass(slots=True)
class Arrival:
    """The first and the latest input of one step of one request, in seconds, and the bytes that came from others."""

    first: float
    last: float
    bytes_received: int = 0


class Arrivals:
    """The arrivals of the steps that have not run yet."""

    def __init__(self) -> None:
        self._steps: OrderedDict[tuple[str, int], Arrival] = OrderedDict()

    def __len__(self) -> int:
        return len(self._steps)

    def note(self, request: str, step: int, now: float, size: int = 0) -> None:
        """An input of the step is here; `size` are its bytes where they came from another participant."""
        arrival = self._steps.setdefault((request, step), Arrival(now, now))
        arrival.last = now
        arrival.bytes_received += size
        if len(self._steps) > MAX_STEPS:
            self._steps.popitem(last=False)

    def take(self, request: str, step: int) -> Arrival | None:
        """The step's arrival, which is forgotten; None where it is not known."""
        return self._steps.pop((request, step), None)
