"""`balanced` finds the cheapest division of all, by brute force over every one of them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import pytest

from legion_iot.errors import AgentError
from legion_iot.model.blocks import Network, divide, region_flops
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.cut import tile_regions
from legion_iot.model.geometry import Interval, Region
from legion_iot.model.synthetic import NETWORKS as PUBLISHED
from legion_iot.planning.costs import Predictor
from legion_iot.planning.links import Link
from legion_iot.planning.plan import check
from legion_iot.planning.planners.balanced import BANDWIDTH, balanced, speeds, whole_runs
from legion_iot.planning.problem import Device, Group, PlanRun, Problem, Reading, TileRun
from legion_iot.planning.routing import route
from legion_iot.planning.strips import strips
from tests.runtime.networks import NETWORKS

NAMES = ("ant", "bee", "cat", "dog")


def divisions(count: int) -> Iterator[list[tuple[int, int]]]:
    """Every way to cut `count` units into blocks, as (first, last)."""
    for size in range(count):
        for inner in itertools.combinations(range(1, count), size):
            bounds = [0, *inner, count]
            yield [(a, b - 1) for a, b in itertools.pairwise(bounds)]


def block_cost(network: Network, first: int, last: int, speeds: dict[str, float]) -> float:
    """T[i, j] as the module's text gives it: the slowest device's arithmetic, and the bytes at the cut before."""
    graph = network.graph
    reference = network.units[last].reference
    height, width = graph.tensors[reference].shape[1:3]
    ops = network.block_ops(first, last)
    slowest = 0.0
    for agent, rows in strips(height, speeds).items():
        if len(rows):
            regions = tile_regions(network, ops, {reference: Region(rows, Interval(0, width))})
            flops = sum(
                region_flops(graph, graph.ops[i], regions[graph.ops[i].outputs[0]])
                for i in ops
                if graph.ops[i].outputs[0] in regions
            )
            slowest = max(slowest, flops / speeds[agent])
    moved = network.units[first - 1].live_bytes if first else sum(graph.tensors[t].nbytes for t in graph.inputs)
    return slowest + moved / BANDWIDTH


def shared(network: Network, last: int, agents: int) -> bool:
    """Whether the block's map has a row for every agent."""
    return network.graph.tensors[network.units[last].reference].shape[1] >= agents


@pytest.mark.parametrize("name", ["chain", "residual", "scales", "mixed"])
@pytest.mark.parametrize("seed", range(12))
def test_the_cheapest_of_all_divisions_is_found(name: str, seed: int) -> None:
    network, draw = NETWORKS[name], random.Random(seed)
    scale = 10 ** draw.uniform(5, 9)  # from devices that the network makes wait, to links that make devices wait
    speeds = {agent: scale * draw.uniform(0.2, 4) for agent in NAMES[: draw.randrange(1, 5)]}
    least = draw.randrange(0, 4)
    plan = balanced(network, speeds, least)
    check(plan, network)
    wanted = min(least, sum(shared(network, last, len(speeds)) for last in range(len(network.units))))
    costs = [
        sum(block_cost(network, *block, speeds) for block in blocks)
        for blocks in divisions(len(network.units))
        if sum(shared(network, last, len(speeds)) for _, last in blocks) >= wanted
    ]
    chosen = [(block.first, block.last) for block in plan.blocks]
    assert sum(shared(network, last, len(speeds)) for _, last in chosen) >= wanted
    assert math.isclose(sum(block_cost(network, *block, speeds) for block in chosen), min(costs), rel_tol=1e-9)


def test_speed_decides_between_fusing_and_exchanging() -> None:
    """Fast devices wait for the link, so they fuse everything; slow ones save their halos."""
    network = NETWORKS["scales"]
    assert len(balanced(network, {"ant": 1e15, "bee": 1e15}).blocks) == 1
    assert len(balanced(network, {"ant": 1.0, "bee": 1.0}).blocks) > 1


@pytest.mark.parametrize("least", [1, 2, 3, 4, 99])
def test_as_many_blocks_as_asked_for_as_far_as_there_are_units(least: int) -> None:
    plan = balanced(NETWORKS["chain"], {"ant": 1e15, "bee": 1e15}, least)
    assert len(plan.blocks) == min(least, 4)


def test_every_agent_works_where_speeds_are_alike() -> None:
    speeds = {name: 1e9 + n for n, name in enumerate(NAMES)}
    for name in ("chain", "residual", "scales", "mixed"):
        plan = balanced(NETWORKS[name], speeds, 1)
        assert set(plan.agents) == set(NAMES)
        assert plan.tail_agent == "dog"


def test_a_network_without_a_trunk_goes_whole_to_the_fastest() -> None:
    plan = balanced(NETWORKS["flat"], {"ant": 1.0, "bee": 2.0}, 3)
    check(plan, NETWORKS["flat"])
    assert (plan.blocks, plan.agents) == ((), ("bee",))
    assert [w.agent for w in route(NETWORKS["flat"], plan).works] == ["bee", "orchestrator"]


def test_one_unit_and_more_agents_than_rows() -> None:
    net = GraphBuilder("one")
    network = divide(net.finish(net.conv2d(net.input((1, 2, 8, 1)), 1, 3)))
    assert len(network.units) == 1
    speeds = {f"agent-{n}": 1.0 for n in range(7)}
    plan = balanced(network, speeds, 2)
    check(plan, network)
    assert len(plan.blocks) == 1
    assert len(plan.blocks[0].tiles) == 2


def test_without_agents_there_is_no_plan() -> None:
    with pytest.raises(AgentError):
        balanced(NETWORKS["chain"], {})


@pytest.mark.parametrize("speed", [2e8, 2e9, 5e10])
@pytest.mark.parametrize("name", ["vgg16", "mobilenet-v2"])
def test_speeds_differ_as_runs_of_the_whole_network_do_where_nothing_else_was_measured(name: str, speed: float) -> None:
    network, link = divide(PUBLISHED[name](0)), Link(0.001, 1e7, 1e7)
    true = {"ant": speed, "bee": speed / 3}
    problem = Problem(network, Group((Device("ant", "fast", link), Device("bee", "slow", link)), link))
    times = {}
    for wish in whole_runs(problem):
        assert not isinstance(wish, PlanRun)
        part = 0.98 if isinstance(wish, TileRun) else 0.02
        times[wish] = Reading(part * network.flops / true[wish.device])
    found = speeds(Predictor.of(problem).with_readings(times))
    assert found["ant"] / found["bee"] == pytest.approx(3, rel=0.01)
    assert found["ant"] == pytest.approx(speed, rel=1.5)
