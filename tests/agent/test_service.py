"""The agent's process without a broker: what comes in is checked, and what fails is reported instead of ending it."""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from legion_iot.planning.links import Link
from legion_iot.planning.samples import Sample
from legion_iot.runtime import agent as machine
from legion_iot.runtime.fetch import CHUNK as CHUNK_BYTES
from legion_iot.transport.connection import BrokerAddress, Connected, Disconnected, Message
from legion_iot.transport.fragments import FragmentsArrived, Undelivered
from legion_iot.wire import codec
from legion_iot.wire.messages import (
    Assignment,
    Chunk,
    ChunkRequest,
    Command,
    Echo,
    Failed,
    Fragment,
    Measured,
    ModelReference,
    Parcel,
    Profile,
    ProfilePart,
    TileTiming,
    Timings,
)
from legion_iot.wire.tensors import INBOX
from legion_iot_agent.service import MOST_AT_ONCE, AgentOptions, AgentService

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
    made._links = made._presence._links = Sent()  # type: ignore[assignment]
    yield made
    made._executor.close()


def events(service: AgentService, topic: str, payload: bytes) -> list[machine.Event]:
    service._take(Message(topic, payload))
    taken = list(service._events)
    service._events.clear()
    return taken


def test_messages_become_events(service: AgentService) -> None:
    topic = "legion/agents/ant/assignment/small"
    assert events(service, topic, codec.to_json(EMPTY)) == [machine.AssignmentArrived(EMPTY)]
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


def test_what_came_together_is_taken_in_together_as_far_as_that_is_not_too_much(
    service: AgentService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with all that follows from it, before the next one."""
    came = deque(Message(f"legion/agents/ant/assignment/m{number}", b"") for number in range(2 * MOST_AT_ONCE))
    steps: list[machine.Event] = []

    def step(state: machine.State, event: machine.Event, now: float) -> list[machine.Effect]:
        steps.append(event)
        return [machine.FinishModel(MODEL)] if isinstance(event, machine.AssignmentCleared) else []

    monkeypatch.setattr(machine, "step", step)
    service._links.next = lambda wait: came.popleft() if came else None  # type: ignore[method-assign]
    for taken in (MOST_AT_ONCE, 2 * MOST_AT_ONCE):
        service._take_all(came.popleft())
        assert len(came) == 2 * MOST_AT_ONCE - taken
        assert [event.model for event in steps[::2] if isinstance(event, machine.AssignmentCleared)] == [
            f"m{number}" for number in range(taken)
        ]
        assert all(isinstance(event, machine.ModelStored) for event in steps[1::2])
        assert len(steps) == 2 * taken


def test_timings_of_a_request_share_a_message(service: AgentService) -> None:
    for step, is_last in ((0, False), (1, True)):
        timing = TileTiming(7, "r", step, 0.1, 0)
        service._carry_out(machine.ReportTiming(timing, time.monotonic(), 600.0, is_last))
    ((topic, payload),) = service._links.messages  # type: ignore[attr-defined]
    assert topic == "legion/agents/ant/report/timings"
    told = codec.from_json(Timings, payload).timings
    assert [(each.request, each.step) for each in told] == [("r", 0), ("r", 1)]

    service._carry_out(machine.ReportTiming(TileTiming(7, "s", 1, 0.1, 0), time.monotonic()))
    topic, payload = service._links.messages[1]  # type: ignore[attr-defined]
    assert topic == "legion/agents/ant/report/timing"
    assert codec.from_json(TileTiming, payload).request == "s"


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("legion/agents/ant/inbox/bee", PARCEL),  # `pair` takes it
        ("legion/agents/ant/inbox/bee", CHUNK),  # a model comes from the orchestrator, and from nobody else
        ("legion/agents/ant/inbox/bee", codec.pack(ChunkRequest("a", 0, 1))),
        ("legion/agents/ant/inbox/bee", b"noise"),
        ("legion/agents/ant/assignment/small", b"noise"),
        ("legion/agents/ant/assignment/other", codec.to_json(EMPTY)),
        ("legion/agents/ant/assignment/small", codec.to_json(Command("fetch", MODEL))),
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


def test_an_assignment_that_was_cleared(service: AgentService) -> None:
    assert events(service, "legion/agents/ant/assignment/small", b"") == [machine.AssignmentCleared("small")]
    assert service._state.dropped == 0


def test_noise_never_ends_the_agent(service: AgentService) -> None:
    draw = random.Random(5)
    seeds = [PARCEL, CHUNK, codec.to_json(EMPTY), codec.to_json(Command("profile", MODEL, 3, (ProfilePart(),), 0.1))]
    topics = ["assignment/small", "command", "inbox/orchestrator", "inbox/bee"]
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
    service._carry_out(machine.Load(Assignment(7, held(service, b"any"), (), (), ())))
    (event,) = service._events
    assert isinstance(event, machine.Loaded)
    assert "No space left" in event.reason


def test_a_model_that_cannot_be_profiled_is_reported(service: AgentService) -> None:
    """The model's file is no model at all."""
    model = held(service, b"noise")
    service._carry_out(machine.StartMeasuring(Command("profile", model, 9, (ProfilePart(),), 1.0)))
    while service._measurements.busy:
        assert service._measure() == 0.0
    topic, payload = service._links.messages[-1]  # type: ignore[attr-defined]
    assert topic == "legion/agents/ant/report/measured"
    measured = codec.from_json(Measured, payload)
    assert (measured.number, measured.times) == (9, ())
    assert measured.reason


def held(service: AgentService, content: bytes) -> ModelReference:
    """A model that the agent has fetched."""
    model = ModelReference("small", hashlib.sha256(content).hexdigest(), len(content))
    service._store.write(model.sha256, 0, memoryview(content))
    service._store.finish(model.sha256, model.size)
    return model


def test_a_model_that_has_lost_a_bit_is_neither_loaded_nor_profiled(service: AgentService) -> None:
    model = held(service, b"sound")
    service._store.path(model.sha256).write_bytes(b"sounD")
    service._carry_out(machine.Load(Assignment(7, model, (), (), ())))
    assert list(service._events) == [machine.ModelLost(model)]
    command = Command("profile", model, 9, (ProfilePart(),), 1.0)
    service._carry_out(machine.StartMeasuring(command))
    assert list(service._events)[1:] == [machine.ModelLost(model, command)]
    assert not service._measurements.busy
    assert service._store.held() == ()


def test_echoes_are_ones_own(service: AgentService) -> None:
    echo = codec.pack(Echo(1), bytes(100))
    assert events(service, "legion/agents/ant/inbox/ant", echo) == []
    assert service._state.dropped == 0
    assert events(service, "legion/agents/ant/inbox/bee", echo) == []
    assert service._state.dropped == 1


def test_nothing_is_measured_while_a_request_is_unfinished(
    service: AgentService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service._carry_out(machine.StartMeasuring(Command("profile", held(service, b"any"), 9, (ProfilePart(),), 1.0)))
    monkeypatch.setattr(service._state, "worked_at", math.inf)
    assert service._measure() == machine.LEAST_PAUSE
    assert service._measurements.busy
    assert service._links.messages == []  # type: ignore[attr-defined]


def test_what_was_measured_is_published_with_every_connection(service: AgentService) -> None:
    service._take(Connected())
    assert [topic for topic, _ in service._links.messages] == [  # type: ignore[attr-defined]
        "legion/agents/ant/info",
        "legion/agents/ant/state",
    ]
    board = service._info().board_class
    service._measurements.file.add([Sample(board, ("a",), (1.0,), 0.5)], Link(0.001, 1e6, 1e6))
    service._links.messages.clear()  # type: ignore[attr-defined]
    service._take(Disconnected("cut"))
    service._take(Connected())
    topics = [topic for topic, _ in service._links.messages]  # type: ignore[attr-defined]
    assert topics == ["legion/agents/ant/info", "legion/agents/ant/profile", "legion/agents/ant/state"]
    profile = codec.from_json(Profile, service._links.messages[1][1])  # type: ignore[attr-defined]
    assert (profile.board, len(profile.samples)) == (board, 1)


def carry_out(service: AgentService, *events: machine.Event) -> None:
    """Take the events in, with all that follows from them."""
    service._events.extend(events)
    while service._events:
        for effect in machine.step(service._state, service._events.popleft(), 1.0):
            service._carry_out(effect)


def test_a_fetched_model_with_another_hash_is_reported_over_the_wire(service: AgentService) -> None:
    carry_out(service, machine.CommandArrived(Command("fetch", MODEL)))
    carry_out(service, *events(service, "legion/agents/ant/inbox/orchestrator", CHUNK))
    topic, payload = service._links.messages[-1]  # type: ignore[attr-defined]
    assert topic == "legion/agents/ant/report/failed"
    failed = codec.from_json(Failed, payload)
    assert "SHA-256" in failed.reason
    assert failed.model == MODEL.sha256
    assert service._store.held() == ()


def test_a_full_disk_is_reported_at_once_and_leaves_nothing(
    service: AgentService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service._store, "_free", lambda: 1)
    carry_out(service, machine.CommandArrived(Command("fetch", MODEL)))
    ((topic, payload),) = service._links.messages  # type: ignore[attr-defined]
    assert topic == "legion/agents/ant/report/failed"
    assert "of the disk are free" in codec.from_json(Failed, payload).reason
    assert list((service._options.state_directory / "models").iterdir()) == []


def test_a_model_is_fetched_on_from_where_it_was_cut(service: AgentService) -> None:
    content = random.Random(1).randbytes(CHUNK_BYTES + 10)
    model = ModelReference("small", hashlib.sha256(content).hexdigest(), len(content))
    (service._options.state_directory / "models" / f"{model.sha256}.part").write_bytes(content[:CHUNK_BYTES])
    carry_out(service, machine.CommandArrived(Command("fetch", model)))
    ((_, asked),) = service._links.messages  # type: ignore[attr-defined]
    assert codec.unpack(INBOX, asked)[0] == ChunkRequest(model.sha256, CHUNK_BYTES, 10)
    rest = codec.pack(Chunk(model.sha256, CHUNK_BYTES), content[CHUNK_BYTES:])
    carry_out(service, *events(service, "legion/agents/ant/inbox/orchestrator", rest))
    assert service._store.held() == (model.sha256,)
    assert service._state.models == {model.sha256}
