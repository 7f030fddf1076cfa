"""A device that is slower than the machine it runs on: computing is stretched by sleeping.

A share of 0.2 makes every piece of computing last five times the processor time it took. Time that the processor gave
to others counts as sleep already, so a busy machine slows the device no further as long as its share can be had.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

from legion_iot.errors import UsageError

MOST_CREDIT = 0.005  # seconds of lateness, such as oversleeping, that later pauses make good


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
        self._share = check_share(share)
        self._clock = clock
        self._processor = processor or (time.thread_time if threads == 1 else time.process_time)
        self._sleep = sleep
        self._credit = 0.0

    @contextlib.contextmanager
    def stretch(self) -> Iterator[None]:
        """What runs inside `with` takes as long as it would on the slower device."""
        start, used = self._clock(), self._processor()
        yield
        end = start + (self._processor() - used) / self._share - self._credit
        pause = end - self._clock()
        if pause > 0:
            self._sleep(pause)
        self._credit = min(max(0.0, self._clock() - end), MOST_CREDIT)
