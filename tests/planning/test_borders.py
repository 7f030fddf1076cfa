"""Tiles in parts: what others wait for first, and only where the estimate falls by it."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.planning.borders import LEAST_GAIN, border_first, divisions
from legion_iot.planning.links import Link
from legion_iot.planning.memory import fits, plan_memory_bytes
from legion_iot.planning.plan import Block, Plan, check
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.refine import refined
from legion_iot.planning.routing import Work, route
from legion_iot.planning.strips import map_height, strip_tiles, strips
from tests.planning.plans import AGENTS, random_plan
from tests.planning.problems import Case, case, cases
from tests.planning.test_refine import random_strips
from tests.runtime.networks import NETWORKS

PAIR = {"ant": 1.0, "bee": 1.0}


def tall() -> Network:
    """Five convolutions on a map of many rows."""
    net = GraphBuilder("tall")
    x = net.input((1, 64, 16, 3))
    for _ in range(5):
        x = net.conv2d(x, 4, 3, activation="relu")
    return divide(net.finish(x))


def pair(link: Link, speed: float = 1e7, overhead: float = 0.0) -> tuple[Case, Plan]:
    """Two equal devices: each unit a block of two halves."""
    network = tall()
    halves = [strip_tiles(network, k, strips(map_height(network, k), PAIR)) for k in range(len(network.units))]
    plan = Plan("halves", tuple(Block(k, k, tiles) for k, tiles in enumerate(halves)), "ant")
    return case(network, dict.fromkeys(PAIR, speed), lambda name: link, overhead=overhead), plan


def in_parts(plan: Plan) -> int:
    return sum(bool(tile.parts) for block in plan.blocks for tile in block.tiles)


def undivided(plan: Plan) -> Plan:
    blocks = tuple(
        dataclasses.replace(b, tiles=tuple(dataclasses.replace(t, parts=()) for t in b.tiles)) for b in plan.blocks
    )
    return dataclasses.replace(plan, blocks=blocks)


@settings(max_examples=60, deadline=None)
@given(given_case=cases(), seed=st.integers(0, 1000))
def test_only_parts_change_and_never_for_the_worse(given_case: Case, seed: int) -> None:
    plan = random_strips(given_case, random.Random(seed))
    better = border_first(Ranking(given_case.problem, given_case.costs), plan)
    check(better, given_case.problem.network)
    assert undivided(better) == plan
    assert better == plan or given_case.seconds(better) <= (1 - LEAST_GAIN) * given_case.seconds(plan)
    assert better == border_first(Ranking(given_case.problem, given_case.costs), plan)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_plans_with_a_hub_columns_and_parts_stay_sound(name: str) -> None:
    network = NETWORKS[name]
    given_case = case(network, dict.fromkeys(AGENTS, 1e5))
    ranking = Ranking(given_case.problem, given_case.costs)
    for seed in range(40):
        plan = random_plan(network, random.Random(seed))
        for number in range(len(plan.blocks)):
            for divided in divisions(ranking, plan, number):
                check(divided, network)
                assert undivided(divided) == undivided(plan)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_it_keeps_within_memory(seed: int) -> None:
    network, speeds = NETWORKS["residual"], {"ant": 3e5, "bee": 1e5, "cat": 1e5}
    plan = random_strips(case(network, speeds), random.Random(seed))
    limited = case(network, speeds, memory=dict(plan_memory_bytes(network, plan)))
    assert fits(network, border_first(Ranking(limited.problem, limited.costs), plan), limited.problem.group)


def test_the_interior_neither_gives_nor_takes() -> None:
    """Of the ways to divide a tile, one frees the interior of what it gives, one of what it takes, one of both."""
    given_case, plan = pair(Link(2e-2, 1e5, 1e5))
    ranking = Ranking(given_case.problem, given_case.costs)
    found = [_interior_is_free(divided, 1) for divided in divisions(ranking, plan, 1)]
    assert (True, True) in found
    assert all(gives or takes for gives, takes in found)


def _interior_is_free(plan: Plan, number: int) -> tuple[bool, bool]:
    """Whether the last part of each tile sends nothing to the other agent, and gets nothing from it."""
    routing = route(tall(), plan)
    last: dict[str, Work] = {}
    for work in routing.works:
        if work.block == number:
            last[work.agent] = work
    across = [t for t in routing.transfers if t.source != t.target]
    gives = [t for t in across for w in last.values() if (t.made_in, t.source) == (w.step, w.agent)]
    takes = [t for t in across for w in last.values() if (t.step, t.target) == (w.step, w.agent)]
    return not gives, not takes


def test_slow_links_and_much_to_compute_make_it_pay() -> None:
    given_case, plan = pair(Link(2e-2, 1e5, 1e5))
    better = border_first(Ranking(given_case.problem, given_case.costs), plan)
    assert in_parts(better)
    assert given_case.seconds(better) <= (1 - LEAST_GAIN) * given_case.seconds(plan)


def test_a_refined_plan_may_be_in_parts() -> None:
    given_case, plan = pair(Link(2e-2, 1e5, 1e5))
    better = refined(Ranking(given_case.problem, given_case.costs), plan)
    assert given_case.seconds(better) <= given_case.seconds(plan)
    whole = undivided(better)
    assert better == whole or given_case.seconds(better) <= (1 - LEAST_GAIN) * given_case.seconds(whole)


def test_one_device_has_nobody_to_wait_for() -> None:
    alone = case(NETWORKS["residual"], {"ant": 1e5})
    plan, ranking = random_strips(alone, random.Random(1)), Ranking(alone.problem, alone.costs)
    assert [divided for number in range(len(plan.blocks)) for divided in divisions(ranking, plan, number)] == []


def test_calls_that_cost_more_than_transfers_do_not() -> None:
    given_case, plan = pair(Link(1e-3, 1e6, 1e6), speed=1e9, overhead=1.0)
    assert border_first(Ranking(given_case.problem, given_case.costs), plan) == plan
