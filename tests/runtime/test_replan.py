"""Planning anew on request: by what is known, or with agents measured once more; requests go on meanwhile."""

from __future__ import annotations

import random

import pytest

from legion_iot.planning.planners.balanced import balanced, by_speed
from legion_iot.planning.problem import Planner, Problem
from legion_iot.runtime import orchestrator as machine
from legion_iot.runtime.simulation.behaviour import Behaviour
from legion_iot.runtime.simulation.group import Group
from legion_iot.wire.messages import AgentState, Profile
from tests.runtime.networks import NETWORKS
from tests.runtime.test_profiling import NAMES, curious
from tests.runtime.test_shared import FIRST, INFO, LINK, SECOND, Pair, commands

BOARDS = {"ant": "pi4", "bee": "pi4", "cat": "pi5", "dog": "pc"}


def a_group(seed: int = 0, planner: Planner | None = None) -> Group:
    """Four agents that serve, on boards of three classes."""
    network = NETWORKS["residual"]
    group = Group(network, seed=seed, least_agents=len(NAMES), planner=planner or curious(seed, network))
    for number, name in enumerate(NAMES):
        group.start(name, Behaviour(speed=1.0 + number, board=BOARDS[name]))
    group.run_until("serving")
    return group


def campaigns(group: Group) -> int:
    """How many times the group has begun to profile."""
    phases = [phase for phase, _ in group.said.phases]
    return sum(now == "profiling" != before for before, now in zip(["", *phases], phases, strict=False))


def test_the_same_is_found_by_what_is_known_and_nothing_is_handed_out() -> None:
    group = a_group(planner=by_speed(balanced))
    before, measured, probes = group.state.epoch, group.kept.measured.total(), group.kept.probes
    count = campaigns(group)
    group.replan()
    assert group.state.phase == "profiling"
    group.run_until("serving")
    assert campaigns(group) == count + 1
    assert (group.state.epoch, group.kept.measured.total(), group.kept.probes) == (before, measured, probes)


def test_another_plan_is_taken_over_without_a_pause() -> None:
    """A planner that changes its mind each time; requests that come meanwhile are all answered."""
    network, turns = NETWORKS["residual"], iter(range(1, 100))

    def planner(problem: Problem):  # type: ignore[no-untyped-def]
        yield ()
        turn = next(turns)
        return balanced(network, {name: 1.0 + turn * number for number, name in enumerate(problem.group.names)})

    group = a_group(3, planner)
    first = group.state.plan
    group.replan()
    requests = []
    while group.state.phase != "serving" or len(requests) < 20:
        assert group.state.plan is not None, "the plan stays in force until the other one is"
        requests.append(group.ask())
        group.run(0.1)
    group.run(10.0)
    for request in requests:
        group.check_answer(request)
    assert group.state.plan != first


@pytest.mark.parametrize("seed", range(4))
def test_one_that_is_measured_again_is_with_all_of_its_class_and_no_other(seed: int) -> None:
    group = a_group(seed)
    before = dict(group.kept.measured)
    assert {board for board, _ in before} == set(BOARDS.values())
    probes = group.kept.probes
    group.agents["bee"].behaviour.speed *= 3
    old = group.state.shared.samples
    group.replan("ant", "bee")
    assert {sample.board for sample in group.state.shared.samples} == {s.board for s in old if "pi4" not in s.board}
    group.run_until("serving")
    again = {part for (board, part), count in group.kept.measured.items() if board == "pi4" and count == 1}
    assert again, "forgetting took its counts away, so these are new"
    others = {key: count for key, count in group.kept.measured.items() if key[0] != "pi4"}
    assert others == {key: count for key, count in before.items() if key[0] != "pi4"}
    assert group.kept.probes == probes + 2
    assert group.said.probes == 1, "the orchestrator's own link is known"


def test_when_all_are_measured_again_so_is_the_orchestrators_link() -> None:
    group = a_group()
    probes = group.kept.probes
    group.replan(*NAMES, own_link=True)
    group.run_until("serving")
    assert (group.kept.probes, group.said.probes) == (probes + len(NAMES), 2)


@pytest.mark.parametrize("seed", range(12))
def test_asked_for_at_any_time_and_again_and_again(seed: int) -> None:
    network = NETWORKS[sorted(NETWORKS)[seed % 5]]
    group = Group(network, seed=seed, planner=curious(seed, network))
    draw = random.Random(seed)
    for name in NAMES:
        group.start(name, Behaviour(board=BOARDS[name], holds_model=draw.random() < 0.7))
    requests = []
    for _ in range(25):
        group.run(draw.expovariate(0.6))
        group.replan(*draw.sample(NAMES, draw.choice((0, 0, 1, 4))), own_link=draw.random() < 0.2)
        if group.state.plan is not None:
            requests.append(group.ask())
    group.run_until("serving", limit=600.0)
    group.run(20.0)
    for request in requests:
        group.check_answer(request)
    assert group.state.members() == sorted(NAMES)


def test_an_agent_that_had_become_slower_is_its_own_class_again() -> None:
    group = a_group()
    record = group.state.agents["cat"]
    assert record.info is not None
    record.slowdown = 2.0
    group.state.selection.drifted(record.info.board_class, 2.0)
    group.replan("cat")
    group.run_until("serving")
    assert record.slowdown == 1.0
    samples = group.state.shared.samples
    assert not any("of late" in sample.board for sample in samples)
    assert {"pi4", "pi5", "pc"} == {sample.board.partition(",")[0] for sample in samples}


def test_of_several_models_each_is_planned_anew_one_after_the_other() -> None:
    pair = Pair()
    pair.tell(
        machine.ProfileArrived("ant", Profile(INFO.board_class, LINK, ())),
        machine.AgentInfoArrived("ant", INFO),
        machine.AgentStateArrived("ant", AgentState("online", "s1")),
    )
    ((_, own),) = commands(pair.taken(0))
    pair.tell(machine.OwnLinkProbed(own, LINK))
    pair.answer(0)
    pair.answer(1)
    pair.tell(machine.ReplanAsked())
    states = pair.machines
    assert [state.phase for state in states] == ["profiling", "profiling"]
    assert [state.selection.campaign is not None for state in states] == [True, False], "the other one waits"
    pair.answer(0)
    pair.tell(machine.Tick())
    assert [state.selection.campaign is not None for state in states] == [False, True]
    pair.answer(1)
    assert [state.selection.campaign is not None for state in states] == [False, False]
    assert {state.model for state in states} == {FIRST, SECOND}


def test_a_campaign_under_way_does_not_bring_back_what_was_to_be_forgotten() -> None:
    group = a_group()
    group.replan("cat")
    group.run(0.5)
    group.replan("cat", "dog")
    boards = {sample.board.partition(",")[0] for sample in group.state.shared.samples}
    assert boards == {"pi4"}
    group.run_until("serving")
    assert {"pi4", "pi5", "pc"} == {sample.board.partition(",")[0] for sample in group.state.shared.samples}
