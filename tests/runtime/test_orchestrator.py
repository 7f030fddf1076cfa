"""Single rules of the orchestrator's machine, where the order of events matters and a group would rarely show it."""

from __future__ import annotations

import numpy as np
import pytest

from legion_iot.model.blocks import divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.runtime import orchestrator as machine
from legion_iot.runtime.exchange import TensorForm, tensor_forms
from legion_iot.runtime.requests import REQUEST_TIMEOUT
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Failed,
    Fragment,
    ModelReference,
    Profile,
    Ready,
    TileTiming,
)
from tests.runtime.networks import NETWORKS

MODEL = ModelReference("small", "ab" * 32, 1000)
INFO = AgentInfo("board", 4, 1, 1 << 30, "runtime", "1", "xnnpack", "1", (MODEL.sha256,))
PROFILE = Profile(MODEL.sha256, (0.1, 0.1, 0.1))
START = 50.0


def tell(state: machine.State, *events: machine.Event, now: float = START) -> list[machine.Effect]:
    return [effect for event in events for effect in machine.step(state, event, now)]


def online(name: str, session: str = "s1") -> tuple[machine.Event, ...]:
    return (
        machine.AgentInfoArrived(name, INFO),
        machine.ReportArrived(name, PROFILE),
        machine.AgentStateArrived(name, AgentState("online", session)),
    )


def ready(state: machine.State, *names: str) -> list[machine.Effect]:
    return tell(state, *(machine.ReportArrived(name, Ready(state.epoch)) for name in names))


def serving(*names: str) -> machine.State:
    state = machine.State(NETWORKS["chain"], MODEL, least_agents=len(names), epoch=100)
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
    assert state.plan is not None
    assert state.plan.agents == ("ant",)


def test_a_command_lost_with_the_link_is_given_again() -> None:
    state = machine.State(NETWORKS["chain"], MODEL)
    fresh = (
        machine.AgentInfoArrived("ant", INFO),
        machine.AgentStateArrived("ant", AgentState("online", "s1")),
    )
    (command,) = (e for e in tell(state, *fresh) if isinstance(e, machine.SendCommand))
    assert command.command.operation == "profile"
    tell(state, machine.AgentStateArrived("ant", AgentState("offline", "s1")))
    back = tell(
        state, machine.AgentStateArrived("ant", AgentState("online", "s1")), now=START + machine.WORK_TIMEOUT + 9
    )
    assert [e.command.operation for e in back if isinstance(e, machine.SendCommand)] == ["profile"]
    tell(state, machine.Tick(), now=START + machine.WORK_TIMEOUT + 10)
    assert not state.agents["ant"].excluded


@pytest.mark.parametrize("run", [5e-324, 1e-300, 1e300])
def test_impossible_profiles_are_not_believed(run: float) -> None:
    state = serving("ant")
    tell(state, machine.AgentInfoArrived("bee", INFO), machine.AgentStateArrived("bee", AgentState("online", "s")))
    tell(state, machine.ReportArrived("bee", Profile(MODEL.sha256, (run, run))))
    assert state.agents["bee"].profile is None
    tell(state, machine.Tick(), now=START + machine.WORK_TIMEOUT + 1)
    assert state.agents["bee"].excluded


def test_the_profile_of_another_model_counts_for_nothing() -> None:
    state = serving("ant")
    tell(state, machine.ReportArrived("ant", Profile("cd" * 32, (9.0,))))
    assert state.agents["ant"].profile == PROFILE


def test_a_request_that_is_never_answered_ends_by_its_deadline_and_frees_its_memory() -> None:
    state = serving("ant")
    assert ends(tell(state, request(state, "r"))) == []
    graph = state.network.graph
    form = tensor_forms(state.network)[graph.outputs[0]]
    part = _fragment(state, "r", form, rows=1)
    tell(state, part)
    assert state.requests.exchange is not None
    assert len(state.requests.exchange) == 1
    assert ends(tell(state, machine.Tick(), now=START + REQUEST_TIMEOUT - 1)) == []
    assert ends(tell(state, machine.Tick(), now=START + REQUEST_TIMEOUT + 1)) == [("r", "deadline")]
    assert len(state.requests.exchange) == 0
    assert ends(tell(state, part)) == []
    assert len(state.requests.exchange) == 0


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


def test_one_agent_profiles_at_a_time() -> None:
    state = machine.State(NETWORKS["chain"], MODEL, least_agents=3)
    effects = []
    for name in ("ant", "bee", "cat"):
        effects += tell(
            state, machine.AgentInfoArrived(name, INFO), machine.AgentStateArrived(name, AgentState("online", "s"))
        )
    order = [e.agent for e in effects if isinstance(e, machine.SendCommand)]
    assert order == ["ant"]
    after = tell(state, machine.ReportArrived("ant", PROFILE))
    assert [e.agent for e in after if isinstance(e, machine.SendCommand)] == ["bee"]


def test_timings_of_old_epochs_are_dropped_and_those_kept_are_bounded() -> None:
    state = serving("ant")
    tell(state, machine.ReportArrived("ant", TileTiming(state.epoch - 1, "r", 0, 1.0, 0)))
    assert not state.timings
    for number in range(machine.TIMINGS + 50):
        tell(state, machine.ReportArrived("ant", TileTiming(state.epoch, f"r{number}", 0, 1.0, 0)))
    assert len(state.timings[0, "ant"]) == machine.TIMINGS


def test_a_new_plan_waits_for_the_requests_under_way() -> None:
    state = serving("ant")
    epoch = state.epoch
    tell(state, request(state, "r"))
    assert not [e for e in tell(state, *online("bee")) if isinstance(e, machine.Assign)]
    assert state.epoch == epoch
    effects = tell(state, machine.ReportArrived("ant", Failed(epoch, "r", "burns")))
    assert ends(effects) == [("r", "tile-failed")]
    assert sorted(e.agent for e in effects if isinstance(e, machine.Assign)) == ["ant", "bee"]
    assert state.epoch == epoch + 1


def test_an_agent_says_it_is_online_again_and_nothing_changes() -> None:
    state = serving("ant", "bee")
    epoch = state.epoch
    assert tell(state, machine.AgentStateArrived("ant", AgentState("online", "s1"))) == []
    assert (state.epoch, state.phase) == (epoch, "serving")


def test_an_input_that_is_an_output_needs_no_agent() -> None:
    net = GraphBuilder("through")
    x = net.input((1, 6, 5, 2))
    network = divide(net.finish(x, net.conv2d(x, 3, 3)))
    state = machine.State(network, MODEL)
    tell(state, *online("ant"))
    ready(state, "ant")
    effects = tell(state, request(state, "r"))
    assert ends(effects) == []
    assert [e.target for e in effects if isinstance(e, machine.SendRegion)] == ["ant"]


def test_a_restart_without_goodbye_ends_what_the_agent_had_under_way() -> None:
    state = serving("ant", "bee")
    tell(state, request(state, "r"))
    effects = tell(state, machine.AgentStateArrived("bee", AgentState("online", "s2")))
    assert ends(effects) == [("r", "agent-lost")]
    assert sorted(e.agent for e in effects if isinstance(e, machine.Assign)) == ["ant", "bee"]
