"""Small changes to a plan, kept where the estimate says that they help.

Two blocks are merged, a cut is moved by a unit, a few rows or columns are handed to a neighbour, the tail is
given to another device. Sweeps over all blocks are repeated until nothing helps, or enough has been tried. So it goes
with strips, and once more with grids (`grids`) where these help; then tiles may be computed in parts (`borders`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.borders import border_first
from legion_iot.planning.grids import gridded
from legion_iot.planning.memory import fits
from legion_iot.planning.plan import Block, Plan, Tile, scaled
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.shortest_path import Division
from legion_iot.planning.strips import whole_map

MOST_TILES = 1500  # in all plans that are estimated, so that it takes a few tenths of a second
STEPS = (-4, -2, -1, 1, 2, 4)  # units by which a cut of a division is moved
HANDED = 16  # a part of a map's rows or columns that is handed over in one change

# The plans that differ from a plan in one block, given by its number, or in that block and the next one.
_Changes = Callable[[Ranking, Plan, int], Iterator[Plan]]


def refined(ranking: Ranking, plan: Plan) -> Plan:
    """A plan that the estimate takes to be at least as good; `plan` is of full-width strips, without a hub.

    It keeps within the devices' memory if `plan` does.
    """
    strips = _swept(ranking, plan)
    grids = [_swept(ranking, each) for each in gridded(ranking, strips)]
    return border_first(ranking, ranking.best([strips, *grids]))


def _swept(ranking: Ranking, plan: Plan) -> Plan:
    sweep, before = _Sweep(ranking, plan), None
    while sweep.best is not before:
        before = sweep.best
        sweep.over(_with_other_tail)
        sweep.over(with_merged_blocks, with_moved_cut)
        sweep.over(_handed_over)
    return sweep.best


def refined_division(ranking: Ranking, make: Callable[[Division], Plan], division: Division) -> Plan:
    """The plan that `make` makes of a division, or of one that the estimate prefers: with a cut more, less or moved."""
    best, plan, tiles = division, make(division), 0
    while True:
        others = {other: make(other) for other in _neighbours(best)}
        tiles += sum(len(block.tiles) for other in others.values() for block in other.blocks)
        next_best = min(others, key=lambda other: ranking.seconds(others[other]), default=best)
        if next_best == best or tiles > MOST_TILES or ranking.seconds(others[next_best]) >= ranking.seconds(plan):
            return plan
        best, plan = next_best, others[next_best]


def _neighbours(division: Division) -> Iterator[Division]:
    """Divisions with one cut more or less, or one moved by a few units."""
    ends, count = {last for _, last in division[:-1]}, division[-1][1]
    changed = [ends ^ {cut} for cut in range(count)]
    changed += [ends - {cut} | {cut + step} for cut in sorted(ends) for step in STEPS if 0 <= cut + step < count]
    for cuts in changed:
        bounds = [-1, *sorted(cuts), count]
        yield tuple((before + 1, last) for before, last in itertools.pairwise(bounds))


class _Sweep:
    """The best plan so far, and how many tiles have been estimated."""

    def __init__(self, ranking: Ranking, plan: Plan) -> None:
        self.best, self.tiles = plan, 0
        self._ranking = ranking

    def over(self, *kinds: _Changes) -> None:
        """Try all changes of these kinds, block by block."""
        problem, number = self._ranking.problem, 0
        while number < len(self.best.blocks):
            for kind in kinds:
                for plan in kind(self._ranking, self.best, number):
                    if self.tiles >= MOST_TILES:
                        return
                    self.tiles += sum(len(tile.goes) for block in plan.blocks for tile in block.tiles)
                    is_better = self._ranking.seconds(plan) < self._ranking.seconds(self.best)
                    if is_better and fits(problem.network, plan, problem.group):
                        self.best = plan
            number += 1


def with_merged_blocks(ranking: Ranking, plan: Plan, number: int) -> Iterator[Plan]:
    """A block and the next one as one, in the tiles of the next one."""
    if number + 1 < len(plan.blocks):
        block, after = plan.blocks[number : number + 2]
        yield _replaced(plan, number, 2, Block(block.first, after.last, after.tiles))


def with_moved_cut(ranking: Ranking, plan: Plan, number: int) -> Iterator[Plan]:
    """The cut after a block one unit earlier or later."""
    for step in (-1, 1):
        if number + 1 < len(plan.blocks):
            block, after = plan.blocks[number : number + 2]
            if block.first <= block.last + step < after.last:
                tiles = _scaled_tiles(ranking.problem.network, block, block.last + step)
                moved = (
                    Block(block.first, block.last + step, tiles),
                    Block(block.last + step + 1, after.last, after.tiles),
                )
                if tiles:
                    yield _replaced(plan, number, 2, *moved)


def _scaled_tiles(network: Network, block: Block, last: int) -> tuple[Tile, ...]:
    """The tiles at the same fractions of the map of another last unit."""
    old, new = whole_map(network, block.last), whole_map(network, last)
    tiles = (Tile(tile.agent, scaled(tile.region, old, new)) for tile in block.tiles)
    return tuple(tile for tile in tiles if tile.region.area)


def _handed_over(ranking: Ranking, plan: Plan, number: int) -> Iterator[Plan]:
    """Some rows between a tile and the next one, or columns where they lie side by side; an emptied one is left out."""
    block = plan.blocks[number]
    whole = whole_map(ranking.problem.network, block.last)
    for place in range(len(block.tiles) - 1):
        one, other = block.tiles[place : place + 2]
        for way in (-1, 1):
            if one.region.columns == other.region.columns and one.region.rows.stop == other.region.rows.start:
                step = way * max(1, len(whole.rows) // HANDED)
                rows = _moved_seam(one.region.rows, other.region.rows, step)
                regions = [Region(each, one.region.columns) for each in rows]
            elif one.region.rows == other.region.rows and one.region.columns.stop == other.region.columns.start:
                step = way * max(1, len(whole.columns) // HANDED)
                columns = _moved_seam(one.region.columns, other.region.columns, step)
                regions = [Region(one.region.rows, each) for each in columns]
            else:
                continue
            pair = (Tile(one.agent, regions[0]), Tile(other.agent, regions[1]))
            kept = tuple(tile for tile in pair if tile.region.area)
            tiles = (*block.tiles[:place], *kept, *block.tiles[place + 2 :])
            yield _replaced(plan, number, 1, dataclasses.replace(block, tiles=tiles))


def _moved_seam(one: Interval, other: Interval, step: int) -> tuple[Interval, Interval]:
    seam = min(max(one.stop + step, one.start), other.stop)
    return Interval(one.start, seam), Interval(seam, other.stop)


def _with_other_tail(ranking: Ranking, plan: Plan, number: int) -> Iterator[Plan]:
    """The tail at one of the last block's devices."""
    if number == len(plan.blocks) - 1:
        for tile in plan.blocks[number].tiles:
            if tile.agent != plan.tail_agent:
                yield dataclasses.replace(plan, tail_agent=tile.agent)


def _replaced(plan: Plan, number: int, count: int, *blocks: Block) -> Plan:
    return dataclasses.replace(plan, blocks=(*plan.blocks[:number], *blocks, *plan.blocks[number + count :]))
