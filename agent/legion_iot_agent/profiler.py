"""Finds out how long parts of a model take on this device, a slice at a time.

A slice is loading a part, or running it once. Between two slices the agent looks at what has arrived: a profile is
never in the way of a request for longer than one slice.

Where a quota of the kernel gives the processor in periods, a short run takes either no notice of the quota or all of a
pause. There, a run counts with its processor time over the quota, which is what it takes among others like it.
"""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from legion_iot.errors import LegionError, ModelError
from legion_iot.model import tflite
from legion_iot.model.blocks import Network, divide
from legion_iot.model.cut import SubModel, cut_tail, cut_tile
from legion_iot.model.geometry import Region
from legion_iot.planning.costs import Predictor
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Block, tile_outputs
from legion_iot.planning.problem import Device, Group, Reading, TailRun, TileRun, Wish
from legion_iot.planning.samples import Sample, Samples
from legion_iot.wire.messages import Command, Measured, PartTime, ProfilePart
from legion_iot.wire.tensors import region_of
from legion_iot_agent.engine import Array, Run
from legion_iot_agent.executor import seeded_inputs
from legion_iot_agent.limits import processor_quota

LEAST_RUNS, MOST_RUNS = 3, 25
STABLE = 0.015  # the median's standard error over the median at which a part is known well enough
LONG_RUNS = 2.0  # seconds of running after which a part is known well enough, too
MOST_COMMANDS = 8  # that wait; the oldest gives way
_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
_MEDIAN = 1.2533  # standard error of a median over that of a mean

Load = Callable[[Path, Sequence[Array]], Run]


@dataclass(frozen=True, slots=True)
class Profiled:
    """The answer to a command, and the same in the form that outlives the model."""

    measured: Measured
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Clocks:
    """What a run is timed by, in seconds; `quota` finds the cores that the kernel holds this process to, or None."""

    wall: Callable[[], float] = time.perf_counter
    processor: Callable[[], float] = time.thread_time  # of the thread that runs, or where several compute, of all
    quota: Callable[[], float | None] = processor_quota


class Profiler:
    """Carries out `profile` commands one after the other, files below `directory`.

    `quota` are the cores that the kernel is known to hold this process to; None looks for itself.
    """

    def __init__(
        self, directory: Path, load: Load, threads: int = 1, quota: float | None = None, clocks: Clocks | None = None
    ) -> None:
        self._directory = directory
        self._load = load
        self._threads, self._quota = threads, quota
        self._clocks = clocks or Clocks(processor=time.thread_time if threads == 1 else time.process_time)
        self._waiting: deque[tuple[Path, Command, str]] = deque(maxlen=MOST_COMMANDS)
        self._slices: Iterator[Profiled | None] | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return self._slices is not None or bool(self._waiting)

    def start(self, model: Path, command: Command, board: str) -> None:
        """Measure the command's parts of a model in the turns to come, on what is a board of this class."""
        self._waiting.append((model, command, board))

    def stop(self) -> None:
        """Forget all commands, and free what they hold."""
        self._waiting.clear()
        self._end()

    def turn(self) -> Profiled | None:
        """Do one slice; the answer to a command when it was the last one."""
        if self._slices is None:
            if not self._waiting:
                return None
            self._slices = self._measure(*self._waiting.popleft())
        profiled = next(self._slices)
        if profiled is not None:
            self._end()
        return profiled

    def _end(self) -> None:
        self._slices = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _measure(self, model: Path, command: Command, board: str) -> Iterator[Profiled | None]:
        """Yields None after each slice, and the answer in the end."""
        times: list[PartTime] = []
        samples: list[Sample] = []
        spent, reason = 0.0, ""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            network = divide(tflite.open_file(model))
            board_samples = _SampleMaker(network, board)
            for part in command.parts:
                if times and spent >= command.seconds:
                    break
                seconds: list[float] = []
                for taken in self._runs(network, part, seconds):
                    spent += taken
                    yield None
                times.append(summary(seconds))
                samples.append(board_samples.sample(part, times[-1]))
        except (LegionError, OSError) as error:  # a full disk has no room for the part
            reason = str(error)
        yield Profiled(Measured(command.number, tuple(times), reason=reason), tuple(samples))

    def _runs(self, network: Network, part: ProfilePart, seconds: list[float]) -> Iterator[float]:
        """Load and run a part until its time is known; yields what each slice takes, and appends what each run took."""
        start = self._clocks.wall()
        sub = _cut(network, part)
        path = self._directory / "part.tflite"
        tflite.write_file(sub.graph, path)
        yield self._clocks.wall() - start
        start = self._clocks.wall()
        inputs = seeded_inputs(sub.graph)
        run = self._load(path, inputs)
        path.unlink()
        yield self._clocks.wall() - start
        while not is_known(seconds):
            start = self._clocks.wall()
            seconds.append(self._timed(run, inputs))
            yield self._clocks.wall() - start

    def _timed(self, run: Run, inputs: Sequence[Array]) -> float:
        quota = self._quota or self._clocks.quota()
        start, worked = self._clocks.wall(), self._clocks.processor()
        run(inputs)
        if quota is not None and quota < self._threads:
            return (self._clocks.processor() - worked) / quota
        return self._clocks.wall() - start


def is_known(seconds: Sequence[float]) -> bool:
    """Whether these runs tell the median well enough, or further ones would take too long."""
    if not seconds:
        return False
    if sum(seconds) >= LONG_RUNS or len(seconds) >= MOST_RUNS:
        return True
    time_ = summary(seconds)
    error = _MEDIAN * time_.deviation / math.sqrt(time_.runs)
    return time_.runs >= LEAST_RUNS and error <= STABLE * time_.seconds


def summary(seconds: Sequence[float]) -> PartTime:
    """The median, and the standard deviation of a single run as far as outliers do not make it."""
    median = statistics.median(seconds)
    return PartTime(median, _MAD * statistics.median(abs(each - median) for each in seconds), len(seconds))


def _cut(network: Network, part: ProfilePart) -> SubModel:
    """Raises ModelError where the model has no such part."""
    if part.units is None:
        if not network.tail:
            raise ModelError("the tail is to be profiled, the model has none")
        return cut_tail(network)
    first, last = part.units
    if not 0 <= first <= last < len(network.units):
        raise ModelError(f"units {first}–{last} are to be profiled, the model has {len(network.units)}")
    region = region_of(part.region)
    whole = Region.whole(network.graph.tensors[network.units[last].reference])
    if not region.area or region not in whole:
        raise ModelError(f"region {part.region} is to be profiled, which is empty or not in the map of unit {last}")
    owned = tile_outputs(network, Block(first, last, ()), region)
    wanted = {tensor: each for tensor, each in owned.items() if each.area}
    return cut_tile(network, network.block_ops(first, last), wanted)


class _SampleMaker:
    """From parts of one network to samples of this board."""

    def __init__(self, network: Network, board: str) -> None:
        link = Link(0.0, 1.0, 1.0)
        self._predictor = Predictor(network, Group((Device("self", board, link),), link), Samples())

    def sample(self, part: ProfilePart, time_: PartTime) -> Sample:
        wish: Wish = TailRun("self") if part.units is None else TileRun("self", *part.units, region_of(part.region))
        sample = self._predictor.sample(wish, Reading(time_.seconds, time_.deviation))
        assert sample is not None, "a tile or a tail has a sample"
        return replace(sample, runs=time_.runs)
