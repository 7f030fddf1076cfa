"""Several models side by side: what concerns one of them is not heard by the others."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from legion_iot.orchestrator.models import IDLE, ServedModels
from legion_iot.orchestrator.options import ModelFile, OrchestratorOptions
from legion_iot.orchestrator.serving import ServedModel, load
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners.balanced import balanced
from legion_iot.planning.problem import Problem
from legion_iot.runtime import orchestrator as machine
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.memory import MemoryBroker, MemoryConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import AgentInfo, AgentState, Assignment, Failed, Fragment, Profile, Ready
from legion_iot.wire.topics import AssignmentTopic, Topics
from tests.orchestrator.surroundings import surroundings
from tests.system.networks import picture_to_picture, residual_classifier

TOPICS = Topics("kitchen")
LINK = Link(0.001, 1e7, 1e7)
PATIENCE = 20.0  # seconds; bounds a failing test, a passing one never waits for it


def at_once(problem: Problem) -> Generator[Any, Any, Plan]:
    """A planner that measures nothing and gives every device the same."""
    yield from ()
    return balanced(problem.network, dict.fromkeys(problem.group.names, 1.0))


class Served:
    """Two models, and the assignments that are retained."""

    def __init__(self, directory: Path) -> None:
        self.broker = broker = MemoryBroker()
        connection = MemoryConnection(broker, "orchestrator", lambda event: None)
        connection.open(1.0)
        self.assigned: dict[tuple[str, str], int] = {}  # epoch by model and agent
        reader = MemoryConnection(broker, "reader", self._take)
        reader.open(1.0)
        reader.subscribe([(TOPICS.assignment("+", "+"), 1)])
        self.around = around = surroundings(connection, TOPICS)
        around.shared.own_link = LINK
        options = OrchestratorOptions(BrokerAddress("nowhere"), (), planner=at_once)
        self.models = ServedModels(options, around)
        files = {"cats": residual_classifier(directory / "cats"), "edges": picture_to_picture(directory / "edges")}
        self.loaded = {name: load(ModelFile(name, path)) for name, path in files.items()}

    def _take(self, event: TransportEvent) -> None:
        if isinstance(event, Message):
            topic = TOPICS.parse(event.topic)
            assert isinstance(topic, AssignmentTopic)
            self.assigned.pop((topic.model, topic.agent), None)
            if event.payload:
                self.assigned[topic.model, topic.agent] = codec.from_json(Assignment, event.payload).epoch

    def __getitem__(self, name: str) -> ServedModel:
        return self.models.by_name[name]

    def online(self, *agents: str) -> None:
        hashes = tuple(each.reference.sha256 for each in self.loaded.values())
        info = AgentInfo("board", 4, 1, 1 << 30, "runtime", "1", "xnnpack", "1", hashes)
        for agent in agents:
            self.models.tell(machine.AgentInfoArrived(agent, info))
            self.models.tell(machine.ProfileArrived(agent, Profile(info.board_class, LINK, ())))
            self.models.tell(machine.AgentStateArrived(agent, AgentState("online", "s")))

    def until_assigned(self, *names: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not all(any(model == name for model, _ in self.assigned) for name in names):
            assert time.monotonic() < deadline, self.assigned
            self.models.take_plans()
            self.models.tell(machine.Tick())
            time.sleep(0.005)

    def ready(self, name: str) -> None:
        for (model, agent), epoch in list(self.assigned.items()):
            if model == name:
                self.models.tell(machine.ReportArrived(agent, Ready(epoch)))


@pytest.fixture
def served(tmp_path: Path) -> Served:
    made = Served(tmp_path)
    assert made.models.phase[0] == IDLE
    for loaded in made.loaded.values():
        made.models.add(loaded)
    return made


def test_a_failed_command_leaves_the_agent_out_of_one_model(served: Served) -> None:
    served.online("ant", "bee")
    served.models.tell(machine.ReportArrived("bee", Failed(0, "", "no room", model=served["edges"].reference.sha256)))
    assert served["cats"].state.members() == ["ant", "bee"]
    assert served["edges"].state.members() == ["ant"]


def test_reports_are_for_the_model_whose_epoch_it_is(served: Served) -> None:
    served.online("ant", "bee")
    served.until_assigned("cats", "edges")
    served.ready("edges")
    assert (served["cats"].state.phase, served["edges"].state.phase) == ("assigning", "serving")
    assert served.models.phase[0] == "assigning"
    served.ready("cats")
    assert served.models.phase == ("serving", "ant, bee")
    before = served.models.dropped
    served.models.tell(machine.ReportArrived("ant", Ready(1 << 40)))
    header = Fragment("request", 1, 1 << 40, 0, 0, (0, 1, 0, 1), 1, "float32")
    served.models.tell(machine.FragmentArrived("ant", header, memoryview(b"\0\0\0\0")))
    assert served.models.dropped == before + 2


def test_a_model_that_comes_later_knows_the_agents_and_one_that_goes_leaves_nothing(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.models.add(served.loaded["cats"])
    served.online("ant")
    served.until_assigned("cats")
    served.ready("cats")
    served.models.add(served.loaded["edges"])
    assert served["edges"].state.members() == ["ant"]
    served.until_assigned("edges")
    epoch = served.assigned["edges", "ant"]
    served.models.remove("edges")
    assert list(served.assigned) == [("cats", "ant")]
    before = served.models.dropped
    served.models.tell(machine.ReportArrived("ant", Ready(epoch)))  # it was loading
    assert served.models.dropped == before + 1
    assert served.models.phase == ("serving", "ant")


def test_another_planner_finds_the_plan_anew_while_requests_go_on_by_the_one_in_force(served: Served) -> None:
    def by_bee_alone(problem: Problem) -> Generator[Any, Any, Plan]:
        yield from ()
        return balanced(problem.network, {"bee": 1.0})

    served.online("ant", "bee")
    served.until_assigned("cats")
    served.ready("cats")
    before, epoch = served["cats"].state.plan, served["cats"].state.epoch
    served["cats"].plan_by(by_bee_alone)
    assert served["cats"].state.plan is before
    assert before is not None
    assert set(before.agents) == {"ant", "bee"}
    deadline = time.monotonic() + PATIENCE
    while served["cats"].state.epoch == epoch:
        assert time.monotonic() < deadline
        served.models.take_plans()
        served.models.tell(machine.Tick())
        time.sleep(0.005)
    served.ready("cats")
    plan = served["cats"].state.plan
    assert plan is not None
    assert set(plan.agents) == {"bee"}
