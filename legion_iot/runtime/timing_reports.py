"""Reports of what steps took, held back for a moment: a request's steps at one agent share a message.

Theory. A report is a message, and a message costs a small device about as much processor time as a small step. The
orchestrator learns from reports whom a request waits for, so none is kept back for longer than it allows: not while a
step is computed that takes too long, or that has never been computed; and none once the request is done here.
"""

from __future__ import annotations

import math
from typing import Literal

from legion_iot.wire.messages import TileTiming, Timings

MOST_STEPS = 4096  # whose seconds are remembered


class HeldTimings:
    """Each call returns what is to be reported now, the oldest first; times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._held: list[TileTiming] = []
        self._due = math.inf
        self._seconds: dict[tuple[int, int], float] = {}  # of a step of an epoch, when it was computed last

    def add(self, timing: TileTiming, within: float, is_last: bool, now: float) -> tuple[TileTiming, ...]:
        """A step is done, of which the orchestrator is to hear `within` seconds; the last of its request, perhaps."""
        if len(self._seconds) >= MOST_STEPS:
            self._seconds.clear()
        self._seconds[timing.epoch, timing.step] = timing.seconds
        self._held.append(timing)
        self._due = min(self._due, now + within)
        return self.take() if is_last or now >= self._due else ()

    def before(self, epoch: int, step: int, now: float) -> tuple[TileTiming, ...]:
        """A step is about to be computed."""
        late = now + self._seconds.get((epoch, step), math.inf) > self._due
        return self.take() if late else ()

    def take(self) -> tuple[TileTiming, ...]:
        """All that is held."""
        held, self._held, self._due = tuple(self._held), [], math.inf
        return held


def report_of(timings: tuple[TileTiming, ...]) -> tuple[Literal["timing", "timings"], TileTiming | Timings] | None:
    """The one message that reports them, after its kind; None where there is nothing to report."""
    if not timings:
        return None
    return ("timing", timings[0]) if len(timings) == 1 else ("timings", Timings(timings))
