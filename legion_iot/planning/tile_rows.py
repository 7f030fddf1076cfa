"""How many rows each unit computes in a tile, halo included, for thousands of tiles.

The regions are those of `model.cut.tile_regions`, which walks a block back for one tile. Three facts save most walks:

- What a tile needs of a unit does not depend on where its block begins: one walk back over the trunk serves all.
- For most ops, the first row that is needed depends on the first row that is asked for alone, and the last on the
  last (a window, an enlargement, anything pointwise). Then a table of first rows and one of last rows, each with an
  entry for each row of the block's reference map, hold every strip.
- Devices of one group ask for the same strips again and again.

Pooling that is clipped by the image, and mirrored padding, are walked tile by tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from legion_iot.model.blocks import Network, region_flops
from legion_iot.model.cut import tile_inputs, tile_regions
from legion_iot.model.geometry import (
    CHANNELS,
    HEIGHT,
    WIDTH,
    AxisRule,
    Enlargement,
    Interval,
    Padding,
    Pointwise,
    Region,
    Resampling,
    TransposedWindow,
    Window,
)
from legion_iot.planning.plan import Block, tile_outputs

Rows = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

MOST_WALKS = 100_000  # tiles that are remembered


@dataclass(frozen=True, slots=True, eq=False)
class StripTable:
    """Rows of units 0 to `last` for every full-width strip of the reference map of unit `last`.

    For the strip [a, b), b > a, unit k computes `stops[k, b] − starts[k, a]` rows and reads
    `input_stops[k, b] − input_starts[k, a]` bytes. This holds for units from `valid_from` on, and for strips of at
    least `least_rows` rows.
    """

    starts: Rows
    stops: Rows
    input_starts: Rows
    input_stops: Rows
    valid_from: int
    least_rows: int


class TileRows:
    """Rows by tile, of one network; a unit's rows are those of its reference map, counted by arithmetic.

    A unit of one op computes as many rows as its output has in the tile. Where ops inside a unit differ in height, or
    have halos of their own, rows are the unit's arithmetic in the tile over its arithmetic for one row of the whole.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        graph = network.graph
        self.heights = tuple(graph.tensors[unit.reference].shape[HEIGHT] for unit in network.units)
        self.weights = {op: self._weight(unit.index, op) for unit in network.units for op in unit.ops}
        self._lookups: dict[int, tuple[Indices, Indices]] = {}
        self._tables: dict[int, StripTable] = {}
        self._walks: dict[tuple[int, Region], tuple[Rows, Rows]] = {}

    def _weight(self, unit: int, op: int) -> float:
        """What one row of the op's output adds to the rows of its unit."""
        graph, units = self.network.graph, self.network.units
        output = graph.tensors[graph.ops[op].outputs[0]]
        flops = region_flops(graph, graph.ops[op], Region.whole(output))
        return flops * self.heights[unit] / (max(1, units[unit].flops) * output.shape[HEIGHT])

    def whole(self, last: int) -> Region:
        """All of the reference map of unit `last`."""
        return Region.whole(self.network.graph.tensors[self.network.units[last].reference])

    def of_tile(self, first: int, last: int, region: Region) -> Rows:
        """Rows of units `first` to `last` in the tile `region` of their block."""
        table, rows = self.table(last), region.rows
        if self.in_table(table, first, last, region):
            return table.stops[first:, rows.stop] - table.starts[first:, rows.start]
        return self._walked(last, region)[0][first:]

    def input_bytes(self, first: int, last: int, region: Region) -> Rows:
        """Bytes of earlier feature maps that each of units `first` to `last` reads in the tile `region` of a block."""
        table, rows = self.table(last), region.rows
        if self.in_table(table, first, last, region):
            return table.input_stops[first:, rows.stop] - table.input_starts[first:, rows.start]
        return self._walked(last, region)[1][first:]

    def in_table(self, table: StripTable, first: int, last: int, region: Region) -> bool:
        """Whether a tile is a strip that the table of unit `last` holds."""
        full = region.columns == self.whole(last).columns
        return full and first >= table.valid_from and len(region.rows) >= table.least_rows

    def _walked(self, last: int, region: Region) -> tuple[Rows, Rows]:
        """Rows and input bytes of units 0 to `last`, from a walk of their own."""
        if (last, region) not in self._walks:
            if len(self._walks) >= MOST_WALKS:
                self._walks.clear()
            wanted = tile_outputs(self.network, Block(0, last, ()), region)
            regions = tile_regions(self.network, self.network.block_ops(0, last), wanted)
            rows, read = np.zeros(last + 1), np.zeros(last + 1)
            for unit in self.network.units[: last + 1]:
                made = [op for op in unit.ops if self._output(op) in regions]
                rows[unit.index] = sum(self._rows_of(op, regions[self._output(op)]) for op in made)
                inputs = tile_inputs(self.network, made, {self._output(op): regions[self._output(op)] for op in made})
                read[unit.index] = sum(self._bytes_of(tensor, part) for tensor, part in inputs.items())
            self._walks[last, region] = rows, read
        return self._walks[last, region]

    def _output(self, op: int) -> int:
        return self.network.graph.ops[op].outputs[0]

    def _rows_of(self, op: int, region: Region) -> float:
        share = len(region.columns) / self.network.graph.tensors[self._output(op)].shape[WIDTH]
        return self.weights[op] * len(region.rows) * share

    def _bytes_of(self, tensor: int, region: Region) -> int:
        model = self.network.graph.tensors[tensor]
        return region.area * model.shape[CHANNELS] * model.numpy_dtype.itemsize

    def table(self, last: int) -> StripTable:
        """The table of all strips of unit `last`'s reference map."""
        if last not in self._tables:
            self._tables[last] = _TableBuilder(self, last).build()
        return self._tables[last]

    def lookup(self, op: int) -> tuple[Indices, Indices]:
        """For an op: the first input row by the first output row, and the input's end by the output's end."""
        if op not in self._lookups:
            rule = self.network.geometries[op].rows
            height = self.network.graph.tensors[self.network.graph.ops[op].outputs[0]].shape[HEIGHT]
            starts = [rule.need(Interval(row, height)).source.start for row in range(height)]
            stops = [rule.need(Interval(0, row)).source.stop for row in range(1, height + 1)]
            self._lookups[op] = np.array([*starts, 0]), np.array([0, *stops])
        return self._lookups[op]


class _TableBuilder:
    """Walks back once from the reference map of a unit, with all strips at the same time."""

    def __init__(self, tile_rows: TileRows, last: int) -> None:
        self.tile_rows = tile_rows
        self.network = tile_rows.network
        self.last = last
        self.ops = self.network.block_ops(0, last)
        self.height = tile_rows.heights[last]
        # By tensor: the first row by the strip's first row, and the end by the strip's end.
        self.starts: dict[int, Indices] = {}
        self.stops: dict[int, Indices] = {}

    def build(self) -> StripTable:
        network, graph, size = self.network, self.network.graph, self.height + 1
        wanted = tile_outputs(network, Block(0, self.last, ()), self.tile_rows.whole(self.last))
        whole = tile_regions(network, self.ops, wanted)
        least_rows, valid_from = 1, 0
        for tensor in wanted:
            other, row = graph.tensors[tensor].shape[HEIGHT], np.arange(size)
            self._ask(tensor, row * other // self.height, row * other // self.height)
            if other < self.height:  # below this many rows, a tile may own no row of the smaller map
                least_rows = max(least_rows, -(-self.height // other))
        rows = np.zeros((2, self.last + 1, size))
        inputs = np.zeros((2, self.last + 1, size))
        for unit in reversed(network.units[: self.last + 1]):
            for op in reversed(unit.ops):
                if not is_separable(network.geometries[op].rows):
                    valid_from = max(valid_from, unit.index + 1)
                self._step(op, rows[:, unit.index], whole)
            self._read(unit.ops, inputs[:, unit.index], whole)
        return StripTable(rows[0], rows[1], inputs[0], inputs[1], valid_from, least_rows)

    def _ask(self, tensor: int, starts: Indices, stops: Indices) -> None:
        if tensor in self.starts:
            starts, stops = np.minimum(starts, self.starts[tensor]), np.maximum(stops, self.stops[tensor])
        self.starts[tensor], self.stops[tensor] = starts, stops

    def _step(self, op: int, rows: Rows, whole: dict[int, Region]) -> None:
        """Add the op's rows to its unit's, and ask for what it reads."""
        graph, geometry = self.network.graph, self.network.geometries[op]
        outputs = [t for t in graph.ops[op].outputs if t in self.starts]
        if not outputs:
            return
        starts, stops = self.starts[outputs[0]], self.stops[outputs[0]]
        for other in outputs[1:]:
            starts, stops = np.minimum(starts, self.starts[other]), np.maximum(stops, self.stops[other])
        for tensor in graph.ops[op].outputs:
            self.starts[tensor], self.stops[tensor] = starts, stops
        output = graph.ops[op].outputs[0]
        weight = self.tile_rows.weights[op] * len(whole[output].columns) / graph.tensors[output].shape[WIDTH]
        rows[0] += weight * starts
        rows[1] += weight * stops
        source = self.tile_rows.lookup(op)
        for position in geometry.maps:
            self._ask(graph.ops[op].inputs[position], source[0][starts], source[1][stops])

    def _read(self, ops: tuple[int, ...], inputs: Rows, whole: dict[int, Region]) -> None:
        """Note the bytes that a unit needs of the feature maps made before it."""
        graph, network = self.network.graph, self.network
        read: dict[int, tuple[Indices, Indices, Interval]] = {}
        for op in ops:
            output = graph.ops[op].outputs[0]
            if output not in self.starts:
                continue
            source = self.tile_rows.lookup(op)
            starts, stops = source[0][self.starts[output]], source[1][self.stops[output]]
            columns = network.geometries[op].columns.need(whole[output].columns).source
            for position in network.geometries[op].maps:
                tensor = graph.ops[op].inputs[position]
                if tensor in read:
                    starts, stops = np.minimum(starts, read[tensor][0]), np.maximum(stops, read[tensor][1])
                    columns = columns.hull(read[tensor][2])
                read[tensor] = starts, stops, columns
        for tensor in network.reads(ops):
            if tensor in read:
                model = graph.tensors[tensor]
                row_bytes = len(read[tensor][2]) * model.shape[-1] * model.numpy_dtype.itemsize
                inputs[0] += row_bytes * read[tensor][0]
                inputs[1] += row_bytes * read[tensor][1]


def is_separable(rule: AxisRule) -> bool:
    """Whether the first row that is needed depends on the first that is asked for alone, and the last on the last."""
    if isinstance(rule, Padding):
        return rule.mirror is None
    return isinstance(rule, (Pointwise, Window, Enlargement, Resampling, TransposedWindow))
