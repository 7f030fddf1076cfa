"""From samples to seconds: what any tile of any block takes on each device of a group, and how certain that is.

One unit takes alpha + beta · rows (`fits`). A block of fused units takes the sum over its units, each with the rows it
computes in the tile, halo included (`tile_rows`), where the call and the copying of what goes in and out count once
(`boards.BlockLaw`). What measured blocks took beyond or below that is carried over to blocks that have units in common
with them (`fits.Residuals`). The factor of a block does not depend on the tile, so a taller tile never takes less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np

from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.boards import BlockLaw, Board, Speeds, complete_laws, copy_seconds, residuals
from legion_iot.planning.fits import Array, Blocks
from legion_iot.planning.layers import NetworkLayers
from legion_iot.planning.problem import Group, Problem, Reading, TailRun, TileRun, Wish
from legion_iot.planning.samples import LEAST_SECONDS, Sample, Samples
from legion_iot.planning.tile_rows import Indices, TileRows


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of computing, and the standard deviation of what they may really be."""

    seconds: float
    deviation: float


@dataclass(frozen=True, slots=True, eq=False)
class _EndingBlocks:
    """All blocks that end with one unit, on one board; arrays go by first unit.

    The strip [a, b) of the block takes `factors` · (`fixed` + `stops[:, b]` − `starts[:, a]`), with a relative error;
    `slopes` are the seconds for one row of each unit.
    """

    slopes: Array
    fixed: Array
    starts: Array
    stops: Array
    factors: Array
    errors: Array


class Predictor:
    """The `Costs` of a group, from samples; `tile_estimate` and `tail_estimate` add how certain they are.

    Every device gets an answer, measured or not. For boards without samples, `speeds` are stated ones (operations per
    second by board and arithmetic class), and `overheads` the seconds of each call.
    """

    def __init__(
        self,
        network: Network,
        group: Group,
        samples: Samples,
        speeds: Mapping[str, Speeds] = MappingProxyType({}),
        overheads: Mapping[str, float] = MappingProxyType({}),
        tile_rows: TileRows | None = None,
    ) -> None:
        self.network = network
        self.group = group
        self.samples = samples
        self.tile_rows = TileRows(network) if tile_rows is None else tile_rows
        self._speeds, self._overheads = speeds, overheads
        self._layers = NetworkLayers.of(network)
        self._board_of = {device.name: device.board for device in group.devices}
        names = dict.fromkeys([*self._board_of.values(), *samples.boards])
        self._boards = {name: Board(name, samples.of_board(name), self._layers) for name in names}
        self._costs = {name: self._board_costs(name) for name in set(self._board_of.values())}

    @classmethod
    def of(cls, problem: Problem) -> Predictor:
        """From what a problem knows already."""
        return cls(problem.network, problem.group, problem.samples)

    def _board_costs(self, name: str) -> _BoardCosts:
        others = [board for board in self._boards.values() if board.name != name and board.laws]
        stated = self._speeds.get(name, {}), self._overheads.get(name, 0.0)
        laws = complete_laws(self._boards[name], others, self._layers, *stated)
        layers = self._layers.by_signature
        law = BlockLaw.of(laws, layers, copy_seconds(self._boards[name], layers))
        return _BoardCosts(self._boards[name], law, self._layers, self.tile_rows)

    @property
    def doubts(self) -> Mapping[str, str]:
        """What is doubtful about boards that reported nonsense."""
        return {**{b.name: b.doubt for b in self._boards.values() if b.doubt}, **self.samples.doubts}

    # --- what planners ask ---

    def tile_seconds(self, device: str, first: int, last: int, region: Region) -> float:
        """See `Costs`; nothing for an empty region."""
        return self.tile_estimate(device, first, last, region).seconds

    def tail_seconds(self, device: str) -> float:
        """See `Costs`."""
        return self.tail_estimate(device).seconds

    def tile_estimate(self, device: str, first: int, last: int, region: Region) -> Estimate:
        """The tile `region` of the block of units `first` to `last`, redundant halo rows included."""
        if not region.area:
            return Estimate(0.0, 0.0)
        blocks, table = self._costs[self._board_of[device]].blocks(last), self.tile_rows.table(last)
        if self.tile_rows.in_table(table, first, last, region):
            rows = region.rows
            seconds = blocks.fixed[first] + blocks.stops[first, rows.stop] - blocks.starts[first, rows.start]
        else:
            seconds = blocks.fixed[first] + blocks.slopes[first:] @ self.tile_rows.of_tile(first, last, region)
        seconds = float(max(LEAST_SECONDS, seconds * blocks.factors[first]))
        return Estimate(seconds, seconds * float(blocks.errors[first]))

    def tail_estimate(self, device: str) -> Estimate:
        """The tail; nothing where the network has none."""
        law = self._costs[self._board_of[device]].tail
        if law is None:
            return Estimate(0.0, 0.0)
        seconds = max(LEAST_SECONDS, law.seconds(1))
        return Estimate(seconds, seconds * math.hypot(law.error, law.common))

    def strip_seconds(self, device: str, last: int, starts: Indices, stops: Indices) -> Array:
        """Seconds of many full-width strips [start, stop) of blocks that end with unit `last`.

        `starts` and `stops` are of one shape; the result has one axis more, the first: the block's first unit, 0 to
        `last`. An empty strip takes 0.
        """
        blocks, table = self._costs[self._board_of[device]].blocks(last), self.tile_rows.table(last)
        shape = (last + 1, *(1 for _ in range(starts.ndim)))
        computed = blocks.stops[:, stops] - blocks.starts[:, starts] + blocks.fixed.reshape(shape)
        seconds = np.maximum(LEAST_SECONDS, computed * blocks.factors.reshape(shape))
        columns, heights = self.tile_rows.whole(last).columns, stops - starts
        for first in range(last + 1):
            walked = heights < (table.least_rows if first >= table.valid_from else math.inf)
            for place in zip(*np.nonzero(walked & (heights > 0)), strict=True):
                region = Region(Interval(int(starts[place]), int(stops[place])), columns)
                seconds[(first, *place)] = self.tile_seconds(device, first, last, region)
        return cast(Array, np.where(heights > 0, seconds, 0.0))

    def rows_within(self, device: str, first: int, last: int, start: int, budget: float) -> int:
        """How many rows of the reference map, from row `start` on, take no more than `budget` seconds."""
        whole = self.tile_rows.whole(last)
        low, high = 0, len(whole.rows) - start
        while low < high:
            middle = (low + high + 1) // 2
            region = Region(Interval(start, start + middle), whole.columns)
            if self.tile_seconds(device, first, last, region) <= budget:
                low = middle
            else:
                high = middle - 1
        return low

    # --- what was measured since ---

    def with_samples(self, samples: Iterable[Sample]) -> Predictor:
        """Corrected by further samples."""
        samples = self.samples.add(samples)
        return Predictor(self.network, self.group, samples, self._speeds, self._overheads, self.tile_rows)

    def with_readings(self, readings: Mapping[Wish, Reading]) -> Predictor:
        """Corrected by readings of tiles and tails; what whole plans took says nothing about one device."""
        found = [self.sample(wish, reading) for wish, reading in readings.items()]
        return self.with_samples(sample for sample in found if sample is not None)

    def sample(self, wish: Wish, reading: Reading) -> Sample | None:
        """A reading in the form that outlives the network; None for a whole plan's."""
        match wish:
            case TileRun(device, first, last, region):
                signatures = tuple(layer.signature for layer in self._layers.units[first : last + 1])
                rows = tuple(float(count) for count in self.tile_rows.of_tile(first, last, region))
                return Sample(self._board_of[device], signatures, rows, reading.seconds, reading.deviation)
            case TailRun(device):
                assert self._layers.tail is not None, "a network without a tail has none to run"
                signature = self._layers.tail.signature
                return Sample(self._board_of[device], (signature,), (), reading.seconds, reading.deviation)
        return None


class _BoardCosts:
    """One board's laws, laid out by the units of the network; blocks are worked out when they are asked for."""

    def __init__(self, board: Board, law: BlockLaw, layers: NetworkLayers, tile_rows: TileRows) -> None:
        self._tile_rows = tile_rows
        signatures = self._signatures = tuple(layer.signature for layer in layers.units)
        self._units = [law.laws[signature] for signature in signatures]
        self._fixed = np.array([law.fixed(signature) for signature in signatures])
        self._call = law.call
        self._residuals, columns = residuals(board, law)
        self._columns = np.array([columns[signature] for signature in signatures], dtype=np.int64)
        self._width = len(columns)
        self._blocks: dict[int, _EndingBlocks] = {}
        self._inner = np.array([law.inner[signature] for signature in signatures])
        self.tail = law.laws[layers.tail.signature] if layers.tail else None

    def blocks(self, last: int) -> _EndingBlocks:
        """All blocks that end with unit `last`."""
        if last not in self._blocks:
            table, slopes = self._tile_rows.table(last), self._inner[: last + 1].copy()
            slopes[last] = self._units[last].beta
            factors, errors = self._factors(last)
            self._blocks[last] = _EndingBlocks(
                slopes,
                self._call + _suffix_sums(self._fixed[: last + 1]),
                _suffix_sums(slopes[:, None] * table.starts),
                _suffix_sums(slopes[:, None] * table.stops),
                factors,
                errors,
            )
        return self._blocks[last]

    def _factors(self, last: int) -> tuple[Array, Array]:
        """By first unit: measured over predicted, as expected, and the relative error of the whole prediction."""
        laws = self._units[: last + 1]
        seconds = np.array([law.seconds(height) for law, height in zip(laws, self._tile_rows.heights, strict=False)])
        totals = np.maximum(_suffix_sums(seconds), LEAST_SECONDS)
        own = _suffix_sums((seconds * [law.error for law in laws]) ** 2) / totals**2
        common = (_suffix_sums(seconds * [law.common for law in laws]) / totals) ** 2
        shares = np.zeros((last + 1, self._width))
        for first in range(last, -1, -1):
            if first < last:
                shares[first] = shares[first + 1]
            shares[first, self._columns[first]] += seconds[first]
        units = [self._signatures[first : last + 1] for first in range(last + 1)]
        betas = np.array([law.beta for law in laws])
        savings = (betas - self._inner[: last + 1]) * self._tile_rows.heights[: last + 1]
        savings[last] = 0.0
        saved = _suffix_sums(savings)
        blocks = Blocks(units, shares / totals[:, None], saved / (totals - saved))
        if self._residuals is None:
            return np.ones(last + 1), np.sqrt(own + common + blocks.prior_error**2)
        ratios, errors = self._residuals.predict(blocks)
        return np.exp(ratios), np.sqrt(own + common + errors**2)


def _suffix_sums(values: Array) -> Array:
    """Along the first axis: each with all after it."""
    sums: Array = np.cumsum(values[::-1], axis=0)[::-1]
    return sums
