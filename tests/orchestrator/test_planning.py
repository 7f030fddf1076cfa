"""Planning in its thread, the orchestrator's own link, and a live group as planners see it."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from legion_iot.errors import AgentError, ProtocolError, UsageError
from legion_iot.orchestrator.group import live_group
from legion_iot.orchestrator.observed import Observed
from legion_iot.orchestrator.own_link import MOST_PROBES, OwnLink
from legion_iot.orchestrator.planning import PLANNERS, PlanningThread, find_planner
from legion_iot.planning.links import ASSUMED, Link
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Device, Group, Problem, Reading, TailRun
from legion_iot.planning.samples import Sample, Samples
from legion_iot.runtime.orchestrator_events import Consult, PlannerAnswered
from legion_iot.transport.connection import Message
from legion_iot.wire import codec
from legion_iot.wire.messages import AgentInfo, AgentState, Echo, Profile
from legion_iot.wire.tensors import INBOX
from legion_iot.wire.topics import Topics
from tests.runtime.networks import NETWORKS

LINK = Link(0.001, 1e6, 2e6)
PROBLEM = Problem(NETWORKS["residual"], Group((Device("ant", "pi", LINK),), LINK))
PLAN = Plan("test", (), "ant")
INFO = AgentInfo("pi", 4, 1, 1 << 30, "litert", "2", "xnnpack", "1", ())


def answers(planner: Any) -> tuple[PlanningThread, queue.SimpleQueue[PlannerAnswered]]:
    found: queue.SimpleQueue[PlannerAnswered] = queue.SimpleQueue()
    thread = PlanningThread(planner, found.put)
    thread.start()
    return thread, found


def test_a_planner_is_asked_and_told_in_turn() -> None:
    def planner(problem: Problem):  # type: ignore[no-untyped-def]
        assert problem is PROBLEM
        readings = yield (TailRun("ant"),)
        return Plan(str(readings[TailRun("ant")].seconds), (), "ant")

    thread, found = answers(planner)
    thread.consult(Consult(7, PROBLEM, {}))  # an answer to what nobody has asked
    thread.consult(Consult(8, PROBLEM, None))
    assert found.get(timeout=10) == PlannerAnswered(8, (TailRun("ant"),))
    thread.consult(Consult(9, PROBLEM, {TailRun("ant"): Reading(0.5)}))
    assert found.get(timeout=10) == PlannerAnswered(9, Plan("0.5", (), "ant"))
    thread.consult(Consult(10, PROBLEM, None))
    thread.consult(Consult(11, PROBLEM, None))
    assert [found.get(timeout=10).number for _ in range(2)] == [10, 11]


@pytest.mark.parametrize(
    ("error", "says"), [(AgentError("too little memory"), "too little memory"), (KeyError("x"), "KeyError")]
)
def test_a_planner_that_fails_says_so_and_the_thread_goes_on(error: Exception, says: str) -> None:
    failing = [True, False]

    def planner(problem: Problem):  # type: ignore[no-untyped-def]
        if failing.pop(0):
            raise error
        return PLAN
        yield ()

    thread, found = answers(planner)
    thread.consult(Consult(1, PROBLEM, None))
    answer = found.get(timeout=10).answer
    assert isinstance(answer, str)
    assert says in answer
    thread.consult(Consult(2, PROBLEM, None))
    assert found.get(timeout=10).answer == PLAN


def test_planners_by_name() -> None:
    assert find_planner("balanced") is None
    assert all(find_planner(name) is not None for name in PLANNERS if name != "balanced")
    with pytest.raises(UsageError, match="auto"):
        find_planner("best")


class Wire:
    """Takes the place of the data connection; echoes come back when the test says so."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []

    def publish(self, topic: str, payload: tuple[bytes, bytes]) -> None:
        content, _ = codec.unpack(INBOX, b"".join(payload))
        assert isinstance(content, Echo)
        self.sent.append((topic, content.number))

    def flush(self, timeout: float) -> bool:
        return True


def test_the_own_link_is_measured_while_idle() -> None:
    wire = Wire()
    own = OwnLink(wire, Topics("g"))  # type: ignore[arg-type]
    assert own.turn(True) is None
    assert own.patience(5.0) == 5.0
    own.start(3)
    assert own.patience(5.0) == 0.0
    probed = None
    while probed is None:
        probed = own.turn(True)
        if own.patience(5.0):
            own.echoed(wire.sent[-1][1])
    assert probed.number == 3
    assert probed.link is not None
    assert {topic for topic, _ in wire.sent} == {"g/orchestrator/inbox/orchestrator", "g/orchestrator/probe"}
    assert own.turn(True) is None


def test_an_own_link_that_is_never_idle_is_given_up() -> None:
    own = OwnLink(Wire(), Topics("g"))  # type: ignore[arg-type]
    own.start(3)
    for _ in range(MOST_PROBES):
        assert own.turn(True) is None
        assert own.turn(False) is None
    probed = own.turn(True)
    assert probed is not None
    assert probed.link is None
    assert "idle" in probed.reason


def retained(*messages: tuple[str, Any]) -> Observed:
    found = Observed(Topics("g"))
    for topic, message in messages:
        found.take(Message(f"g/agents/{topic}", codec.to_json(message), True))
    return found


def test_a_group_by_what_is_retained() -> None:
    board = INFO.board_class
    sample, foreign = Sample(board, ("a",), (1.0,), 0.5), Sample("other", ("a",), (1.0,), 0.5)
    found = retained(
        ("bee/info", INFO),
        ("bee/state", AgentState("online", "s")),
        ("ant/profile", Profile(board, Link(0.001, 1e300, -1.0), (sample, foreign))),
        ("ant/info", INFO),
        ("ant/state", AgentState("online", "s")),
        ("cat/info", INFO),
        ("cat/state", AgentState("offline", "s")),
        ("dog/state", AgentState("online", "s")),
    )
    known = Samples.of([Sample(board, ("b",), (1.0,), 0.25)])
    live = live_group(found, known, LINK)
    assert live.group.names == ("ant", "bee")
    assert live.group["bee"] == Device("bee", board, ASSUMED, 1 << 30)
    assert live.group["ant"].link.up < 1e12
    assert live.group["ant"].link.down > 0
    assert live.group.orchestrator == LINK
    assert live.assumed == ("bee",)
    assert {s.units for s in live.samples} == {("a",), ("b",)}
    assert live.samples.boards == (board,)
    assert live_group(found, Samples(), None).assumed == ("bee", "orchestrator")


def test_nobody_online() -> None:
    with pytest.raises(AgentError, match="legion-agent"):
        live_group(retained(("ant/info", INFO), ("ant/state", AgentState("offline", "s"))), Samples(), None)


def test_what_no_agent_says_of_itself_is_refused() -> None:
    with pytest.raises(ProtocolError):
        retained(("ant/command", INFO))
    with pytest.raises(ProtocolError):
        retained(("ant/profile", INFO))
