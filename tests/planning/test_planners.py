"""What holds for every planner, on random networks and on groups of wildly unequal devices and links."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from legion_iot.errors import AgentError
from legion_iot.planning.links import Link
from legion_iot.planning.memory import fits, plan_memory_bytes
from legion_iot.planning.plan import check
from legion_iot.planning.planners import planners
from legion_iot.planning.planners.halo import halo_plan
from legion_iot.planning.planners.single import single_plan
from legion_iot.planning.problem import PlanRun, TileRun
from legion_iot.planning.ranking import Ranking
from tests.planning.problems import Case, Recorder, case, cases
from tests.runtime.networks import NETWORKS

SPEEDS = {"ant": 3e9, "bee": 1e9, "cat": 1e9}


@pytest.mark.parametrize("name", planners)
@settings(max_examples=25, deadline=None)
@given(given_case=cases())
def test_every_plan_is_sound_and_the_same_each_time(name: str, given_case: Case) -> None:
    plan = given_case.plan(planners[name])
    check(plan, given_case.problem.network)
    assert set(plan.agents) <= set(given_case.problem.group.names)
    assert given_case.plan(planners[name]) == plan


@settings(max_examples=60, deadline=None)
@given(given_case=cases())
def test_halo_is_never_slower_than_one_device(given_case: Case) -> None:
    plan = halo_plan(given_case.problem, given_case.costs)
    alone = single_plan(Ranking(given_case.problem, given_case.costs))
    assert given_case.seconds(plan) <= given_case.seconds(alone)


@settings(max_examples=40, deadline=None)
@given(given_case=cases())
def test_auto_is_not_slower_than_one_device_by_what_it_knows(given_case: Case) -> None:
    """Its costs are fitted: a hair's breadth is left to them."""
    plan = given_case.plan(planners["auto"])
    alone = given_case.plan(planners["single"])
    assert given_case.seconds(plan) <= given_case.seconds(alone) * 1.1


@pytest.mark.parametrize("name", ["single", "frames", "halo", "auto"])
@pytest.mark.parametrize("network", ["chain", "residual", "scales", "mixed"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_no_device_gets_more_than_its_memory(name: str, network: str, part: float) -> None:
    """Limits are a part of what each device would like to have; one device has all it could need."""
    free = case(NETWORKS[network], SPEEDS)
    wanted = plan_memory_bytes(NETWORKS[network], free.plan(planners["halo"]))
    limits = {agent: int(size * part) for agent, size in wanted.items() if agent != "cat"} | {"cat": 10**9}
    limited = case(NETWORKS[network], SPEEDS, memory=limits)
    plan = limited.plan(planners[name])
    check(plan, NETWORKS[network])
    assert fits(NETWORKS[network], plan, limited.problem.group)


@pytest.mark.parametrize("name", ["single", "frames", "halo", "auto"])
def test_without_memory_there_is_no_plan(name: str) -> None:
    empty = case(NETWORKS["chain"], SPEEDS, memory=dict.fromkeys(SPEEDS, 10))
    with pytest.raises(AgentError, match="memory"):
        empty.plan(planners[name])


def test_a_network_too_large_for_any_device_is_shared() -> None:
    network = NETWORKS["residual"]
    whole = plan_memory_bytes(network, case(network, SPEEDS).plan(planners["single"]))
    limits = dict.fromkeys(SPEEDS, int(max(whole.values()) * 0.85))
    limited = case(network, SPEEDS, memory=limits)
    with pytest.raises(AgentError):
        limited.plan(planners["single"])
    plan = limited.plan(planners["auto"])
    assert len(plan.agents) > 1
    assert fits(network, plan, limited.problem.group)


def test_devices_that_do_harm_are_left_out() -> None:
    """One on a link so slow that a single row costs more than the whole network elsewhere, and one far too slow."""
    links = {"ant": Link(1e-4, 125e6, 125e6), "bee": Link(10.0, 1e3, 1e3), "cat": Link(1e-4, 125e6, 125e6)}
    harmed = case(NETWORKS["chain"], {"ant": 1e8, "bee": 1e8, "cat": 1e3}, links.__getitem__)
    for name in ("single", "halo", "auto"):
        assert harmed.plan(planners[name]).agents == ("ant",)


def test_shared_work_is_faster_where_it_should_be() -> None:
    """Four equal devices on links that cost nothing: nearly a quarter of the time is left."""
    quick = Link(1e-9, 1e12, 1e12)
    shared = case(NETWORKS["chain"], dict.fromkeys(("ant", "bee", "cat", "dog"), 1e6), lambda name: quick, overhead=0)
    alone = shared.seconds(shared.plan(planners["single"]))
    assert shared.seconds(shared.plan(planners["halo"])) < alone / 2.5
    assert shared.seconds(shared.plan(planners["auto"])) < alone / 2.5


def test_frames_has_a_replica_on_every_device_that_helps() -> None:
    steady = case(NETWORKS["chain"], SPEEDS, objective="throughput")
    plan = steady.plan(planners["frames"])
    assert plan.agents == ("ant", "bee", "cat")
    assert all(len(block.tiles) == 1 for turn in plan.turns for block in turn.blocks)
    assert len(plan.replicas) == 2


def test_auto_asks_for_throughput_what_throughput_needs() -> None:
    """Slow processors on fast links: replicas answer as often as processors allow, and a split plan no oftener."""
    slow = case(NETWORKS["residual"], dict.fromkeys(("ant", "bee", "cat"), 1e6), objective="throughput")
    plan = slow.plan(planners["auto"])
    assert slow.seconds(plan) <= slow.seconds(slow.plan(planners["single"])) / 2.5


def test_what_planners_spend() -> None:
    """`legion` runs each unit on each device, `fss` each block; both ask each board once for the whole trunk."""
    network = NETWORKS["chain"]
    units, boards = len(network.units), 2
    spent = {name: Recorder(case(network, SPEEDS)) for name in planners}
    for name, recorder in spent.items():
        recorder.plan(planners[name])
    rows = {unit.index: 3 for unit in network.units}  # chain's maps have rows for all three devices
    assert spent["legion"].count(TileRun) == boards + sum(rows.values())
    assert spent["legion"].count(PlanRun) in (1, 2)
    assert spent["fss"].count(TileRun) == boards + 3 * units * (units + 1) // 2
    assert spent["fss"].count(PlanRun) == 0
    assert spent["auto"].count(PlanRun) <= 3
    learned = {len(spent[name].asked) for name in ("single", "frames", "layerwise", "deepthings", "aofl", "halo")}
    assert len(learned) == 1, "all of them ask the same"
    assert spent["auto"].count(TileRun) <= learned.pop() < spent["legion"].count(TileRun) + boards * units
