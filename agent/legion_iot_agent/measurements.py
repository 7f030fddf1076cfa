"""What this device has found out about itself: kept on disk, published, and added to on command.

The samples and the link outlive the agent, the broker and the orchestrator. A link holds for the broker it was measured
with; samples hold for the class of board that the device says it is.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.links import Link
from legion_iot.planning.traffic import LEAST_PIECE
from legion_iot.profiles import ProfileFile
from legion_iot.transport.fragments import Outgoing
from legion_iot.transport.link import LinkProber
from legion_iot.wire.messages import Command, Fragment, Measured
from legion_iot.wire.tensors import bounds
from legion_iot_agent.limits import processor_quota
from legion_iot_agent.profiler import Profiler

MOST_PROBES = 3  # tries, each ended by something else on its way
MOST_COMMANDS = 4  # to probe that wait; the oldest gives way
TILE_BYTES = 8 << 20  # more than the caches next to a core hold


def handling_clock(threads: int, quota: float | None) -> Callable[[], float]:
    """Seconds for which handling messages would have kept this process from computing with so many threads.

    `quota` are the cores that the kernel is known to hold this process to; None looks. Where that is less than a core,
    handling takes as much longer. Where a core is left to the threads that receive, beside those that compute, only
    what the calling thread does counts: it is the one that computes.
    """
    held = quota or processor_quota()
    cores = len(os.sched_getaffinity(0)) if held is None else held
    share = min(1.0, cores)
    clock = time.thread_time if cores >= threads + 1 else time.process_time
    return lambda: clock() / share


def displace_caches() -> None:
    """Leave caches as computing a tile does: messages that come after one cost several times what they do in a row."""
    np.ones(TILE_BYTES, np.uint8).sum()


def probe_region(name: str, number: int, size: int) -> Outgoing:
    """A region of so many bytes from a participant to itself, in fragments as any other."""
    rows = max(1, size // LEAST_PIECE)
    values = np.zeros((rows, 1, size // rows // 4), np.float32)
    region = Region(Interval(0, rows), Interval(0, 1))
    header = Fragment("", 0, 0, number, 0, bounds(region), values.shape[2], "float32")
    return Outgoing(name, header, values, region)


class Measurements:
    """Carries out commands to profile and to probe, a little in each turn; `answer` is told what came out.

    `prober` makes what finds out about the link, for one try.
    """

    def __init__(
        self,
        file: ProfileFile,
        profiler: Profiler,
        prober: Callable[[], LinkProber],
        answer: Callable[[Measured], None],
    ) -> None:
        self.file = file
        self._profiler = profiler
        self._new_prober = prober
        self._answer = answer
        self._prober: LinkProber | None = None
        self._probes: deque[Command] = deque(maxlen=MOST_COMMANDS)
        self._tries = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._probes) or self._profiler.busy

    @property
    def waits(self) -> bool:
        """Whether the next thing to do is to wait for what is under way."""
        return self._prober is not None and self._prober.waits

    def profile(self, model: Path, command: Command, board: str) -> None:
        """Measure the command's parts of a model in the turns to come."""
        self._profiler.start(model, command, board)

    def probe(self, command: Command) -> None:
        """Measure the link in the turns to come."""
        self._probes.append(command)

    def stop(self) -> None:
        """Forget all commands."""
        self._probes.clear()
        self._prober = None
        self._profiler.stop()

    def forget(self) -> None:
        """Forget what has come out so far, too."""
        self.stop()
        self._tries = 0
        self.file.forget()

    def echoed(self, number: int, size: int = 0) -> None:
        """What the prober sent to ourselves is back, of a region so many bytes."""
        if self._prober is not None:
            self._prober.returned(number, size)

    def disturb(self) -> None:
        """Something else is under way on the link: what is being measured of it does not count."""
        self._prober = None

    def turn(self) -> None:
        """Do a little of what there is to do."""
        if self._probes:
            self._probe()
        elif (profiled := self._profiler.turn()) is not None:
            self.file.add(profiled.samples)
            self._answer(profiled.measured)

    def _probe(self) -> None:
        if self._prober is None:
            if self._tries == MOST_PROBES:
                self._end_probe(None, "its link is never idle for long enough")
                return
            self._tries += 1
            self._prober = self._new_prober()
        if self._prober.sends_region:
            displace_caches()
        self._prober.turn()
        if self._prober.ended:
            self._end_probe(self._prober.result, "what it sends to itself over the broker does not come back")

    def _end_probe(self, link: Link | None, failure: str) -> None:
        command = self._probes.popleft()
        self._prober, self._tries = None, 0
        if link is not None:
            self.file.add((), link)
        self._answer(Measured(command.number, link=link, reason="" if link is not None else failure))
