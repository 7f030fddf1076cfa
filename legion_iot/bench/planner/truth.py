"""What any tile of a recorded network takes: as recorded, or between what was recorded.

A tile of which exactly so many operations were recorded, in the same block on the same kind of device, took what was
recorded. Any other is predicted as the sum of its units, each from the unit's own recorded strips, times the ratio by
which the block's recorded tiles of about so many operations differ from such a sum.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from legion_iot.bench.planner.trace import Kind, KindRecord, Sample
from legion_iot.model.blocks import Network
from legion_iot.model.cut import block_flops_from_each_start
from legion_iot.model.geometry import Interval, Region

NEAR = 1.05  # the recorder's own tolerance: tiles so alike share one measurement


class Origin(Enum):
    """Where a time comes from: a tile recorded (or as good as), between recorded tiles, or beyond all of them."""

    RECORDED = "recorded"
    BETWEEN = "between"
    BEYOND = "beyond"


@dataclass(frozen=True, slots=True)
class Curve:
    """A function through points, straight between them; `x` ascends."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Curve:
        """Points of equal x count as their mean."""
        grouped = itertools.groupby(sorted(points), key=lambda point: point[0])
        merged = [(x, statistics.fmean(y for _, y in group)) for x, group in grouped]
        return cls(tuple(x for x, _ in merged), tuple(y for _, y in merged))

    def held(self, x: float) -> float:
        """The value at x; beyond the ends that of the end."""
        position = bisect.bisect_left(self.x, x)
        if position == 0:
            return self.y[0]
        if position == len(self.x):
            return self.y[-1]
        return self._between(position, x)

    def extended(self, x: float) -> float:
        """The value at x; beyond the ends on the line through the first and the last point, never below 0."""
        if self.x[0] <= x <= self.x[-1]:
            return self.held(x)
        end = 0 if x < self.x[0] else -1
        width = self.x[-1] - self.x[0]
        slope = (self.y[-1] - self.y[0]) / width if width else self.y[0] / self.x[0]
        return max(0.0, self.y[end] + slope * (x - self.x[end]))

    def _between(self, position: int, x: float) -> float:
        left, right = self.x[position - 1], self.x[position]
        share = (x - left) / (right - left)
        return self.y[position - 1] * (1 - share) + self.y[position] * share


def quickest(sample: Sample) -> float:
    """Seconds of the recorded run that others disturbed least."""
    return min(sample.runs) / 1e6


def typical_excess(record: KindRecord) -> float:
    """How much longer than its quickest run a warm run of a tile is, at the median."""
    excess = [run / min(s.runs) for samples in record.blocks.values() for s in samples for run in s.runs[1:]]
    return statistics.median(excess) if excess else 1.0


class Truth:
    """Seconds of tiles and tail of one network on one kind of device."""

    def __init__(self, network: Network, record: KindRecord, kind: Kind) -> None:
        self._network = network
        self._record = record
        self._scale = typical_excess(record) / kind.cpu_share
        self._flops: dict[tuple[int, Region], list[int]] = {}
        self._units = [self._unit_curve(unit) for unit in range(len(network.units))]
        self._blocks: dict[tuple[int, int], Curve] = {}
        self.tail = min(record.tail) / 1e6 * self._scale if record.tail else 0.0

    def tile(self, first: int, last: int, region: Region) -> tuple[float, Origin]:
        """Seconds of the tile `region` of the reference map of a block's last unit."""
        flops = self._flops_of(last, region)[first:]
        total = sum(flops)
        curve = self._block_curve(first, last)
        seconds = curve.held(total) * self._sum_of_units(first, flops) * self._scale
        position = bisect.bisect_left(curve.x, total)
        near = [x for x in curve.x[max(0, position - 1) : position + 1] if max(x, total) <= min(x, total) * NEAR]
        if near:
            return seconds, Origin.RECORDED
        return seconds, Origin.BETWEEN if 0 < position < len(curve.x) else Origin.BEYOND

    def sum_of_units(self, block: tuple[int, int], sample: Sample) -> float:
        """Seconds of a recorded tile by its units alone, at the recording machine's full speed."""
        first, last = block
        return self._sum_of_units(first, self._flops_of(last, self._strip(last, sample))[first:])

    def _flops_of(self, last: int, region: Region) -> list[int]:
        """Operations of each unit 0..last that the tile needs."""
        if (last, region) not in self._flops:
            totals = [*block_flops_from_each_start(self._network, last, region), 0]
            self._flops[last, region] = [a - b for a, b in itertools.pairwise(totals)]
        return self._flops[last, region]

    def _strip(self, last: int, sample: Sample) -> Region:
        whole = Region.whole(self._network.graph.tensors[self._network.units[last].reference])
        return Region(Interval(sample.start, sample.stop), whole.columns)

    def _unit_curve(self, unit: int) -> Curve:
        points = [
            (self._flops_of(unit, self._strip(unit, s))[unit], quickest(s)) for s in self._record.blocks[unit, unit]
        ]
        return Curve.through(points)

    def _sum_of_units(self, first: int, flops: Sequence[int]) -> float:
        return sum(self._units[first + n].extended(f) for n, f in enumerate(flops))

    def _block_curve(self, first: int, last: int) -> Curve:
        """Recorded seconds over the sum of the units, by operations."""
        if (first, last) not in self._blocks:
            points = []
            for sample in self._record.blocks[first, last]:
                flops = self._flops_of(last, self._strip(last, sample))[first:]
                points.append((sum(flops), quickest(sample) / self._sum_of_units(first, flops)))
            self._blocks[first, last] = Curve.through(points)
        return self._blocks[first, last]
