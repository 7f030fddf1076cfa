"""A device that is slower than the machine it runs on: computing is stretched by sleeping.

A share of 0.2 makes every piece of work last five times the processor time it takes when it runs without a pause. That
time is learned before the first stretched run, and it is the least one ever seen: caches are cold after a sleep, and
others may use the other half of the core, and neither is a property of the emulated device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from legion_iot.errors import UsageError

MOST_CREDIT = 0.005  # seconds of lateness, such as oversleeping, that later pauses make good
LEARNING_RUNS = 5

_Result = TypeVar("_Result")


def check_share(share: float) -> float:
    """The share itself; raises UsageError unless it is a positive number, in cores."""
    if not (math.isfinite(share) and share > 0):
        raise UsageError(f"--cpu-share is {share:g}; give the cores to compute with, such as 0.2")
    return share


class Throttle:
    """Holds computing to `share` cores; the clocks give seconds.

    `processor` counts the computing thread alone, or, where several threads compute, the whole process.
    """

    def __init__(
        self,
        share: float,
        threads: int = 1,
        *,
        clock: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.share = check_share(share)
        self.clock = clock
        self.processor = processor or (time.thread_time if threads == 1 else time.process_time)
        self.sleep = sleep
        self.credit = 0.0

    def learn(self, run: Callable[[], object]) -> Work:
        """A piece of work that will be run again and again; `run` does it, some times, to learn what it takes."""
        work = Work(self)
        for _ in range(LEARNING_RUNS):
            work.observe(run)
        return work


class Work:
    """One piece of work on a throttled device."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
        self._least = math.inf

    def observe(self, run: Callable[[], _Result]) -> _Result:
        """Run at the machine's speed, and remember the time."""
        start = self._throttle.processor()
        result = run()
        self._least = min(self._least, self._throttle.processor() - start)
        return result

    def stretch(self, run: Callable[[], _Result]) -> _Result:
        """Run, and return when the slower device would."""
        throttle = self._throttle
        start = throttle.clock()
        result = self.observe(run)
        end = start + self._least / throttle.share - throttle.credit
        pause = end - throttle.clock()
        if pause > 0:
            throttle.sleep(pause)
        throttle.credit = min(max(0.0, throttle.clock() - end), MOST_CREDIT)
        return result
