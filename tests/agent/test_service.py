"""The agent's process without a broker: what comes in is checked, and what fails is reported instead of ending it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from legion_iot.errors import ModelError
from legion_iot.runtime import agent as machine
from legion_iot.transport.connection import BrokerAddress, Message
from legion_iot.transport.fragments import FragmentsArrived, Undelivered
from legion_iot.wire import codec
from legion_iot.wire.messages import Assignment, Chunk, ChunkRequest, Command, Failed, Fragment, ModelReference, Parcel
from legion_iot_agent.service import AgentOptions, AgentService

pytest.importorskip("ai_edge_litert.interpreter")

MODEL = ModelReference("small", "ab" * 32, 4)
EMPTY = Assignment(7, MODEL, (), (), ())
FRAGMENT = Fragment("r", 1, 7, 0, 0, (0, 1, 0, 1), 4, "int8")
PARCEL = codec.pack(Parcel(1, 0, 0, 0, False, (FRAGMENT,)), b"abcd")
CHUNK = codec.pack(Chunk(MODEL.sha256, 0), b"abcd")


class Sent:
    """Takes the place of both connections."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.control = self.data = self

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        self.messages.append((topic, payload))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[AgentService]:
    made = AgentService(AgentOptions(BrokerAddress("127.0.0.1"), "ant", tmp_path))
    made._links = Sent()  # type: ignore[assignment]
    yield made
    made._executor.unload()


def events(service: AgentService, topic: str, payload: bytes) -> list[machine.Event]:
    service._take(Message(topic, payload))
    taken = list(service._events)
    service._events.clear()
    return taken


def test_messages_become_events(service: AgentService) -> None:
    assert events(service, "legion/agents/ant/assignment", codec.to_json(EMPTY)) == [machine.AssignmentArrived(EMPTY)]
    command = Command("fetch", MODEL)
    assert events(service, "legion/agents/ant/command", codec.to_json(command)) == [machine.CommandArrived(command)]
    (chunk,) = events(service, "legion/agents/ant/inbox/orchestrator", CHUNK)
    assert isinstance(chunk, machine.ChunkArrived)


def test_fragments_become_events_and_what_cannot_be_delivered_ends_its_request(service: AgentService) -> None:
    body = memoryview(b"abcd")
    service._take(FragmentsArrived("bee", [(FRAGMENT, body)], 3.0))
    service._take(Undelivered("bee", ((7, "r"),), "bee is silent"))
    assert list(service._events) == [
        machine.FragmentArrived("bee", FRAGMENT, body, 3.0),
        machine.StepFailed(7, "r", "bee is silent"),
    ]


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("legion/agents/ant/inbox/bee", PARCEL),  # `pair` takes it
        ("legion/agents/ant/inbox/bee", CHUNK),  # a model comes from the orchestrator, and from nobody else
        ("legion/agents/ant/inbox/bee", codec.pack(ChunkRequest("a", 0, 1))),
        ("legion/agents/ant/inbox/bee", b"noise"),
        ("legion/agents/ant/assignment", b"noise"),
        ("legion/agents/ant/assignment", codec.to_json(Command("fetch", MODEL))),
        (
            "legion/agents/ant/command",
            codec.to_json(Command("fetch", MODEL)).replace(b"ab" * 32, b"../../../etc/passwd"),
        ),
        ("legion/agents/ant/state", codec.to_json(EMPTY)),
        ("legion/infer/small", b"x"),
        ("elsewhere", b"x"),
    ],
)
def test_what_is_not_for_an_agent_is_dropped_and_counted(service: AgentService, topic: str, payload: bytes) -> None:
    assert events(service, topic, payload) == []
    assert service._state.dropped == 1


def test_a_cleared_assignment_is_no_message(service: AgentService) -> None:
    assert events(service, "legion/agents/ant/assignment", b"") == []
    assert service._state.dropped == 0


def test_noise_never_ends_the_agent(service: AgentService) -> None:
    draw = random.Random(5)
    seeds = [PARCEL, CHUNK, codec.to_json(EMPTY), codec.to_json(Command("profile", MODEL))]
    topics = ["assignment", "command", "inbox/orchestrator", "inbox/bee"]
    for _ in range(2000):
        payload = bytearray(draw.choice(seeds))
        for _ in range(draw.randrange(1, 4)):
            payload[draw.randrange(len(payload))] = draw.randrange(256)
        for event in events(service, f"legion/agents/ant/{draw.choice(topics)}", bytes(payload)):
            machine.step(service._state, event, 1.0)


def test_a_full_disk_at_load_is_reported(service: AgentService, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: Path, assignment: Assignment) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(service._executor, "load", full)
    service._carry_out(machine.Load(EMPTY))
    (event,) = service._events
    assert isinstance(event, machine.Loaded)
    assert "No space left" in event.reason


def test_a_model_that_cannot_be_profiled_is_reported(service: AgentService, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: Path, seconds: float) -> None:
        raise ModelError("the runtime refuses the model")

    monkeypatch.setattr(service._executor, "profile", refuse)
    service._carry_out(machine.RunProfile(MODEL, 1.0))
    assert list(service._events) == [machine.ProfileDone(MODEL.sha256, (), "the runtime refuses the model")]


def test_a_fetched_model_with_another_hash_is_reported_over_the_wire(service: AgentService) -> None:
    state = service._state
    for event in (
        machine.CommandArrived(Command("fetch", MODEL)),
        *events(service, "legion/agents/ant/inbox/orchestrator", CHUNK),
    ):
        for effect in machine.step(state, event, 1.0):
            service._carry_out(effect)
    (stored,) = service._events
    for effect in machine.step(state, stored, 1.0):
        service._carry_out(effect)
    topic, payload = service._links.messages[-1]  # type: ignore[attr-defined]
    assert topic == "legion/agents/ant/report/failed"
    assert "SHA-256" in codec.from_json(Failed, payload).reason
    assert service._store.held() == ()
