"""Whole groups in virtual time: the tables in the texts of `runtime.agent` and `runtime.orchestrator` hold."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from legion_iot.errors import AgentError
from legion_iot.planning.planners.balanced import balanced
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.runtime.fetch import CHUNK
from legion_iot.runtime.orchestrator import WORK_TIMEOUT
from legion_iot.runtime.requests import QUEUE, REQUEST_TIMEOUT, WINDOW
from legion_iot.runtime.simulation.behaviour import Behaviour
from legion_iot.runtime.simulation.broker import Line
from legion_iot.runtime.simulation.group import Group
from tests.planning.plans import random_plan
from tests.runtime.group import at_least, given_plan
from tests.runtime.networks import NETWORKS

NAMES = ("ant", "bee", "cat", "dog")
SEEDS = 40


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("agents", [1, 3])
@pytest.mark.parametrize("blocks", [1, 3])
def test_every_element_arrives_where_it_is_needed(name: str, agents: int, blocks: int) -> None:
    group = Group(
        NETWORKS[name],
        seed=agents,
        line=Line(duplicates=0.3, losses=0.1),
        least_agents=agents,
        make_plan=at_least(blocks),
    )
    for number in range(agents):
        group.start(NAMES[number], Behaviour(speed=1.0 + number))
    group.run_until("serving")
    requests = [group.ask() for _ in range(9)]
    group.run(20)
    for request in requests:
        group.check_answer(request)
    for (_, request, _), count in group.kept.computed.by_agent.items():
        assert count <= group.ended[request].attempts, "a duplicate fragment made a step run again"
    for agent in group.agents.values():
        assert not any(held.exchange for held in agent.state.epochs), "an ended request still holds memory"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_plan(name: str) -> None:
    """Hubs, tiles in parts and replicas: each step runs once, of one replica, and on nothing but its planned input."""
    kinds = Counter[str]()
    for seed in range(60):
        plan = random_plan(NETWORKS[name], random.Random(seed))
        kinds["hub"] += any(turn.hub for turn in plan.turns)
        kinds["parts"] += any(tile.parts for turn in plan.turns for block in turn.blocks for tile in block.tiles)
        kinds["replicas"] += bool(plan.replicas)
        group = given_plan(NETWORKS[name], plan, seed=seed, duplicates=0.3)
        assert group.state.routing is not None
        steps: list[set[tuple[str, int]]] = [set() for _ in plan.turns]
        for work in group.state.routing.works:
            if work.agent != ORCHESTRATOR:
                steps[work.replica].add((work.agent, work.step))
        requests = [group.ask() for _ in range(2 * WINDOW)]
        group.run(20)
        for request in requests:
            group.check_answer(request)
            done = [(agent, step) for agent, of, step in group.kept.computed.by_agent if of == request]
            assert set(done) == steps[group.ended[request].replica], "steps of one replica, and all of them"
        assert max(group.kept.computed.by_agent.values()) == 1, "a duplicate fragment made a step run again"
        if len(plan.turns) > 1:
            assert len({group.ended[request].replica for request in requests}) == len(plan.turns), "all take part"
        for agent in group.agents.values():
            assert not any(held.exchange for held in agent.state.epochs), "an ended request still holds memory"
            assert len(agent.state.ready) == 0
    if NETWORKS[name].units:
        assert min(kinds.values()) > 5, f"the plans would show little: {kinds}"


def test_a_plan_for_agents_that_are_not_there_is_refused() -> None:
    network = NETWORKS["chain"]
    group = Group(network, make_plan=lambda network, speeds: balanced(network, {"nobody": 1.0}))
    group.start("ant")
    with pytest.raises(AgentError, match="nobody"):
        group.run_until("serving")


def test_a_model_is_fetched_in_chunks_then_each_link_is_probed_and_one_agent_profiled() -> None:
    group = Group(NETWORKS["residual"], line=Line(duplicates=0.3), least_agents=2)
    assert len(group.content) > CHUNK, "one chunk would show nothing"
    group.start("ant", Behaviour(holds_model=False))
    group.start("bee", Behaviour(holds_model=False))
    group.run_until("serving")
    assert sorted(group.said.commands[:2]) == [("ant", "fetch"), ("bee", "fetch")]
    assert group.said.commands[2:4] == [("ant", "probe"), ("bee", "probe")]
    measuring = {(name, operation) for name, operation in group.said.commands[4:] if operation != "release"}
    assert measuring == {("ant", "profile")}, "they are of one class of board"
    profiling = [detail for phase, detail in group.said.phases if phase == "profiling"]
    assert "ant" in profiling
    assert "bee" in profiling
    request = group.ask()
    group.run(10)
    group.check_answer(request)


def test_requests_wait_for_the_group_and_the_queue_is_bounded() -> None:
    group = Group(NETWORKS["chain"], least_agents=2)
    requests = [group.ask() for _ in range(QUEUE + 3)]
    assert [r for r in requests if r in group.ended] == requests[QUEUE:]
    assert {group.ended[r].error for r in requests[QUEUE:]} == {"busy"}
    group.start("ant")
    group.run(5)
    assert group.state.phase == "gathering"
    assert len(group.ended) == 3
    group.start("bee")
    group.run_until("serving")
    group.run(30)
    assert group.requests.most_under_way == WINDOW
    for request in requests[:QUEUE]:
        group.check_answer(request)


def test_requests_before_the_first_plan_end_by_their_deadline() -> None:
    group = Group(NETWORKS["chain"], least_agents=2)
    request = group.ask()
    group.run(REQUEST_TIMEOUT - 1)
    assert request not in group.ended
    group.run(2)
    assert group.ended[request].error == "deadline"


def test_when_all_agents_leave_what_waits_ends_at_once() -> None:
    group = Group(NETWORKS["chain"])
    group.start("ant")
    group.run_until("serving")
    requests = [group.ask() for _ in range(WINDOW + 2)]
    group.agents["ant"].leave()
    group.run(0.2)
    assert [group.ended[r].error for r in requests] == ["no-agents"] * (WINDOW + 2)
    late = group.ask()
    assert group.ended[late].error == "no-agents"
    group.start("ant")
    group.run_until("serving")
    request = group.ask()
    group.run(5)
    group.check_answer(request)


def test_what_an_agent_that_leaves_had_under_way_is_done_by_the_others() -> None:
    group = Group(NETWORKS["residual"], least_agents=3)
    for name in NAMES[:3]:
        group.start(name)
    group.run_until("serving")
    epoch = group.state.epoch
    requests = [group.ask() for _ in range(WINDOW + 3)]
    group.agents["bee"].kill(will_after=0.001)
    group.run(20)
    for request in requests:
        group.check_answer(request)
    assert {group.ended[r].attempts for r in requests[:WINDOW]} == {2}
    assert group.state.epoch > epoch
    assert group.state.plan is not None
    assert "bee" not in group.state.plan.agents


def test_an_agent_joins_while_requests_are_under_way() -> None:
    group = Group(NETWORKS["residual"])
    group.start("ant")
    group.run_until("serving")
    requests = [group.ask() for _ in range(20)]
    group.start("bee", Behaviour(speed=2.0))
    group.run(30)
    for request in requests:
        group.check_answer(request)
    assert group.state.plan is not None
    assert set(group.state.plan.agents) == {"ant", "bee"}


def test_a_late_will_of_an_old_session_changes_nothing() -> None:
    group = Group(NETWORKS["residual"], least_agents=2)
    group.start("ant")
    group.start("bee")
    group.run_until("serving")
    group.agents["bee"].kill(will_after=8.0)
    group.start("bee")
    group.run(7)
    assert group.state.phase == "serving"
    epoch, requests = group.state.epoch, [group.ask() for _ in range(40)]
    group.run(2.0)
    assert group.state.epoch == epoch
    assert group.state.agents["bee"].online
    group.run(30)
    for request in requests[: WINDOW + QUEUE]:
        group.check_answer(request)


@pytest.mark.parametrize("fault", ["profile_hangs", "load_hangs", "load_fails", "wrong_model"])
def test_an_agent_that_cannot_do_its_work_is_left_out_until_a_new_session(fault: str) -> None:
    group = Group(NETWORKS["residual"])
    group.start("ant")
    group.run_until("serving")
    behaviour = Behaviour(holds_model=fault != "wrong_model", **{fault: True})
    group.start("bee", behaviour)
    group.run(WORK_TIMEOUT + 30)
    assert group.state.agents["bee"].excluded or group.state.agents["bee"].suspected
    assert group.state.phase == "serving"
    request = group.ask()
    group.run(5)
    group.check_answer(request)
    setattr(behaviour, fault, False)
    group.agents["bee"].kill(will_after=0.1)
    group.start("bee")
    group.run(20)
    assert group.state.members() == ["ant", "bee"]
    assert group.state.plan is not None
    assert set(group.state.plan.agents) == {"ant", "bee"}


def test_others_are_served_while_a_new_agent_is_profiled() -> None:
    group = Group(NETWORKS["residual"])
    group.start("ant")
    group.run_until("serving")
    group.start("bee", Behaviour(profile_hangs=True))
    group.run(2)
    request = group.ask()
    group.run(5)
    group.check_answer(request)


def test_an_agent_whose_tiles_fail_is_left_out_and_named() -> None:
    group = Group(NETWORKS["residual"], seed=3, least_agents=2)
    group.start("ant")
    bee = group.start("bee", Behaviour(failing_tiles=1.0))
    group.run_until("serving")
    failed = group.ask()
    group.run(5)
    group.check_answer(failed)
    assert group.ended[failed].attempts == 3
    assert "bee left out: the tile burns" in group.state.detail
    bee.behaviour.failing_tiles = 0.0
    request = group.ask()
    group.run(5)
    group.check_answer(request)


def test_an_agent_that_loses_its_link_while_profiling_is_told_again() -> None:
    group = Group(NETWORKS["residual"])
    bee = group.start("bee", Behaviour(holds_model=False))
    bee.break_link(will_after=0.0)  # before the command can come
    group.run(WORK_TIMEOUT + 60)
    bee.mend_link()
    group.run_until("serving")
    assert not group.state.agents["bee"].excluded


@pytest.mark.parametrize("part", range(4))
def test_random_joins_and_leaves(part: int) -> None:
    """Whatever happens, each request ends once and rightly, and the group serves again when the faults are over."""
    for seed in range(part * SEEDS // 4, (part + 1) * SEEDS // 4):
        _random_run(seed)


def _random_run(seed: int) -> None:
    group = Group(
        NETWORKS[sorted(NETWORKS)[seed % 5]],
        seed=seed,
        line=Line(duplicates=0.2 * (seed % 2)),
        make_plan=at_least(seed % 3),
    )
    draw = group.agenda.random
    for name in NAMES:
        group.start(name, Behaviour(speed=draw.uniform(0.3, 4.0), holds_model=draw.random() < 0.7))
    for _ in range(25):
        group.run(draw.expovariate(1.0))
        agent = group.agents[draw.choice(NAMES)]
        match draw.choice(("ask", "ask", "ask", "ask", "kill", "leave", "restart", "blink", "start", "tile")):
            case "ask":
                for _ in range(draw.randrange(1, 6)):
                    group.ask()
            case "kill":
                agent.kill(draw.uniform(0.0, 5.0))
            case "leave":
                agent.leave()
            case "restart":
                agent.kill(draw.uniform(0.0, 10.0))
                group.start(agent.name)
            case "blink" if agent.alive:
                away = draw.uniform(0.0, 3.0)
                agent.break_link(draw.uniform(0.0, away))
                group.agenda.at(away + 0.001, agent.mend_link)
            case "start" if not agent.alive:
                group.start(agent.name)
            case "tile":
                agent.behaviour.failing_tiles = draw.choice((0.0, 0.1))
    _check_recovery(group, seed)


def _check_recovery(group: Group, seed: int) -> None:
    for name, agent in group.agents.items():
        agent.behaviour.failing_tiles = 0.0
        if not agent.alive:
            group.start(name)
    group.run(11)  # every will has come
    group.run_until("serving", limit=REQUEST_TIMEOUT + 30)
    burnt = [name for name, record in group.state.agents.items() if record.excluded == "the tile burns"]
    assert sorted([*group.state.members(), *burnt]) == sorted(NAMES), f"seed {seed}: {group.state.agents}"
    requests = [group.ask() for _ in range(3)]
    for _ in range(int(REQUEST_TIMEOUT) // 5 + 2):
        if set(group.ended) != set(group.requests.asked):
            group.run(5)
    assert set(group.ended) == set(group.requests.asked), f"seed {seed}: a request never ended"
    for request in group.requests.asked:
        if request in requests or not group.ended[request].error:
            group.check_answer(request)


def _rows_of(group: Group, agent: str) -> int:
    assert group.state.plan is not None
    return sum(
        len(tile.region.rows) for block in group.state.plan.blocks for tile in block.tiles if tile.agent == agent
    )


def test_a_device_that_becomes_slower_for_good_gets_less_to_do_and_the_group_does_not_flap() -> None:
    group = Group(NETWORKS["chain"], least_agents=2, make_plan=at_least(2))
    group.start("ant")
    bee = group.start("bee")
    group.run_until("serving")
    epoch, before = group.state.epoch, _rows_of(group, "bee")

    def serve(seconds: int) -> None:
        for _ in range(2 * seconds):
            group.ask()
            group.run(0.5)

    serve(60)
    assert group.state.epoch == epoch, "nothing has changed"
    bee.behaviour.speed /= 5
    serve(90)
    assert 0 <= _rows_of(group, "bee") < before
    assert group.state.agents["bee"].slowdown == pytest.approx(5.0, rel=0.2)
    assert group.state.agents["ant"].slowdown == 1.0
    assert group.state.agents["bee"].changes == 1
    assert all(not ended.error for ended in group.ended.values())
    assert not any("of late" in board for board in group.state.shared.samples.boards), "that is not kept"
