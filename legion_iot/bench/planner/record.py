"""Recording a trace: every block of every network is really cut, loaded and run, at the strip heights that occur.

Heights are those of speed-balanced strips in the groups of `GROUPS`. Tiles of one block whose operations differ by less
than `MERGED` share one measurement. All tiles of a block take turns on one thread, so that the machine's drift hits
them alike, and time is the processor's, so that others' work on the same core does not count. A tile that an earlier
network had with the same shapes (VGG-19 repeats VGG-16) is not run again: weights do not matter to time.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import partial
from pathlib import Path

from legion_iot.bench.planner.measure import Bench, Job, Signature, most_runs, outputs, signature
from legion_iot.bench.planner.revisit import visit_again
from legion_iot.bench.planner.trace import KINDS, KindRecord, Sample, Trace, load, save
from legion_iot.model.blocks import Network, divide
from legion_iot.model.cut import cut_tail, cut_tile, tile_flops
from legion_iot.model.geometry import HEIGHT, Interval
from legion_iot.model.graph import Graph
from legion_iot.model.synthetic import NETWORKS
from legion_iot.planning.strips import strips
from legion_iot_agent.interpreter import runtime_info

RECORDED = ("vgg16", "mobilenet-v2", "resnet34", "vgg19", "yolov2")
# Devices of kinds F and O. One O alone has nothing to choose; its times follow from its units and the whole network.
GROUPS = ((1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (0, 3), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3))
MERGED = 1.05
MOST_WHOLE_RUNS = 12

Progress = Callable[[str, float | None], None]


def record(path: Path, progress: Progress, networks: Mapping[str, Callable[[], Graph]] | None = None) -> Trace:
    """Record what `path` does not have yet, and save it after each network; `RECORDED` unless others are given.

    Of the networks it has, what strays is run again.

    Raises InputError where the file cannot be read or written, ModelError where a tile cannot be run.
    """
    trace = load(path) if path.exists() else Trace(_origin())
    known: dict[Signature, tuple[int, ...]] = {}
    for name, build in (networks or {name: partial(NETWORKS[name], 0) for name in RECORDED}).items():
        network = divide(build())
        if name in trace.networks:
            visit_again(name, network, trace.networks[name], known, progress)
        else:
            trace.networks[name] = _Recorder(name, network, known, progress).run()
        save(trace, path)
    return trace


def _origin() -> dict[str, object]:
    runtime = runtime_info()
    return {
        "date": date.today().isoformat(),
        "cpu": _processor(),
        "runtime": f"{runtime.name} {runtime.version}",
        "threads": 1,
        "clock": "processor time",
        "kinds": {kind.name: kind.board for kind in KINDS},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class _Recorder:
    """Measures one network on all kinds."""

    def __init__(
        self, name: str, network: Network, known: dict[Signature, tuple[int, ...]], progress: Progress
    ) -> None:
        self._name = name
        self._network = network
        self._known = known
        self._progress = progress
        self._records = {kind.name: KindRecord() for kind in KINDS}
        self._bench = Bench.of(network)

    def run(self) -> dict[str, KindRecord]:
        units = len(self._network.units)
        self._measure_ends()
        done, total = 0.0, sum(n * n for n in range(1, units + 1))
        for last in range(units):
            heights = self._heights(last)
            for first in range(last + 1):
                self._progress(f"{self._name}: units {first} to {last}", done / total)
                self._measure_block(first, last, heights)
                done += 2 * (last - first) + 1
        return self._records

    def _measure_ends(self) -> None:
        """The whole network, and what follows its trunk."""
        nothing, graph = Interval(0, 0), self._network.graph
        whole = [Job(kind, nothing, graph, MOST_WHOLE_RUNS) for kind in KINDS]
        tail = [
            Job(kind, nothing, cut_tail(self._network).graph, MOST_WHOLE_RUNS) for kind in KINDS if self._network.tail
        ]
        self._bench.run([*whole, *tail])
        for job in whole:
            self._records[job.kind.name].whole = tuple(job.runs)
        for job in tail:
            self._records[job.kind.name].tail = tuple(job.runs)

    def _heights(self, last: int) -> dict[str, set[Interval]]:
        """Strips of the reference map of unit `last` that occur in the groups, by kind."""
        height = _height(self._network, last)
        found: dict[str, set[Interval]] = {kind.name: set() for kind in KINDS}
        for counts in GROUPS:
            members = [kind for kind, count in zip(KINDS, counts, strict=True) for _ in range(count)]
            speeds = {str(n): kind.cpu_share / min(self._records[kind.name].whole) for n, kind in enumerate(members)}
            for number, rows in strips(height, speeds).items():
                if len(rows):
                    found[members[int(number)].name].add(rows)
        return found

    def _measure_block(self, first: int, last: int, heights: Mapping[str, set[Interval]]) -> None:
        jobs: list[tuple[Signature, Job]] = []
        records = {kind.name: self._records[kind.name].blocks.setdefault((first, last), []) for kind in KINDS}
        for kind in KINDS:
            for rows, flops in self._distinct(first, last, heights[kind.name]):
                ops = self._network.block_ops(first, last)
                sub = cut_tile(self._network, ops, outputs(self._network, first, last, rows)).graph
                key = signature(kind, sub)
                if key in self._known:
                    records[kind.name].append(Sample(rows.start, rows.stop, self._known[key]))
                    continue
                seconds = flops / self._network.flops * min(self._records[kind.name].whole) / 1e6
                jobs.append((key, Job(kind, rows, sub, most_runs(seconds))))
        self._bench.run([job for _, job in jobs])
        for key, job in jobs:
            self._known[key] = tuple(job.runs)
            records[job.kind.name].append(Sample(job.rows.start, job.rows.stop, tuple(job.runs)))

    def _distinct(self, first: int, last: int, heights: set[Interval]) -> Iterator[tuple[Interval, int]]:
        """Strips that differ enough in their operations, with these; of single units, all that differ at all.

        The whole height is always among those of a single unit, and of the whole trunk.
        """
        single, trunk = first == last, last - first + 1 == len(self._network.units)
        wanted = heights | {Interval(0, _height(self._network, last))} if single or trunk else heights
        ops, latest = self._network.block_ops(first, last), 0.0
        for flops, rows in sorted(
            (tile_flops(self._network, ops, outputs(self._network, first, last, rows)), rows) for rows in wanted
        ):
            if flops > latest * (1.0 if single else MERGED):
                latest = flops
                yield rows, flops


def _height(network: Network, last: int) -> int:
    return network.graph.tensors[network.units[last].reference].shape[HEIGHT]
