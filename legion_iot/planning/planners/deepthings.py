"""Planner `deepthings`: the first L units fused on a grid of equal tiles, the rest on the hub; L by predicted cost.

The grid has as many tiles as there are devices, as square as that number allows. Source: Zhao, Barijough and
Gerstlauer, DeepThings: Distributed Adaptive Deep Learning Inference on Resource-Constrained IoT Edge Clusters, IEEE
TCAD 37 (2018). There, idle devices steal tiles; here each has one of its own. Spends: what `learn` asks.
"""

from __future__ import annotations

import math

from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.hub import fastest
from legion_iot.planning.learning import learn
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.problem import Planning, Problem
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.strips import whole_map
from legion_iot.planning.whole import whole_plan

COARSE = 12  # values of L that are estimated first; then all near the best of them


def deepthings(problem: Problem) -> Planning:
    """Every L is estimated, and the best one taken; in networks of many units, every few first."""
    costs = yield from learn(problem)
    return deepthings_plan(Ranking(problem, costs))


def deepthings_plan(ranking: Ranking) -> Plan:
    """The hub is the fastest device."""
    problem = ranking.problem
    hub = fastest(problem, ranking.costs)
    if not problem.network.units:
        return whole_plan("deepthings", problem.network, hub)
    last = len(problem.network.units)
    step = -(-last // COARSE)
    coarse = ranking.best(_plan(problem, hub, count) for count in (*range(1, last, step), last))
    middle = coarse.blocks[0].last + 1
    near = range(max(1, middle - step + 1), min(last, middle + step - 1) + 1)
    return ranking.best(_plan(problem, hub, count) for count in near)


def _plan(problem: Problem, hub: str, count: int) -> Plan:
    network = problem.network
    tiles = tuple(
        Tile(name, region)
        for name, region in zip(problem.group.names, grid(whole_map(network, count - 1), len(problem.group.devices)),
                                strict=True)
        if region.area
    )  # fmt: skip
    blocks = [Block(0, count - 1, tiles)]
    last = len(network.units) - 1
    if count <= last:
        blocks.append(Block(count, last, (Tile(hub, whole_map(network, last)),)))
    return Plan("deepthings", tuple(blocks), hub, hub)


def grid(whole: Region, count: int) -> list[Region]:
    """`count` tiles of equal size to within a row and a column, row by row; some are empty where there are too few."""
    across = next(n for n in range(math.isqrt(count), 0, -1) if count % n == 0)
    down = count // across
    return [
        Region(_part(whole.rows, row, down), _part(whole.columns, column, across))
        for row in range(down)
        for column in range(across)
    ]


def _part(whole: Interval, number: int, count: int) -> Interval:
    size = len(whole)
    return Interval(number * size // count, (number + 1) * size // count)
