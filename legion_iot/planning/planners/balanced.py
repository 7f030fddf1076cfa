"""Planner `balanced`: fused-layer blocks and speed-balanced strips from one measured speed per device.

Per block, every device computes a strip of rows in proportion to its speed. Where to cut the trunk is a shortest path
over the cut points, with the cost of a block

    T[i, j] = max_d ( flops_d(i..j) / speed_d ) + bytes(i) / bandwidth

in which flops_d includes the halo rows computed twice, and bytes(i) are the live bytes at the cut before the block.
The link is not measured: `bandwidth` is that of the 100 Mbit/s Ethernet most small boards have.

Source: the cost matrix T of Legion (ICCD 2021), with measured FLOP rates in place of per-unit profiles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

from legion_iot.errors import AgentError
from legion_iot.model.blocks import Network
from legion_iot.model.cut import block_flops_from_each_start
from legion_iot.model.geometry import HEIGHT, Interval, Region
from legion_iot.planning.costs import Predictor
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.problem import Planner, Planning, Problem, TailRun, TileRun, Wish
from legion_iot.planning.samples import LEAST_SECONDS
from legion_iot.planning.strips import strips

BANDWIDTH = 100e6 / 8  # bytes per second


MakePlan = Callable[[Network, Mapping[str, float]], Plan]  # for agents of these speeds, in FLOP per second


def by_speed(make_plan: MakePlan) -> Planner:
    """A planner that has one device of each class of board run the whole network, and leaves the rest to `make_plan`.

    The network is run as its trunk, in one block, and its tail.
    """

    def plan(problem: Problem) -> Planning:
        readings = yield whole_runs(problem)
        predictor = Predictor.of(problem).with_readings(readings)
        return make_plan(problem.network, speeds(predictor))

    return plan


def after_whole_runs(planner: Planner) -> Planner:
    """The same planner, but one device of each class of board runs the whole network first, for comparison."""

    def plan(problem: Problem) -> Planning:
        yield whole_runs(problem)
        return (yield from planner(problem))

    return plan


def whole_runs(problem: Problem) -> tuple[Wish, ...]:
    """What tells how long one device takes for everything, on the first of each class of board."""
    network = problem.network
    wishes: list[Wish] = []
    for device in {each.board: each for each in reversed(problem.group.devices)}.values():
        if network.units:
            last = len(network.units) - 1
            whole = Region.whole(network.graph.tensors[network.units[last].reference])
            wishes.append(TileRun(device.name, 0, last, whole))
        if network.tail:
            wishes.append(TailRun(device.name))
    return tuple(wishes)


def whole_seconds(predictor: Predictor, device: str) -> float:
    """What a device takes for the whole network, predicted."""
    network = predictor.network
    if not network.units:
        return predictor.tail_seconds(device)
    last = len(network.units) - 1
    return predictor.tile_seconds(device, 0, last, predictor.tile_rows.whole(last)) + predictor.tail_seconds(device)


def speeds(predictor: Predictor) -> dict[str, float]:
    """FLOP per second of each device, over the whole network."""
    flops = max(1, predictor.network.flops)
    return {name: flops / max(whole_seconds(predictor, name), LEAST_SECONDS) for name in predictor.group.names}


def balanced(network: Network, speeds: Mapping[str, float], least_blocks: int = 1) -> Plan:
    """A plan for agents of the given speeds (FLOP per second, all positive), fastest as tail agent.

    At least `least_blocks` blocks whose map has a row for every agent, as far as the trunk has units for them.
    Raises AgentError without any agent.
    """
    if not speeds:
        raise AgentError("no agent is online to plan for; start agents with: legion-agent --broker URL")
    tail_agent = max(speeds, key=lambda agent: speeds[agent])
    bounds = _best_bounds(network, speeds, least_blocks)
    blocks = tuple(Block(first, end - 1, _tiles(network, end - 1, speeds)) for first, end in itertools.pairwise(bounds))
    return Plan("balanced", blocks, tail_agent)


def _tiles(network: Network, last: int, speeds: Mapping[str, float]) -> tuple[Tile, ...]:
    whole = Region.whole(network.graph.tensors[network.units[last].reference])
    rows = strips(len(whole.rows), speeds)
    return tuple(Tile(agent, Region(interval, whole.columns)) for agent, interval in rows.items() if len(interval))


def _best_bounds(network: Network, speeds: Mapping[str, float], least_blocks: int) -> list[int]:
    """First units of the blocks of least total cost, closed by the number of units; an exact shortest path."""
    count = len(network.units)
    shared = [network.graph.tensors[unit.reference].shape[HEIGHT] >= len(speeds) for unit in network.units]
    wanted = min(least_blocks, sum(shared))
    cost = _cost_matrix(network, speeds)
    # best[j][k]: least cost of the units before j with k shared blocks; k = wanted stands for that many or more.
    best = [[math.inf] * (wanted + 1) for _ in range(count + 1)]
    origin: list[list[tuple[int, int]]] = [[(0, 0)] * (wanted + 1) for _ in range(count + 1)]
    best[0][0] = 0.0
    for j in range(1, count + 1):
        for i in range(j):
            for k in range(wanted + 1):
                reached = min(k + shared[j - 1], wanted)
                candidate = best[i][k] + cost[i][j - 1]
                if candidate < best[j][reached]:
                    best[j][reached], origin[j][reached] = candidate, (i, k)
    bounds, j, k = [count], count, wanted
    while j:
        j, k = origin[j][k]
        bounds.append(j)
    return bounds[::-1]


def _cost_matrix(network: Network, speeds: Mapping[str, float]) -> list[list[float]]:
    """T[i][j] in seconds for the block of units i to j, both included; infinite below the diagonal."""
    count = len(network.units)
    graph = network.graph
    cost = [[math.inf] * count for _ in range(count)]
    input_bytes = sum(graph.tensors[t].nbytes for t in graph.inputs)
    moved = [input_bytes, *(unit.live_bytes for unit in network.units[:-1])]
    for j, unit in enumerate(network.units):
        tensor = graph.tensors[unit.reference]
        columns = Region.whole(tensor).columns
        slowest = [0.0] * (j + 1)
        for agent, rows in strips(tensor.shape[HEIGHT], speeds).items():
            if len(rows):
                flops = block_flops_from_each_start(network, j, Region(Interval(rows.start, rows.stop), columns))
                slowest = [max(s, f / speeds[agent]) for s, f in zip(slowest, flops, strict=True)]
        for i in range(j + 1):
            cost[i][j] = slowest[i] + moved[i] / BANDWIDTH
    return cost
