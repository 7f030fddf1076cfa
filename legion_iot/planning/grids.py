"""Tiles in a grid instead of strips.

Theory. A strip borders its neighbours along the whole width of the map, and the halo that it computes twice is as wide.
A tile that is nearly square has a shorter border; and where a map of 14 rows gives the slowest of six devices three of
them, two by three tiles of seven rows give none more than 35 of 196 elements. The price is more neighbours, hence more
messages. So where a grid pays depends on links, and on what handling a message takes: the estimate decides.

Source: the grids are those of Zhao, Barijough and Gerstlauer, DeepThings, IEEE TCAD 37 (2018), of unequal tiles.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping

from legion_iot.model.geometry import Region
from legion_iot.planning.hub import whole_seconds
from legion_iot.planning.memory import fits
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.strips import strips, whole_map

LEAST_TILES = 3  # two tiles side by side border each other along a whole side as well
MOST_ABOVE = 1.1  # times the seconds of the strips: what is worse before it is refined is no better afterwards


def gridded(ranking: Ranking, plan: Plan) -> list[Plan]:
    """Plans with grids that may become better than `plan`, of strips, by small changes: two at most.

    One has all blocks in grids, the other those from some block on, each the best of its kind by the estimate. They
    keep within the devices' memory.
    """
    problem = ranking.problem
    kinds: tuple[list[Plan], list[Plan]] = ([], [])
    for first, each in _gridded_plans(ranking, plan):
        if fits(problem.network, each, problem.group):
            kinds[first > 0].append(each)
    found = [ranking.best(kind) for kind in kinds if kind]
    return [each for each in found if ranking.seconds(each) <= MOST_ABOVE * ranking.seconds(plan)]


def _gridded_plans(ranking: Ranking, plan: Plan) -> Iterator[tuple[int, Plan]]:
    """With the number of the first block that is in a grid."""
    trunk = whole_seconds(ranking.problem, ranking.costs)
    speeds = {name: 1 / max(seconds, 1e-12) for name, seconds in trunk.items()}
    for rounded in (math.floor, math.ceil):
        blocks = [_in_grid(ranking, block, speeds, rounded) for block in plan.blocks]
        for first in range(len(blocks)):
            if blocks[first] != plan.blocks[first]:
                yield first, dataclasses.replace(plan, blocks=(*plan.blocks[:first], *blocks[first:]))


def _in_grid(ranking: Ranking, block: Block, speeds: Mapping[str, float], rounded: Callable[[float], int]) -> Block:
    """The block's devices in the same order, with parts as their speeds, in as many rows as the root of their number.

    The root is `rounded`; too few devices keep their strips.
    """
    count = len(block.tiles)
    if count < LEAST_TILES:
        return block
    shares = {tile.agent: speeds[tile.agent] for tile in block.tiles}
    regions = grid(whole_map(ranking.problem.network, block.last), shares, max(2, rounded(math.sqrt(count))))
    return dataclasses.replace(block, tiles=tuple(Tile(name, part) for name, part in regions.items() if part.area))


def grid(whole: Region, speeds: Mapping[str, float], down: int) -> dict[str, Region]:
    """A region for each agent, in `down` rows of about as many tiles each, row by row; some may be empty.

    Areas are as the speeds, to within a row and a column. Speeds are positive, and `down` is at most their number.
    """
    names = list(speeds)
    bounds = [number * len(names) // down for number in range(down + 1)]
    rows = {names[start]: names[start:stop] for start, stop in itertools.pairwise(bounds)}
    heights = strips(len(whole.rows), {first: sum(speeds[name] for name in row) for first, row in rows.items()})
    widths = {first: strips(len(whole.columns), {name: speeds[name] for name in row}) for first, row in rows.items()}
    return {name: Region(heights[first], width) for first, row in widths.items() for name, width in row.items()}
