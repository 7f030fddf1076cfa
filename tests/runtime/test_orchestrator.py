"""Single rules of the orchestrator's machine, where the order of events matters and a group would rarely show it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.planning.links import Link
from legion_iot.planning.planners.balanced import balanced
from legion_iot.planning.samples import Sample
from legion_iot.runtime import failover
from legion_iot.runtime import orchestrator as machine
from legion_iot.runtime.epochs import TIMINGS
from legion_iot.runtime.exchange import TensorForm, tensor_forms
from legion_iot.runtime.progress import FACTOR
from legion_iot.runtime.requests import REQUEST_TIMEOUT
from legion_iot.runtime.shared import Shared
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Failed,
    Fragment,
    Measured,
    Metrics,
    ModelReference,
    Profile,
    Ready,
    TileTiming,
)
from legion_iot.wire.tensors import bounds
from tests.runtime.networks import NETWORKS

MODEL = ModelReference("small", "ab" * 32, 1000)
INFO = AgentInfo("board", 4, 1, 1 << 30, "runtime", "1", "xnnpack", "1", (MODEL.sha256,))
LINK = Link(0.001, 1e7, 1e7)
PROFILE = Profile(INFO.board_class, LINK, ())
START = 50.0
METRICS = Metrics("s1", 1.0, 0.5, None, False, 1, 2, 0, 0.0, 0, 0, 0)


def tell(state: machine.State, *events: machine.Event, now: float = START) -> list[machine.Effect]:
    """The effects of some events, and of what a planner says that gives all devices the same."""
    effects = [effect for event in events for effect in machine.step(state, event, now)]
    for consult in [effect for effect in effects if isinstance(effect, machine.Consult)]:
        plan = balanced(state.network, dict.fromkeys(consult.problem.group.names, 1.0))
        effects += tell(state, machine.PlannerAnswered(consult.number, plan), now=now)
    return effects


def online(name: str, session: str = "s1") -> tuple[machine.Event, ...]:
    return (
        machine.AgentInfoArrived(name, INFO),
        machine.ProfileArrived(name, PROFILE),
        machine.AgentStateArrived(name, AgentState("online", session)),
    )


def ready(state: machine.State, *names: str) -> list[machine.Effect]:
    return tell(state, *(machine.ReportArrived(name, Ready(state.epoch)) for name in names))


def new_state(network: str | Network = "chain", least_agents: int = 1) -> machine.State:
    """An orchestrator that knows its own link."""
    known = NETWORKS[network] if isinstance(network, str) else network
    state = machine.State(known, MODEL, least_agents=least_agents, shared=Shared(100))
    state.shared.own_link = LINK
    return state


def serving(*names: str) -> machine.State:
    state = new_state(least_agents=len(names))
    for name in names:
        tell(state, *online(name))
    ready(state, *names)
    assert state.phase == "serving"
    return state


def request(state: machine.State, name: str) -> machine.RequestArrived:
    shape = state.network.graph.tensors[state.network.graph.inputs[0]].shape
    return machine.RequestArrived(name, (np.zeros(shape, np.float32),))


def ends(effects: list[machine.Effect]) -> list[tuple[str, str]]:
    return [(e.request, e.error) for e in effects if isinstance(e, machine.RequestEnded)]


def test_an_old_epoch_that_is_ready_does_not_end_the_deadline_of_the_new_one() -> None:
    """A restarted agent loads the retained assignment first, and hangs on the new one."""
    state = serving("ant", "bee")
    tell(state, machine.AgentStateArrived("bee", AgentState("online", "s2")))
    assert state.phase == "assigning"
    ready(state, "ant")
    tell(state, machine.ReportArrived("bee", Ready(state.epoch - 1)))
    assert state.phase == "assigning"
    tell(state, machine.Tick(), now=START + machine.WORK_TIMEOUT + 1)
    assert "load" in state.agents["bee"].excluded
    assert state.members() == ["ant"]


def test_a_load_that_failed_for_an_old_epoch_leaves_nobody_out() -> None:
    state = serving("ant", "bee")
    tell(state, machine.ReportArrived("bee", Failed(state.epoch - 1, "", "no memory")))
    assert state.phase == "serving"
    tell(state, machine.ReportArrived("bee", Failed(state.epoch, "", "no memory")))
    assert state.members() == ["ant"]
    ready(state, "ant")
    assert state.plan is not None
    assert state.plan.agents == ("ant",)


def test_an_agent_that_lacks_the_model_all_of_a_sudden_goes_on_with_the_plan_before() -> None:
    """Its disk has lost the file, not its memory what it had loaded: it is told that it has no part in the next."""
    state = serving("ant", "bee")
    tell(state, request(state, "r"))
    before = state.epochs.force
    effects = tell(state, machine.AgentInfoArrived("bee", replace(INFO, models=())))
    told = {effect.agent: effect.assignment for effect in effects if isinstance(effect, machine.Assign)}
    assert told["ant"].steps
    assert not told["bee"].steps
    assert not [effect for effect in effects if isinstance(effect, machine.ClearAssignment)]
    assert state.requests.under_way["r"].epoch is before


def test_agents_are_told_which_plan_is_in_force_beside_the_one_to_come() -> None:
    """A plan that some have loaded already is replaced by another one; what requests run by must not go for it."""
    state = serving("ant", "bee", "cat")
    tell(state, request(state, "r"))
    force = state.epochs.force
    assert force is not None
    for name in ("cat", "bee"):
        effects = tell(state, machine.AgentInfoArrived(name, replace(INFO, models=())))
        told = [effect.assignment for effect in effects if isinstance(effect, machine.Assign)]
        assert {assignment.beside for assignment in told} == {force.number}
        ready(state, "bee")
    assert state.requests.under_way["r"].epoch is force


def test_a_command_lost_with_the_link_is_given_again() -> None:
    state = new_state()
    fresh = (
        machine.AgentInfoArrived("ant", INFO),
        machine.AgentStateArrived("ant", AgentState("online", "s1")),
    )
    (command,) = (e for e in tell(state, *fresh) if isinstance(e, machine.SendCommand))
    assert command.command.operation == "probe"
    tell(state, machine.AgentStateArrived("ant", AgentState("offline", "s1")))
    back = tell(
        state, machine.AgentStateArrived("ant", AgentState("online", "s1")), now=START + machine.WORK_TIMEOUT + 9
    )
    assert [e.command.operation for e in back if isinstance(e, machine.SendCommand)] == ["probe"]
    tell(state, machine.Tick(), now=START + machine.WORK_TIMEOUT + 10)
    assert not state.agents["ant"].excluded


@pytest.mark.parametrize("link", [Link(0.0, 1e300, 1.0), Link(1e300, -5.0, 0.0)])
def test_a_link_that_cannot_be_is_bounded_and_its_agent_named(link: Link) -> None:
    state = new_state()
    effects = tell(
        state, machine.AgentInfoArrived("bee", INFO), machine.AgentStateArrived("bee", AgentState("online", "s"))
    )
    (probe,) = (e for e in effects if isinstance(e, machine.SendCommand))
    tell(state, machine.ReportArrived("bee", Measured(probe.command.number, (), link)))
    ready(state, "bee")
    assert state.phase == "serving"
    assert "bee reported a link that cannot be" in state.detail


def test_a_profile_that_cannot_be_is_bounded_too() -> None:
    state = new_state()
    profile = Profile(INFO.board_class, Link(-1.0, 1e300, 0.0), (Sample(INFO.board_class, ("a",), (1.0,), 1e300),))
    tell(
        state,
        machine.AgentInfoArrived("bee", INFO),
        machine.ProfileArrived("bee", profile),
        machine.AgentStateArrived("bee", AgentState("online", "s")),
    )
    ready(state, "bee")
    assert "bee reported" in state.detail
    assert all(sample.seconds < 1e4 for sample in state.shared.samples)


def test_samples_for_another_class_of_board_count_for_nothing() -> None:
    state = serving("ant")
    profile = Profile(INFO.board_class, LINK, (Sample("another", ("a",), (1.0,), 0.5),))
    tell(state, machine.ProfileArrived("ant", profile))
    assert len(state.shared.samples) == 0


def test_measurements_that_cannot_be_read_name_their_agent() -> None:
    state = serving("ant")
    tell(state, machine.ReportRefused("ant", "noise"))
    assert state.members() == ["ant"], "nobody has asked for any"
    tell(state, machine.AgentInfoArrived("bee", INFO), machine.AgentStateArrived("bee", AgentState("online", "s")))
    tell(state, machine.ReportRefused("bee", "its measurements cannot be read"))
    assert state.agents["bee"].excluded == "its measurements cannot be read"
    ready(state, "ant")
    assert "bee left out: its measurements cannot be read" in state.detail


def test_a_request_that_is_never_answered_ends_by_its_deadline_and_frees_its_memory() -> None:
    state = serving("ant")
    assert ends(tell(state, request(state, "r"))) == []
    graph = state.network.graph
    form = tensor_forms(state.network)[graph.outputs[0]]
    part = _fragment(state, "r", form, rows=1)
    tell(state, part)
    assert state.epochs.force is not None
    exchange = state.epochs.force.exchange
    assert len(exchange) == 1
    assert ends(tell(state, machine.Tick(), now=START + REQUEST_TIMEOUT - 1)) == []
    assert ends(tell(state, machine.Tick(), now=START + REQUEST_TIMEOUT + 1)) == [("r", "deadline")]
    assert len(exchange) == 0
    assert ends(tell(state, part)) == []
    assert len(exchange) == 0


@pytest.mark.parametrize("waits", [True, False])
def test_a_request_ends_when_its_sender_waits_no_longer(waits: bool) -> None:
    state = new_state() if waits else serving("ant")
    assert ends(tell(state, request(state, "long"), replace(request(state, "short"), seconds=5.0))) == []
    assert ends(tell(state, machine.Tick(), now=START + 4.9)) == []
    assert ends(tell(state, machine.Tick(), now=START + 5.1)) == [("short", "deadline")]
    assert ends(tell(state, machine.Tick(), now=START + REQUEST_TIMEOUT + 1)) == [("long", "deadline")]


def _fragment(state: machine.State, name: str, form: TensorForm, rows: int) -> machine.FragmentArrived:
    """The first rows of the answer, from the agent that makes them."""
    tensor = state.network.graph.outputs[0]
    width = state.network.graph.tensors[tensor].shape[2]
    assert state.routing is not None
    header = Fragment(
        name, 1, state.epoch, state.routing.answers[0].step, tensor, (0, rows, 0, width), form.channels, form.dtype
    )
    return machine.FragmentArrived("ant", header, memoryview(bytes(rows * width * form.channels * 4)))


def test_fragments_of_unknown_requests_and_foreign_agents_are_counted_and_dropped() -> None:
    state = serving("ant")
    form = tensor_forms(state.network)[state.network.graph.outputs[0]]
    tell(state, _fragment(state, "never asked", form, rows=1))
    assert state.dropped == 1
    tell(state, request(state, "r"))
    stranger = _fragment(state, "r", form, rows=1)
    tell(state, machine.FragmentArrived("bee", stranger.header, stranger.body))
    assert state.dropped == 2
    assert list(state.requests.under_way) == ["r"]


def test_one_link_is_probed_at_a_time() -> None:
    state = new_state(least_agents=3)
    effects = []
    for name in ("ant", "bee", "cat"):
        effects += tell(
            state, machine.AgentInfoArrived(name, INFO), machine.AgentStateArrived(name, AgentState("online", "s"))
        )
    (command,) = (e for e in effects if isinstance(e, machine.SendCommand))
    assert (command.agent, command.command.operation) == ("ant", "probe")
    after = tell(state, machine.ReportArrived("ant", Measured(command.command.number, (), LINK)))
    assert [e.agent for e in after if isinstance(e, machine.SendCommand)] == ["bee"]


def test_timings_of_old_epochs_are_dropped_and_those_kept_are_bounded() -> None:
    state = serving("ant")
    tell(state, machine.ReportArrived("ant", TileTiming(state.epoch - 1, "r", 0, 1.0, 0)))
    assert not state.timings
    for number in range(TIMINGS + 50):
        tell(state, machine.ReportArrived("ant", TileTiming(state.epoch, f"r{number}", 0, 1.0, 0)))
    assert len(state.timings[0, "ant"]) == TIMINGS


def of(effects: list[machine.Effect], kind: type[machine.Assign] | type[machine.ClearAssignment]) -> list[str]:
    return sorted(effect.agent for effect in effects if isinstance(effect, kind))


def begun(effects: list[machine.Effect]) -> set[tuple[str, int, int]]:
    """Request, attempt and epoch of what is sent."""
    sent = [effect.header for effect in effects if isinstance(effect, machine.SendRegion)]
    return {(header.request, header.attempt, header.epoch) for header in sent}


def released(effects: list[machine.Effect]) -> list[tuple[str, int]]:
    commands = [e for e in effects if isinstance(e, machine.SendCommand) and e.command.operation == "release"]
    return sorted((each.agent, each.command.epoch) for each in commands)


def answer(state: machine.State, name: str, epoch: int) -> list[machine.Effect]:
    """The whole output, from the agents that make it."""
    tensor = state.network.graph.outputs[0]
    channels = state.network.graph.tensors[tensor].shape[3]
    found = state.requests.under_way[name].epoch
    assert found is not None
    effects = []
    for part in [t for t in found.routing.transfers if t.target == "orchestrator"]:
        header = Fragment(name, 1, epoch, part.step, tensor, bounds(part.region), channels, "float32")
        body = memoryview(bytes(part.region.area * channels * 4))
        effects += tell(state, machine.FragmentArrived(part.source, header, body))
    return effects


def test_a_new_plan_is_loaded_beside_the_one_in_force() -> None:
    state = serving("ant")
    old = state.epoch
    assert begun(tell(state, request(state, "first"))) == {("first", 1, old)}
    assert of(tell(state, *online("bee")), machine.Assign) == ["ant", "bee"]
    new = state.epoch
    assert begun(tell(state, request(state, "second"))) == {("second", 1, old)}, "the new one is not ready"
    assert released(ready(state, "ant", "bee")) == [], "requests run by the old one"
    assert begun(tell(state, request(state, "third"))) == {("third", 1, new)}
    assert ends(answer(state, "first", old)) == [("first", "")]
    effects = answer(state, "second", old)
    assert ends(effects) == [("second", "")]
    assert released(effects) == [("ant", new), ("bee", new)]


def test_a_plan_that_has_no_room_beside_the_old_one_is_loaded_alone_when_requests_have_ended() -> None:
    state = serving("ant")
    old = state.epoch
    tell(state, machine.AgentInfoArrived("ant", replace(INFO, memory_bytes=1)))
    tell(state, request(state, "first"))
    assert of(tell(state, *online("bee")), machine.Assign) == []
    assert begun(tell(state, request(state, "second"))) == set(), "it would come in between for ever"
    effects = answer(state, "first", old)
    assert {e.assignment.alone for e in effects if isinstance(e, machine.Assign)} == {True}
    assert begun(ready(state, "ant", "bee")) == {("second", 1, state.epoch)}


def test_what_cannot_be_loaded_beside_is_loaded_alone_and_only_then_left_out() -> None:
    state = serving("ant")
    tell(state, *online("bee"))
    assert of(tell(state, machine.ReportArrived("ant", Failed(state.epoch, "", "no memory"))), machine.Assign)
    assert state.members() == ["ant", "bee"]
    assert state.epochs.building is not None
    assert state.epochs.building.alone
    tell(state, machine.ReportArrived("ant", Failed(state.epoch, "", "no memory")))
    assert state.members() == ["bee"]


def test_a_plan_that_is_to_be_loaded_alone_is_none_any_more_without_one_of_its_agents() -> None:
    state = serving("ant")
    tell(state, request(state, "r"))
    tell(state, *online("bee"))
    assert of(tell(state, machine.ReportArrived("ant", Failed(state.epoch, "", "no memory"))), machine.Assign) == []
    assert state.alone is not None
    tell(state, machine.AgentStateArrived("bee", AgentState("offline", "s1")))
    assert state.alone is None
    assert state.plan is not None
    assert state.plan.agents == ("ant",)


def failed(state: machine.State, agent: str, attempt: int, **how: Any) -> list[machine.Effect]:
    return tell(state, machine.ReportArrived(agent, Failed(state.epoch, "r", "burns", attempt=attempt, **how)))


def test_a_failed_tile_is_tried_again_and_then_without_its_agent() -> None:
    state = serving("ant", "bee")
    epoch = state.epoch
    tell(state, request(state, "r"))
    assert begun(failed(state, "bee", 1)) == {("r", 2, epoch)}
    assert failed(state, "bee", 1) == [], "that was of the attempt before"
    effects = failed(state, "bee", 2)
    assert state.agents["bee"].excluded == "burns"
    assert (of(effects, machine.Assign), of(effects, machine.ClearAssignment)) == (["ant"], ["bee"])
    assert begun(ready(state, "ant")) == {("r", 3, epoch + 1)}


def test_a_request_that_fails_wherever_it_runs_ends_and_nobody_is_left_out() -> None:
    state = serving("ant", "bee")
    tell(state, request(state, "r"))
    failed(state, "bee", 1)
    failed(state, "bee", 2)
    ready(state, "ant")
    assert ends(failed(state, "ant", 3)) == [("r", "tile-failed")]
    assert state.members() == ["ant", "bee"]


def test_nan_from_one_agent_is_its_fault_and_from_several_the_models() -> None:
    state = serving("ant", "bee")
    tell(state, request(state, "r"))
    failed(state, "ant", 1, culprit="bee", nan=True)
    failed(state, "ant", 2, culprit="bee", nan=True)
    assert state.agents["bee"].excluded
    ready(state, "ant")
    effects = failed(state, "ant", 3, culprit="ant", nan=True)
    assert ends(effects) == []
    assert state.nan_allowed
    assert state.members() == ["ant", "bee"]
    ready(state, "ant", "bee")
    assert state.requests.under_way["r"].attempt == 4
    assert state.epochs.force is not None
    assert state.epochs.force.exchange.nan_allowed


def test_the_last_agent_is_never_left_out_for_a_request() -> None:
    state = serving("ant")
    tell(state, request(state, "r"))
    failed(state, "ant", 1)
    assert ends(failed(state, "ant", 2)) == [("r", "tile-failed")]
    assert state.members() == ["ant"]


def test_the_last_agent_may_make_nan_for_who_could_tell_that_the_model_does_not() -> None:
    state = serving("ant")
    tell(state, request(state, "r"))
    failed(state, "ant", 1, nan=True)
    assert ends(failed(state, "ant", 2, nan=True)) == []
    ready(state, "ant")
    assert state.requests.under_way["r"].attempt == 3
    assert state.epochs.force is not None
    assert state.epochs.force.exchange.nan_allowed


def test_an_agent_that_fails_one_request_after_the_other_is_left_out() -> None:
    state = serving("ant", "bee")
    for _ in range(failover.STRIKES):
        assert not state.agents["bee"].excluded
        tell(state, request(state, "r"))
        failed(state, "bee", 1)
        for begun_again in list(state.requests.under_way.values()):
            state.requests.end(begun_again, START)
    assert state.agents["bee"].excluded


def test_who_is_silent_for_too_long_gets_no_work_until_it_is_heard_of_and_then_has_more_patience() -> None:
    state = serving("ant", "bee")
    epoch = state.epoch
    tell(state, machine.LinkFound(), now=START)
    tell(state, request(state, "r"))
    assert state.epochs.force is not None
    allowed = state.epochs.force.pace.allowed((0, "bee"))
    now = START
    while now < START + failover.GRACE + allowed + 1.0:
        now += 0.25
        tell(state, machine.ReportArrived("ant", TileTiming(epoch, "r", 0, 1.0, 0)), machine.Tick(), now=now)
    assert state.agents["bee"].suspected
    assert state.members() == ["ant"]
    assert begun(tell(state, machine.ReportArrived("ant", Ready(state.epoch)), now=now)) == {("r", 2, state.epoch)}
    tell(state, machine.MetricsArrived("bee", METRICS), now=now)
    assert state.members() == ["ant", "bee"]
    assert state.agents["bee"].patience == 2.0


def test_requests_that_wait_for_each_other_do_not_make_deadlines_longer() -> None:
    state = serving("ant")
    tell(state, *(request(state, f"r{number}") for number in range(4)))
    for number in range(4):  # a second for each, of which the last one has waited for four
        report = machine.ReportArrived("ant", TileTiming(state.epoch, f"r{number}", 0, 1.0, 0))
        tell(state, report, now=START + 1.0 + number)
    assert state.epochs.force is not None
    assert state.epochs.force.pace.allowed((0, "ant")) == pytest.approx(FACTOR)


@pytest.mark.parametrize("why", ["link", "pause", "all"])
def test_nobody_is_suspected_when_it_is_not_the_agents(why: str) -> None:
    state = serving("ant", "bee")
    tell(state, machine.LinkFound(), now=START)
    tell(state, request(state, "r"))
    now = START
    if why == "link":
        tell(state, machine.LinkLost(), now=now)
    for _ in range(200):
        now += 100.0 / 200 if why != "pause" else 0.0
        report = machine.ReportArrived("ant", TileTiming(state.epoch, "r", 0, 1.0, 0))
        tell(state, *([report] if why != "all" else []), machine.Tick(), now=now)
    if why == "pause":
        tell(state, machine.Tick(), now=now + 100.0)
    assert state.members() == ["ant", "bee"]
    assert list(state.requests.under_way) == ["r"]


def test_an_agent_that_drains_is_replaced_without_losing_an_attempt() -> None:
    state = serving("ant", "bee")
    old = state.epoch
    tell(state, request(state, "r"))
    effects = tell(state, machine.AgentStateArrived("bee", AgentState("draining", "s1")))
    assert of(effects, machine.Assign) == ["ant"]
    assert begun(ready(state, "ant")) == set()
    assert state.requests.under_way["r"].attempt == 1
    effects = answer(state, "r", old)
    assert ("bee", state.epoch) in released(effects)


def test_an_agent_says_it_is_online_again_and_nothing_changes() -> None:
    state = serving("ant", "bee")
    epoch = state.epoch
    assert tell(state, machine.AgentStateArrived("ant", AgentState("online", "s1"))) == []
    assert (state.epoch, state.phase) == (epoch, "serving")


def test_the_last_agent_that_drains_is_let_go_when_it_has_answered() -> None:
    state = serving("ant")
    old = state.epoch
    tell(state, request(state, "r"))
    assert released(tell(state, machine.AgentStateArrived("ant", AgentState("draining", "s1")))) == []
    effects = answer(state, "r", old)
    assert ends(effects) == [("r", "")]
    (freed,) = released(effects)
    assert freed[0] == "ant"
    assert freed[1] > old
    assert ends(tell(state, request(state, "late"))) == [("late", "no-agents")]


def test_an_input_that_is_an_output_needs_no_agent() -> None:
    net = GraphBuilder("through")
    x = net.input((1, 6, 5, 2))
    network = divide(net.finish(x, net.conv2d(x, 3, 3)))
    state = new_state(network)
    tell(state, *online("ant"))
    ready(state, "ant")
    effects = tell(state, request(state, "r"))
    assert ends(effects) == []
    assert [e.target for e in effects if isinstance(e, machine.SendRegion)] == ["ant"]


def test_a_restart_without_goodbye_ends_what_the_agent_had_under_way() -> None:
    state = serving("ant", "bee")
    tell(state, request(state, "r"))
    effects = tell(state, machine.AgentStateArrived("bee", AgentState("online", "s2")))
    assert ends(effects) == []
    assert {e.agent for e in effects if isinstance(e, machine.Assign)} == {"ant", "bee"}
    assert begun(ready(state, "ant", "bee")) == {("r", 2, state.epoch)}
