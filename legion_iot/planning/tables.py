"""What strips need and cost: many strips of many blocks at once, for a search that looks at all of them.

Every op's rows depend on rows only, so the first row it needs follows from the first asked for, and the last from the
last. With both in tables (`TileRows.lookup`), a walk back from the last unit of a block yields, for any number of
strips at once, the rows of earlier maps they need, for every first unit a block may have.

Where an op's need depends on both ends together (clipped pooling, mirrored padding), the tables ask for a row or two
less than is needed in the end; `estimate` then sees the exact regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from legion_iot.model.geometry import HEIGHT, Interval, Region
from legion_iot.planning.costs import Predictor
from legion_iot.planning.problem import Costs, Problem
from legion_iot.planning.strips import Floats, Integers, map_height, whole_map
from legion_iot.planning.tile_rows import TileRows
from legion_iot.planning.traffic import least_element_bytes

_NOWHERE = 1 << 30  # an empty strip starts here and ends at the negative: hulls leave it out by themselves
_SAMPLES = 9  # heights at which a unit's cost is asked for; between them it is taken to be straight


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Half-open strips of one feature map, any array of them; where `stop` is not above `start` there are no rows."""

    start: Integers
    stop: Integers

    @property
    def count(self) -> Integers:
        """How many rows each has."""
        rows: Integers = np.maximum(0, self.stop - self.start)
        return rows

    def hull(self, other: Rows) -> Rows:
        """The smallest strips that hold both."""
        return Rows(np.minimum(self.start, other.start), np.maximum(self.stop, other.stop))

    def scaled(self, size: int, other: int) -> Rows:
        """The same fractions of a map of `other` rows, as `tile_outputs` divides it."""
        return Rows(self.start * other // size, self.stop * other // size).cleared()

    def cleared(self) -> Rows:
        """The same strips, empty ones in the form in which hulls leave them out."""
        empty = self.stop <= self.start
        return Rows(np.where(empty, _NOWHERE, self.start), np.where(empty, -_NOWHERE, self.stop))


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Strips of a block that begins with unit `first`: seconds of computing, and rows of earlier maps they need."""

    first: int
    seconds: Floats
    needs: Mapping[int, Rows]


class StripTables:
    """Rows and seconds of the strips of one problem; strips belong to the group's devices along the last axis.

    A `Predictor` knows what fused blocks take; of any other costs, a block is taken to cost the sum of its units.
    """

    def __init__(self, problem: Problem, costs: Costs) -> None:
        self.network, self.group, self._wire = problem.network, problem.group, problem.wire
        self._predictor = costs if isinstance(costs, Predictor) else None
        self._tile_rows = self._predictor.tile_rows if self._predictor else TileRows(self.network)
        boards = list(dict.fromkeys(device.board for device in self.group.devices))
        self._board = np.array([boards.index(device.board) for device in self.group.devices])
        # One device of each board speaks for all.
        self._speakers = [next(d.name for d in self.group.devices if d.board == board) for board in boards]
        self._costs = costs
        self._units: dict[int, Floats] = {}

    def unit_seconds(self, unit: int, rows: Integers) -> Floats:
        """Seconds of one unit alone for so many rows on each device."""
        if unit not in self._units:
            self._units[unit] = self._unit_table(self._costs, unit)
        table: Floats = self._units[unit][self._board, rows]
        return table

    def trunk_seconds(self) -> Floats:
        """Seconds of each device for the whole trunk, unit by unit."""
        everyone = np.zeros(len(self.group.devices))
        whole = [np.full(len(everyone), map_height(self.network, unit.index)) for unit in self.network.units]
        return sum((self.unit_seconds(k, rows) for k, rows in enumerate(whole)), everyone)

    def row_bytes(self, tensor: int) -> int:
        """Bytes of one row of a feature map, as it travels between agents; the network's inputs travel as they are."""
        model = self.network.graph.tensors[tensor]
        if tensor in self.network.graph.inputs:
            return model.nbytes // model.shape[HEIGHT]
        elements = model.nbytes // model.numpy_dtype.itemsize
        return elements // model.shape[HEIGHT] * least_element_bytes(model, self._wire)

    def height(self, tensor: int) -> int:
        """Rows of a feature map."""
        return self.network.graph.tensors[tensor].shape[HEIGHT]

    def spans(self, last: int, strips: Rows) -> Iterator[Span]:
        """For each first unit from `last` down to 0: the block up to `last`, in these strips of its reference map."""
        network, graph = self.network, self.network.graph
        size = map_height(network, last)
        made = {t: strips.scaled(size, self.height(t)) for t in network.units[last].live}
        needs: dict[int, Rows] = {}
        seconds = np.zeros(np.broadcast_shapes(strips.start.shape, self._board.shape))
        whole_blocks = self._block_seconds(last, strips)
        for unit in reversed(network.units[: last + 1]):
            computed = np.zeros(seconds.shape, dtype=np.int64)
            height = self.height(unit.reference)
            for index in reversed(unit.ops):
                op = graph.ops[index]
                asked = [rows for t in op.outputs for rows in (needs.pop(t, None), made.pop(t, None)) if rows]
                if not asked:
                    continue
                produced = asked[0]
                for rows in asked[1:]:
                    produced = produced.hull(rows)
                if self.height(op.outputs[0]) == height:
                    computed = np.maximum(computed, produced.count)
                source = self._source(index, produced)
                for position in network.geometries[index].maps:
                    tensor = op.inputs[position]
                    needs[tensor] = needs[tensor].hull(source) if tensor in needs else source
            if whole_blocks is None:
                seconds = seconds + self.unit_seconds(unit.index, np.minimum(computed, height))
            else:
                seconds = whole_blocks[unit.index]
            yield Span(unit.index, seconds, dict(needs))

    def _block_seconds(self, last: int, strips: Rows) -> Floats | None:
        """By first unit, from a predictor; None without one."""
        if self._predictor is None:
            return None
        working = strips.count > 0
        start, stop = np.where(working, strips.start, 0), np.where(working, strips.stop, 0)
        seconds = np.zeros((last + 1, *strips.start.shape))
        for number, speaker in enumerate(self._speakers):
            mine = self._board == number
            seconds[..., mine] = self._predictor.strip_seconds(speaker, last, start[..., mine], stop[..., mine])
        return seconds

    def _source(self, op: int, asked: Rows) -> Rows:
        """The rows an op reads for the rows that are asked of it."""
        first, end = self._tile_rows.lookup(op)
        empty = asked.stop <= asked.start
        start = first[np.clip(asked.start, 0, len(first) - 1)]
        stop = end[np.clip(asked.stop, 0, len(end) - 1)]
        return Rows(np.where(empty, _NOWHERE, start), np.where(empty, -_NOWHERE, stop)).cleared()

    def _unit_table(self, costs: Costs, unit: int) -> Floats:
        """Seconds by board and rows, 0 for none, not falling with the rows."""
        whole = whole_map(self.network, unit)
        height = len(whole.rows)
        asked = np.unique(np.linspace(1, height, min(height, _SAMPLES)).round().astype(int))
        table = np.zeros((len(self._speakers), height + 1))
        for number, speaker in enumerate(self._speakers):
            seconds = [costs.tile_seconds(speaker, unit, unit, inner_strip(whole, int(rows))) for rows in asked]
            table[number, 1:] = np.interp(np.arange(1, height + 1), asked, np.maximum.accumulate(seconds))
        return table


def inner_strip(whole: Region, rows: int) -> Region:
    """A strip of so many rows away from both borders, where there is room."""
    top = (len(whole.rows) - rows) // 2
    return Region(Interval(top, top + rows), whole.columns)
