"""Reasons: what is left out, cut and compared is what the estimate says of plans that are made by hand."""

from __future__ import annotations

import dataclasses

import pytest

from legion_iot.errors import AgentError
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.estimate import estimate
from legion_iot.planning.explanation import Cut, LeftOut, explain
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.planners import planners
from legion_iot.planning.problem import Device, Group, Objective, Planning, Problem
from legion_iot.planning.rehearsal import Rehearsal
from legion_iot.planning.whole import whole_plan
from tests.planning.groups import FlopCosts
from tests.runtime.networks import NETWORKS

NETWORK = NETWORKS["residual"]  # 16 rows, 16 rows, 8 rows
NAMES = ("ant", "bee", "cat", "dog")
LINK = Link(0.0001, 1e7, 1e7)


def rehearsal(objective: Objective = "latency", memory: int | None = None) -> Rehearsal:
    """Two fast devices and two slow ones that are alike, of which `memory` may be too little."""
    devices = [Device(name, "fast", LINK) for name in NAMES[:2]] + [Device(n, "slow", LINK, memory) for n in NAMES[2:]]
    speeds = {"ant": 1e7, "bee": 1e7, "cat": 1e6, "dog": 1e6}
    costs = FlopCosts(NETWORK, speeds, dict.fromkeys(NAMES, 1e-4), dict.fromkeys(NAMES, 1e-3))
    return Rehearsal(Problem(NETWORK, Group(tuple(devices), LINK), objective), costs)


def strips(network: Network, last: int, *rows: tuple[str, int, int]) -> tuple[Tile, ...]:
    columns = Region.whole(network.graph.tensors[network.units[last].reference]).columns
    return tuple(Tile(agent, Region(Interval(a, b), columns)) for agent, a, b in rows)


def two_blocks() -> Plan:
    first = Block(0, 1, strips(NETWORK, 1, ("ant", 0, 8), ("bee", 8, 16)))
    return Plan("by hand", (first, Block(2, 2, strips(NETWORK, 2, ("ant", 0, 4), ("bee", 4, 8)))), "ant")


def seconds(case: Rehearsal, plan: Plan) -> float:
    result = estimate(NETWORK, plan, case.problem.group, case.costs)
    return result.latency if case.problem.objective == "latency" else result.interval


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_a_cut_is_compared_with_none_and_with_its_neighbours(objective: Objective) -> None:
    case, plan = rehearsal(objective), two_blocks()
    merged = dataclasses.replace(plan, blocks=(dataclasses.replace(plan.blocks[1], first=0),))
    shorter = Block(0, 0, strips(NETWORK, 0, ("ant", 0, 8), ("bee", 8, 16)))
    earlier = dataclasses.replace(plan, blocks=(shorter, dataclasses.replace(plan.blocks[1], first=1)))
    (cut,) = explain(case, plan, {}).cuts
    assert cut == Cut(1, seconds(case, merged), seconds(case, earlier), None)


def test_a_cut_after_a_grid_of_tiles_is_moved_with_it() -> None:
    """Units 0 and 1 have maps of one size, so the tiles of a shorter block are the same."""
    case, plan = rehearsal(), two_blocks()
    halves = (Interval(0, 6), Interval(6, 12))
    grid = tuple(Tile(agent, Region(Interval(0, 16), half)) for agent, half in zip(("ant", "bee"), halves, strict=True))
    plan = dataclasses.replace(plan, blocks=(dataclasses.replace(plan.blocks[0], tiles=grid), plan.blocks[1]))
    earlier = dataclasses.replace(plan, blocks=(Block(0, 0, grid), dataclasses.replace(plan.blocks[1], first=1)))
    (cut,) = explain(case, plan, {}).cuts
    assert (cut.earlier, cut.later) == (seconds(case, earlier), None)
    assert cut.without is not None


def test_devices_left_out_are_grouped_and_priced() -> None:
    case, plan = rehearsal(), two_blocks()
    (left_out,) = explain(case, plan, {}).left_out
    assert left_out.devices == ("cat", "dog")
    # Ten times as slow: one row of sixteen, and one of eight.
    rows = (("ant", 0, 8), ("bee", 8, 15), ("cat", 15, 16))
    first = dataclasses.replace(plan.blocks[0], tiles=strips(NETWORK, 1, *rows))
    second = dataclasses.replace(plan.blocks[1], tiles=strips(NETWORK, 2, ("ant", 0, 4), ("bee", 4, 7), ("cat", 7, 8)))
    blocks = ((first, plan.blocks[1]), (plan.blocks[0], second), (first, second))
    assert left_out.seconds == min(seconds(case, dataclasses.replace(plan, blocks=each)) for each in blocks)


def test_a_device_without_the_memory_has_no_price() -> None:
    assert explain(rehearsal(memory=1), two_blocks(), {}).left_out == (LeftOut(("cat", "dog"), None),)


def test_another_replica_is_what_a_device_left_out_would_be() -> None:
    case = rehearsal("throughput")
    one, other = (whole_plan("frames", NETWORK, name) for name in NAMES[:2])
    plan = dataclasses.replace(one, replicas=(other,))
    more = dataclasses.replace(one, replicas=(other, whole_plan("frames", NETWORK, "cat")))
    assert explain(case, plan, {}).left_out == (LeftOut(("cat", "dog"), seconds(case, more)),)


def test_with_everybody_at_work_and_one_block_there_is_nothing_to_explain() -> None:
    case = rehearsal()
    rows = [(name, 2 * number, 2 * number + 2) for number, name in enumerate(NAMES)]
    found = explain(case, Plan("by hand", (Block(0, 2, strips(NETWORK, 2, *rows)),), "ant"), {})
    assert (found.left_out, found.cuts, found.others) == ((), (), ())


def _stuck(problem: Problem) -> Planning:
    yield ()
    raise AgentError("no plan today")


def test_other_planners_come_best_first_and_say_why_they_have_none() -> None:
    case = rehearsal()
    plan = case.plan(planners["single"])
    names = ("single", "halo", "layerwise")
    found = explain(case, plan, {"stuck": _stuck, **{name: planners[name] for name in names}}).others
    assert found[-1].planner == "stuck"
    assert (found[-1].seconds, found[-1].reason) == (None, "no plan today")
    timed = [other.seconds for other in found if other.seconds is not None]
    assert timed == sorted(timed)
    assert {other.planner for other in found} == {"stuck", *names}
    for other in found[:-1]:
        theirs = case.plan(planners[other.planner])
        assert other.seconds == seconds(case, theirs)
        assert (other.agents, other.blocks) == (theirs.agents, len(theirs.blocks))
        assert other.is_same == (other.planner == "single" or theirs.blocks == plan.blocks)
