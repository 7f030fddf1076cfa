"""Planning on a simulated group: what is measured, by whom, beside requests, and what happens when somebody leaves."""

from __future__ import annotations

import random

import pytest

from legion_iot.errors import AgentError
from legion_iot.model.blocks import Network
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners.balanced import balanced
from legion_iot.planning.problem import Objective, Planner, PlanRun, Problem, Wish
from legion_iot.runtime.requests import REQUEST_TIMEOUT, WINDOW
from legion_iot.runtime.selection import INTERIM_AFTER
from legion_iot.runtime.simulation.behaviour import Behaviour
from legion_iot.runtime.simulation.broker import Line
from legion_iot.runtime.simulation.group import Group
from legion_iot.runtime.trial import RUNS
from tests.runtime.networks import NETWORKS
from tests.runtime.test_campaign import a_wish

NAMES = ("ant", "bee", "cat", "dog")


def curious(seed: int, network: Network, rounds: int = 3) -> Planner:
    """Asks for any tiles, tails and plans, and chooses a plan of several blocks."""

    def plan(problem: Problem):  # type: ignore[no-untyped-def]
        draw = random.Random(seed)
        for _ in range(rounds if network.units else 0):
            wishes: tuple[Wish, ...] = tuple(a_wish(draw, network, problem.group.names) for _ in range(8))
            readings = yield wishes
            assert set(readings) == set(wishes)
            assert all(reading.seconds > 0 for reading in readings.values())
        return chosen(network, problem.group.names)

    return plan


def chosen(network: Network, names: tuple[str, ...]) -> Plan:
    return balanced(network, {name: 1.0 + number for number, name in enumerate(names)}, 2)


def one_plan(network: Network) -> Planner:
    """Has one plan tried, and chooses it."""

    def plan(problem: Problem):  # type: ignore[no-untyped-def]
        tried = chosen(network, problem.group.names)
        yield (PlanRun(tried),)
        return tried

    return plan


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_requests_are_answered_whatever_is_being_measured(seed: int, objective: Objective) -> None:
    network = NETWORKS[sorted(NETWORKS)[seed % 5]]
    group = Group(
        network,
        seed=seed,
        line=Line(duplicates=0.3),
        least_agents=3,
        planner=curious(seed, network),
        objective=objective,
    )
    for name in NAMES[:3]:
        group.start(name, Behaviour(speed=1.0 + len(name), board=f"board-{name[0]}"))
    draw, requests = random.Random(seed), []
    for _ in range(60):
        group.run(draw.expovariate(0.7))
        requests.append(group.ask())
    group.run_until("serving", limit=600.0)
    group.run(20)
    for request in requests:
        group.check_answer(request)
    assert group.state.plan == chosen(network, NAMES[:3])
    assert all(agent.measured_while_asked == 0 for agent in group.agents.values()), "a tile waited for a profile"
    assert max(group.kept.measured.values(), default=1) == 1


def test_a_request_is_served_at_once_by_a_plan_that_needs_no_measuring() -> None:
    network = NETWORKS["residual"]
    group = Group(network, planner=curious(1, network, rounds=1000), least_agents=2)
    group.start("ant")
    group.start("bee")
    while group.state.phase != "profiling":
        group.run(0.01)
    assert group.state.plan is None
    request = group.ask()
    group.run(INTERIM_AFTER + 3)
    group.check_answer(request)
    assert group.state.plan is not None
    assert group.state.phase == "profiling"


def test_without_a_request_nothing_is_loaded_until_the_plan_is_found() -> None:
    network = NETWORKS["residual"]
    group = Group(network, planner=curious(1, network, rounds=0), least_agents=2)
    for name in NAMES[:2]:
        group.start(name)
    group.run_until("serving")
    assert [phase for phase, _ in group.said.phases].count("assigning") == 2, "once: for two agents, then for one"
    assert group.state.epoch == 101


def test_a_plan_that_was_tried_is_not_handed_out_again() -> None:
    network = NETWORKS["residual"]
    group = Group(network, planner=one_plan(network), least_agents=2)
    for name in NAMES[:2]:
        group.start(name)
    group.run_until("serving")
    assert group.state.epoch == 101
    outcome = group.state.selection.outcome
    assert outcome is not None
    assert outcome.effort.trials == 1
    assert group.requests.most_under_way == 1
    steps = {step for _, _, step in group.kept.computed.by_agent}
    assert sum(group.kept.computed.by_agent.values()) >= (RUNS + 1) * len(steps)
    assert not group.ended, "trials are nobody's requests"


def test_a_trial_for_throughput_keeps_the_group_busy() -> None:
    network = NETWORKS["residual"]
    group = Group(network, planner=one_plan(network), least_agents=2, objective="throughput")
    for name in NAMES[:2]:
        group.start(name)
    group.run_until("serving")
    assert group.requests.most_under_way == WINDOW
    assert not group.ended


@pytest.mark.parametrize("seed", range(30))
def test_agents_that_come_and_go_during_a_campaign(seed: int) -> None:
    network = NETWORKS[sorted(NETWORKS)[seed % 5]]
    group = Group(network, seed=seed, line=Line(duplicates=0.2 * (seed % 2)), planner=curious(seed, network))
    draw = group.agenda.random
    for name in NAMES:
        group.start(name, Behaviour(holds_model=draw.random() < 0.7, board=f"board-{draw.randrange(2)}"))
    for _ in range(15):
        group.run(draw.expovariate(0.4))
        agent = group.agents[draw.choice(NAMES)]
        match draw.choice(("ask", "ask", "kill", "restart", "blink")):
            case "ask":
                group.ask()
            case "kill":
                agent.kill(draw.uniform(0.0, 3.0))
            case "restart":
                agent.kill(draw.uniform(0.0, 6.0))
                group.start(agent.name)
            case "blink" if agent.alive:
                away = draw.uniform(0.0, 3.0)
                agent.break_link(draw.uniform(0.0, away))
                group.agenda.at(away + 0.001, agent.mend_link)
    for name, agent in group.agents.items():
        if not agent.alive:
            group.start(name)
    group.run(11)
    group.run_until("serving", limit=REQUEST_TIMEOUT + 600)
    group.run(REQUEST_TIMEOUT + 10)
    assert set(group.ended) == set(group.requests.asked)
    assert group.state.members() == sorted(NAMES)
    assert group.state.plan == chosen(network, tuple(sorted(NAMES)))


def test_a_second_planning_on_known_boards_measures_nothing() -> None:
    network = NETWORKS["residual"]
    first = Group(network, planner=curious(4, network))
    first.start("ant", Behaviour(board="pi"))
    first.run_until("serving")
    assert first.kept.measured
    second = Group(network, planner=curious(4, network), samples=first.state.shared.samples)
    second.start("bee", Behaviour(board="pi"))
    second.run_until("serving")
    assert not second.kept.measured
    outcome = second.state.selection.outcome
    assert outcome is not None
    assert outcome.effort.parts == 0
    assert outcome.effort.known > 0


def test_profiles_outlive_the_orchestrator_and_the_agents() -> None:
    network = NETWORKS["residual"]
    group = Group(network)
    group.start("ant")
    group.run_until("serving")
    assert group.kept.probes + group.said.probes == 2
    group.agents["ant"].kill(will_after=0.1)
    group.start("ant")
    group.run(11)
    group.run_until("serving")
    assert group.kept.probes + group.said.probes == 2, "the agent's own link, and the orchestrator's"
    assert max(group.kept.measured.values()) == 1


@pytest.mark.parametrize("lie", [0.0, -3.0])
def test_a_liar_is_left_out_and_named(lie: float) -> None:
    network = NETWORKS["residual"]
    group = Group(network)
    group.start("bee", Behaviour(board="b"))
    group.run_until("serving")
    group.start("ant", Behaviour(board="a", lies=lie))
    group.run(60)
    assert group.state.phase == "serving"
    assert group.state.members() == ["bee"]
    assert "ant left out: reported a time of" in group.state.detail


def test_a_device_with_absurd_times_takes_part_and_is_named() -> None:
    network = NETWORKS["residual"]
    group = Group(network, least_agents=2)
    group.start("ant", Behaviour(board="a", lies=1e99))
    group.start("bee", Behaviour(board="b"))
    group.run_until("serving")
    assert group.state.members() == ["ant", "bee"]
    assert "ant reported a time of 1e+99 s, taken as" in group.state.detail


def test_a_planner_that_fails_leaves_the_plan_by_known_speeds() -> None:
    network = NETWORKS["residual"]

    def planner(problem: Problem):  # type: ignore[no-untyped-def]
        raise AgentError("the group has too little memory")
        yield ()

    group = Group(network, planner=planner, least_agents=2)
    for name in NAMES[:2]:
        group.start(name)
    group.run_until("serving")
    outcome = group.state.selection.outcome
    assert outcome is not None
    assert "memory" in outcome.reason
    request = group.ask()
    group.run(5)
    group.check_answer(request)


@pytest.mark.parametrize("asks", [True, False])
def test_a_plan_that_cannot_be_is_neither_tried_nor_chosen(asks: bool) -> None:
    network = NETWORKS["residual"]
    plan = balanced(network, {"nobody": 1.0})

    def planner(problem: Problem):  # type: ignore[no-untyped-def]
        if asks:
            yield (PlanRun(plan),)
        return plan

    group = Group(network, planner=planner)
    group.start("ant")
    group.run_until("serving")
    outcome = group.state.selection.outcome
    assert outcome is not None
    assert "nobody" in outcome.reason
    assert group.state.plan is not None
    assert group.state.plan.agents == ("ant",)


def test_memory_and_boards_are_those_that_agents_report() -> None:
    network = NETWORKS["residual"]
    seen: list[Problem] = []

    def planner(problem: Problem):  # type: ignore[no-untyped-def]
        seen.append(problem)
        return chosen(network, problem.group.names)
        yield ()

    group = Group(network, planner=planner, least_agents=2)
    group.start("ant", Behaviour(board="pi"))
    group.start("bee", Behaviour(board="pc"))
    group.run_until("serving")
    assert [device.memory_bytes for device in seen[-1].group.devices] == [1 << 30] * 2
    assert [device.board.split(",")[0] for device in seen[-1].group.devices] == ["pi", "pc"]
