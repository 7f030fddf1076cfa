"""Machines of several models side by side: no number is used twice, and no two campaigns measure at the same time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from legion_iot.planning.links import Link
from legion_iot.planning.planners.balanced import balanced
from legion_iot.runtime import orchestrator as machine
from legion_iot.runtime.selection import INTERIM_AFTER
from legion_iot.runtime.shared import Shared
from legion_iot.runtime.withdrawal import withdraw
from legion_iot.wire.messages import AgentInfo, AgentState, Measured, ModelReference, Profile, Ready
from tests.runtime.networks import NETWORKS

FIRST, SECOND = (ModelReference(name, digit * 64, 1000) for name, digit in (("first", "a"), ("second", "b")))
INFO = AgentInfo("board", 4, 1, 1 << 30, "runtime", "1", "xnnpack", "1", (FIRST.sha256, SECOND.sha256))
LINK = Link(0.001, 1e7, 1e7)


class Pair:
    """Two machines that hear the same agents, at one time."""

    def __init__(self) -> None:
        shared = Shared(100)
        self.machines = [machine.State(NETWORKS["chain"], model, shared=shared) for model in (FIRST, SECOND)]
        self.effects: list[list[machine.Effect]] = [[], []]
        self.now = 50.0

    def tell(self, *events: machine.Event, only: int | None = None) -> None:
        for event in events:
            for number, state in enumerate(self.machines):
                if only in (None, number):
                    self.effects[number] += machine.step(state, event, self.now)

    def taken(self, number: int) -> list[machine.Effect]:
        effects, self.effects[number] = self.effects[number], []
        return effects

    def answer(self, number: int) -> None:
        """Let a machine's consultation of the planner end with a plan."""
        (consult,) = [effect for effect in self.taken(number) if isinstance(effect, machine.Consult)]
        plan = balanced(self.machines[number].network, dict.fromkeys(consult.problem.group.names, 1.0))
        self.tell(machine.PlannerAnswered(consult.number, plan))


def commands(effects: list[machine.Effect]) -> list[tuple[str, int]]:
    told = [effect.command for effect in effects if isinstance(effect, machine.SendCommand)]
    own = [("probe", effect.number) for effect in effects if isinstance(effect, machine.ProbeOwnLink)]
    return own + [(command.operation, command.number) for command in told]


def test_the_second_model_is_planned_after_the_first_and_measures_no_link_again() -> None:
    pair = Pair()
    first, second = pair.machines
    pair.tell(machine.AgentInfoArrived("ant", INFO), machine.AgentStateArrived("ant", AgentState("online", "s1")))
    ((_, own),) = commands(pair.taken(0))
    assert (first.phase, second.phase) == ("profiling", "profiling")
    assert pair.taken(1)[-1] == machine.PublishState("profiling", "another model is measured first")
    pair.tell(machine.OwnLinkProbed(own, LINK))
    ((operation, number),) = commands(pair.taken(0))
    assert operation == "probe"
    pair.tell(
        machine.ProfileArrived("ant", Profile(INFO.board_class, LINK, ())),
        machine.ReportArrived("ant", Measured(number, (), LINK)),
    )
    assert pair.taken(1) == []
    pair.answer(0)
    pair.answer(1)  # at once a consultation: both links are known
    epochs = [state.epoch for state in pair.machines]
    assert len(set(epochs)) == 2
    for number, epoch in enumerate(epochs):
        pair.tell(machine.ReportArrived("ant", Ready(epoch)), only=number)
    assert (first.phase, second.phase) == ("serving", "serving")


def test_requests_for_a_model_that_waits_run_by_known_speeds() -> None:
    pair = Pair()
    pair.tell(machine.AgentInfoArrived("ant", INFO), machine.AgentStateArrived("ant", AgentState("online", "s1")))
    _, second = pair.machines
    shape = second.network.graph.tensors[second.network.graph.inputs[0]].shape
    pair.tell(machine.RequestArrived("one", (np.zeros(shape, np.float32),)), only=1)
    pair.now += INTERIM_AFTER
    pair.tell(machine.Tick())
    assert [e.agent for e in pair.taken(1) if isinstance(e, machine.Assign)] == ["ant"]
    pair.tell(machine.ReportArrived("ant", Ready(second.epoch)), only=1)
    assert list(second.requests.under_way) == ["one"]
    assert second.shared.under_way == 1


def test_a_campaign_that_is_given_up_passes_the_turn_on() -> None:
    pair = Pair()
    pair.tell(machine.AgentInfoArrived("ant", INFO), machine.AgentStateArrived("ant", AgentState("online", "s1")))
    pair.tell(machine.AgentStateArrived("ant", AgentState("offline", "s1")))
    pair.taken(1)
    pair.tell(machine.AgentStateArrived("ant", AgentState("online", "s1")), only=1)
    assert commands(pair.taken(1)) != []
    pair.tell(machine.AgentStateArrived("ant", AgentState("online", "s1")), only=0)
    assert [state.selection.campaign is not None for state in pair.machines] == [False, True]


def test_an_agent_fetches_one_model_after_the_other() -> None:
    pair = Pair()
    bare = replace(INFO, models=())
    pair.tell(machine.AgentInfoArrived("ant", bare), machine.AgentStateArrived("ant", AgentState("online", "s1")))
    pair.tell(machine.Tick())
    assert [operation for operation, _ in commands(pair.taken(0))] == ["fetch"]
    assert commands(pair.taken(1)) == []
    pair.tell(machine.AgentInfoArrived("ant", replace(INFO, models=(FIRST.sha256,))))
    assert [operation for operation, _ in commands(pair.taken(1))] == ["fetch"]
    # What it was told is lost with it.
    pair.tell(machine.AgentStateArrived("ant", AgentState("offline", "s1")))
    pair.tell(machine.AgentStateArrived("ant", AgentState("online", "s2")))
    assert [operation for operation, _ in commands(pair.taken(1))] == ["fetch"]


def test_a_model_that_is_withdrawn_ends_its_requests_and_lets_others_measure() -> None:
    pair = Pair()
    pair.tell(machine.AgentInfoArrived("ant", INFO), machine.AgentStateArrived("ant", AgentState("online", "s1")))
    first, second = pair.machines
    shape = first.network.graph.tensors[first.network.graph.inputs[0]].shape
    pair.tell(machine.RequestArrived("one", (np.zeros(shape, np.float32),)), only=0)
    effects = withdraw(first, pair.now)
    assert [(e.request, e.error) for e in effects if isinstance(e, machine.RequestEnded)] == [("one", "no-model")]
    (release,) = [e for e in effects if isinstance(e, machine.SendCommand)]
    assert (release.agent, release.command.operation, release.command.model) == ("ant", "release", FIRST)
    assert release.command.epoch > first.epoch
    pair.tell(machine.Tick(), only=1)
    assert second.selection.campaign is not None
