"""No plan beats the bound: every plan of a small problem, and many of any kind on networks of every kind."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator

import pytest

from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.bound import lower_bound
from legion_iot.planning.estimate import Estimator
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.planners import planners
from legion_iot.planning.problem import Device, Group, Objective, Problem
from legion_iot.planning.rehearsal import Rehearsal
from legion_iot.planning.traffic import EXACT
from tests.model.random_networks import RandomNetwork
from tests.planning.groups import FlopCosts, random_costs, random_group, with_handling
from tests.planning.plans import AGENTS, random_plan
from tests.runtime.networks import NETWORKS

ROUNDING = 1 - 1e-9
THREE = ("ant", "bee", "cat")


def five_units() -> Network:
    """Convolutions and a pool, from four rows to one; no tail."""
    net = GraphBuilder("five")
    x = net.max_pool(net.conv2d(net.input((1, 4, 8, 2)), 4, 3), 2)
    x = net.conv2d(net.conv2d(x, 6, 3), 6, 3, stride=2)
    return divide(net.finish(net.conv2d(x, 4, 1)))


def every_plan(network: Network, hubs: tuple[str, ...]) -> Iterator[Plan]:
    """All divisions into blocks, and in each block all ways to give each device, in order, some rows or none."""
    count = len(network.units)
    strips = [tuple(_every_strip(network, last)) for last in range(count)]
    for size in range(count):
        for inner in itertools.combinations(range(1, count), size):
            bounds = list(itertools.pairwise((0, *inner, count)))
            for tiles in itertools.product(*(strips[end - 1] for _, end in bounds)):
                blocks = tuple(Block(first, end - 1, own) for (first, end), own in zip(bounds, tiles, strict=True))
                for hub in hubs:
                    yield Plan("any", blocks, THREE[0], hub)


def _every_strip(network: Network, last: int) -> Iterator[tuple[Tile, ...]]:
    _, height, width, _ = network.graph.tensors[network.units[last].reference].shape
    for a, b in itertools.combinations_with_replacement(range(height + 1), 2):
        rows = zip(THREE, ((0, a), (a, b), (b, height)), strict=True)
        yield tuple(Tile(name, Region(Interval(*own), Interval(0, width))) for name, own in rows if own[0] < own[1])


@pytest.mark.parametrize("handling", [False, True])
def test_every_plan_of_a_small_problem(handling: bool) -> None:
    network, draw = five_units(), random.Random(3)
    assert len(network.units) == 5
    group, costs = random_group(draw, THREE), random_costs(network, draw, THREE)
    if handling:
        group = with_handling(group, draw)
    estimator = Estimator(network, group, costs)
    plans = [*every_plan(network, ("",)), *itertools.islice(every_plan(network, THREE), 0, None, 23)]
    assert len(plans) > 10_000
    results = [estimator.estimate(plan) for plan in plans]
    latency, interval = (lower_bound(network, group, costs, objective=o) for o in ("latency", "throughput"))
    least, shortest = min(result.latency for result in results), min(result.interval for result in results)
    assert latency * ROUNDING <= least
    assert interval * ROUNDING <= shortest
    if not handling:  # of messages, the bound counts few
        assert least <= 1.4 * latency
        assert shortest <= 1.01 * interval


def _check(network: Network, seed: int, plans: int, wire: str = EXACT) -> None:
    """Random plans, and the better ones of what comes of changing one block's tiles again and again."""
    draw = random.Random(seed)
    group, costs = random_group(draw), random_costs(network, draw)
    if seed % 2:
        group = with_handling(group, draw)
    estimator = Estimator(network, group, costs, wire)
    latency, interval = (lower_bound(network, group, costs, wire, o) for o in ("latency", "throughput"))
    assert latency > 0
    for _ in range(plans):
        result = estimator.estimate(random_plan(network, draw))
        assert result.latency >= latency * ROUNDING
        assert result.interval >= interval * ROUNDING
    best = single = _on_one_device(network, draw.choice(AGENTS))
    for _ in range(plans):
        changed = _changed(network, best, draw)
        result = estimator.estimate(changed)
        assert result.latency >= latency * ROUNDING
        assert result.interval >= interval * ROUNDING
        best = min((best, changed), key=lambda plan: estimator.estimate(plan).latency)
    assert estimator.estimate(best).latency <= estimator.estimate(single).latency


def _on_one_device(network: Network, agent: str) -> Plan:
    count = len(network.units)
    blocks = tuple(Block(i, i, (Tile(agent, _whole(network, i)),)) for i in range(count))
    return Plan("single", blocks, agent)


def _whole(network: Network, unit: int) -> Region:
    return Region.whole(network.graph.tensors[network.units[unit].reference])


def _changed(network: Network, plan: Plan, draw: random.Random) -> Plan:
    """With other tiles in one block, with two blocks fused, or with another tail."""
    kind = draw.choice(("tiles", "fuse", "tail"))
    if kind == "tail" or not plan.blocks:
        return dataclasses.replace(plan, tail_agent=draw.choice(AGENTS))
    place = draw.randrange(len(plan.blocks))
    blocks = list(plan.blocks)
    if kind == "fuse" and place:
        blocks[place - 1 : place + 1] = [dataclasses.replace(blocks[place], first=blocks[place - 1].first)]
        return dataclasses.replace(plan, blocks=tuple(blocks))
    blocks[place] = dataclasses.replace(blocks[place], tiles=_some_strips(network, blocks[place].last, draw))
    return dataclasses.replace(plan, blocks=tuple(blocks))


def _some_strips(network: Network, last: int, draw: random.Random) -> tuple[Tile, ...]:
    whole = _whole(network, last)
    agents = draw.sample(AGENTS, min(draw.randrange(1, 4), len(whole.rows)))
    cuts = [0, *sorted(draw.sample(range(1, len(whole.rows)), len(agents) - 1)), len(whole.rows)]
    return tuple(
        Tile(agent, Region(Interval(a, b), whole.columns))
        for agent, (a, b) in zip(agents, itertools.pairwise(cuts), strict=True)
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(9))
def test_no_plan_beats_the_bound(name: str, seed: int) -> None:
    _check(NETWORKS[name], seed, 40, (EXACT, "float16", "int8")[seed % 3])


@pytest.mark.parametrize("seed", range(16))
def test_no_plan_beats_the_bound_on_random_networks(seed: int) -> None:
    network = divide(RandomNetwork(seed, ("float32", "int8")[seed % 2]).graph())
    _check(network, seed, 40)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_no_planner_beats_the_bound(name: str, objective: Objective) -> None:
    network, draw = NETWORKS[name], random.Random(11)
    group, costs = random_group(draw), random_costs(network, draw)
    rehearsal = Rehearsal(Problem(network, group, objective), costs)
    bound = lower_bound(network, group, costs, objective=objective)
    found = {each: rehearsal.ranking.seconds(rehearsal.plan(planner)) for each, planner in planners.items()}
    assert min(found.values()) >= bound * ROUNDING, found


@pytest.mark.parametrize("name", NETWORKS)
def test_with_more_devices_the_bound_does_not_rise(name: str) -> None:
    network, draw = NETWORKS[name], random.Random(7)
    group, costs = random_group(draw), random_costs(network, draw)
    bounds = [
        lower_bound(network, dataclasses.replace(group, devices=group.devices[:count]), costs)
        for count in range(1, len(group.devices) + 1)
    ]
    assert all(after <= before * 1.01 for before, after in itertools.pairwise(bounds))


@pytest.mark.parametrize("name", NETWORKS)
def test_devices_that_are_alike_count_together_as_if_they_were_not(name: str) -> None:
    network, draw = NETWORKS[name], random.Random(5)
    group = random_group(draw, AGENTS[:2])
    twins = tuple(Device(f"{d.name}-{n}", d.board, d.link) for d in group.devices for n in range(2))
    apart = tuple(dataclasses.replace(device, board=device.name) for device in twins)
    one = random_costs(network, draw, AGENTS[:2])
    costs = FlopCosts(
        network,
        {d.name: one.speeds[d.board] for d in twins},
        {d.name: one.fixed[d.board] for d in twins},
        {d.name: one.tail[d.board] for d in twins},
    )
    together = lower_bound(network, Group(twins, group.orchestrator), costs)
    assert together == pytest.approx(lower_bound(network, Group(apart, group.orchestrator), costs), rel=0.02)


def test_with_one_device_and_a_fast_link_nothing_is_lost() -> None:
    network = NETWORKS["residual"]
    fast = Link(0.0, 1e12, 1e12)
    group = Group((Device("ant", "ant", fast),), fast)
    costs = random_costs(network, random.Random(0))
    plan = Plan("single", (Block(0, 2, (Tile("ant", _whole(network, 2)),)),), "ant")
    result = Estimator(network, group, costs).estimate(plan)
    for objective, seconds in (("latency", result.latency), ("throughput", result.interval)):
        assert lower_bound(network, group, costs, objective=objective) == pytest.approx(seconds, rel=1e-6)


def test_many_devices_on_fast_links_are_as_good_as_their_speeds_together() -> None:
    network, fast = five_units(), Link(0.0, 1e12, 1e12)
    group = Group(tuple(Device(name, name, fast) for name in AGENTS), fast)
    speeds = {name: 1e6 * (1 + number) for number, name in enumerate(AGENTS)}
    costs = FlopCosts(network, speeds, dict.fromkeys(AGENTS, 0.0), dict.fromkeys(AGENTS, 0.0))
    assert lower_bound(network, group, costs) == pytest.approx(network.flops / sum(speeds.values()), rel=0.01)


def test_a_narrow_link_of_the_orchestrator_bounds_everything() -> None:
    network, fast = five_units(), Link(0.0, 1e12, 1e12)
    group = Group(tuple(Device(name, name, fast) for name in AGENTS), Link(0.25, 100, 1e12))
    costs = random_costs(network, random.Random(1))
    sent = 4 * 8 * 2 * 4 / 100
    assert lower_bound(network, group, costs) == pytest.approx(sent + 0.5, rel=1e-3)
    assert lower_bound(network, group, costs, objective="throughput") == pytest.approx(sent, rel=1e-3)


def test_handling_messages_is_counted_at_both_ends() -> None:
    network, fast = five_units(), Link(0.0, 1e12, 1e12)
    costs = random_costs(network, random.Random(1))
    slow = Link(0.0, 1e12, 1e12, 0.01, 1e-3)
    alone = Group((Device(AGENTS[0], AGENTS[0], slow),), dataclasses.replace(fast, message_seconds=0.25))
    plan = _on_one_device(network, AGENTS[0])
    result = Estimator(network, alone, costs).estimate(plan)
    bound = lower_bound(network, alone, costs)
    assert bound <= result.latency
    without = lower_bound(network, Group((Device(AGENTS[0], AGENTS[0], fast),), fast), costs)
    assert bound >= without + 2 * 0.25 + 0.01 + 1e-3 * 4 * 8 * 2 * 4
