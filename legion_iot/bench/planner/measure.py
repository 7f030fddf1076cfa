"""Running tiles in turns, and noting what they take."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from legion_iot.bench.planner.trace import Kind
from legion_iot.model import tflite
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Interval, Region
from legion_iot.model.graph import Graph
from legion_iot.planning.plan import Block, tile_outputs
from legion_iot_agent.interpreter import Interpreter

# A tile is run until its two quickest runs agree, or so often, by the seconds that one run takes. What else the machine
# does can only slow a run down.
AGREE = 1.03
MOST_RUNS = ((0.03, 8), (0.08, 5))
MOST_LONG_RUNS = 3
LOADED_BYTES = 1 << 30  # of constants in interpreters held at the same time

Signature = tuple[object, ...]


@dataclass(slots=True)
class Job:
    """A sub-model to be run on one kind of device, `most` times, and what its runs took so far, in microseconds."""

    kind: Kind
    rows: Interval
    sub: Graph
    most: int
    runs: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        quickest = sorted(self.runs)[:2]
        return len(self.runs) >= self.most or (len(quickest) == 2 and quickest[1] <= quickest[0] * AGREE)


class Bench:
    """Runs sub-models on this machine, one thread, with inputs of up to `largest` elements."""

    def __init__(self, largest: int) -> None:
        self._values = np.random.default_rng(0).standard_normal(largest).astype(np.float32)

    @classmethod
    def of(cls, network: Network) -> Bench:
        """For whatever is cut out of a network."""
        return cls(max(math.prod(tensor.shape) for tensor in network.graph.tensors))

    def run(self, jobs: Sequence[Job]) -> None:
        """Run all until they are done; those that fit into memory together take turns."""
        for batch in _batches(jobs):
            self._take_turns(batch)

    def _take_turns(self, jobs: Sequence[Job]) -> None:
        """Load all, run them in rounds, and note the processor time of each run."""
        with tempfile.TemporaryDirectory(prefix="legion-record-") as directory:
            loaded = []
            for number, job in enumerate(jobs):
                path = Path(directory) / f"{number}.tflite"
                tflite.write_file(job.sub, path)
                loaded.append((job, Interpreter(path, 1, job.kind.xnnpack), self._inputs(job.sub)))
                path.unlink()  # it stays mapped
            while not all(job.done for job in jobs):
                for job, interpreter, inputs in loaded:
                    if not job.done:
                        start = time.thread_time()
                        interpreter.run(inputs)
                        job.runs.append(max(1, round((time.thread_time() - start) * 1e6)))

    def _inputs(self, graph: Graph) -> list[npt.NDArray[np.float32]]:
        shapes = [graph.tensors[index].shape for index in graph.inputs]
        return [self._values[: math.prod(shape)].reshape(shape) for shape in shapes]


def _batches(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs that together keep within `LOADED_BYTES`."""
    batch: list[Job] = []
    size = 0
    for job in jobs:
        constants = sum(tensor.data.nbytes for tensor in job.sub.tensors if tensor.data is not None)
        if batch and size + constants > LOADED_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += constants
    if batch:
        yield batch


def most_runs(seconds: float) -> int:
    """How often a tile is run at most, by the seconds that one run takes."""
    return next((runs for limit, runs in MOST_RUNS if seconds < limit), MOST_LONG_RUNS)


def outputs(network: Network, first: int, last: int, rows: Interval) -> dict[int, Region]:
    """What the full-width strip `rows` of a block computes of the block's output tensors, where it is anything."""
    columns = Region.whole(network.graph.tensors[network.units[last].reference]).columns
    wanted = tile_outputs(network, Block(first, last, ()), Region(rows, columns))
    return {tensor: region for tensor, region in wanted.items() if region.area}


def signature(kind: Kind, sub: Graph) -> Signature:
    """Equal for sub-models that take equally long on devices of a kind: the same ops on the same shapes."""
    ops = []
    for op in sub.ops:
        shapes = tuple(sub.tensors[t].shape if t >= 0 else None for t in (*op.inputs, *op.outputs))
        ops.append((op.kind, tuple(sorted((key, str(value)) for key, value in op.options.items())), shapes))
    return (kind.name, tuple(ops))
