"""A client's requests at the memory broker: each has one end, whatever becomes of links, pictures and orchestrators."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.errors import BrokerError, RequestError
from legion_iot.orchestrator import client as client_module
from legion_iot.orchestrator.client import Answers, Client
from legion_iot.transport.connection import BrokerAddress, EventHandler, Message, TransportEvent
from legion_iot.transport.memory import MemoryBroker, MemoryConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import ModelInfo, OrchestratorState, Result
from legion_iot.wire.topics import Topics, image_topic

TOPICS = Topics("kitchen")
ADDRESS = BrokerAddress("nowhere")
CLIENT = "the client"
Reaction = Callable[["Orchestrator", Message], None]


def quiet(text: str, fraction: float | None) -> None:
    pass


class Orchestrator:
    """What answers; `react` is called for each request, and may answer, or not."""

    def __init__(self, broker: MemoryBroker, react: Reaction) -> None:
        self.broker, self.react = broker, react
        self.asked: list[Message] = []
        self.connection = MemoryConnection(broker, "orchestrator", self._take)
        self.connection.open(1.0)
        self.connection.subscribe([(TOPICS.infer("+"), 1)])
        self.say("serving")

    def _take(self, event: TransportEvent) -> None:
        if isinstance(event, Message):
            self.asked.append(event)
            self.react(self, event)

    def say(self, state: str) -> None:
        self.connection.publish(TOPICS.orchestrator_state(), codec.to_json(OrchestratorState(state, "s")), retain=True)

    def serve(self, name: str, epoch: int, *agents: str) -> None:
        info = ModelInfo(name, "0" * 64, 1, (1, 2), "float32", epoch, agents)
        self.connection.publish(TOPICS.model(name), codec.to_json(info), retain=True)

    def answer(self, to: Message, error: str = "", image: str = "") -> None:
        model = to.topic.rpartition("/")[2]
        result = Result("r-1", not error, model, 7, 1.5, error=error, reason="for people", image=image)
        self.connection.publish(to.response_topic, codec.to_json(result), correlation=to.correlation)

    def draw(self, to: Message, content: bytes = b"PNG") -> None:
        self.connection.publish(image_topic(to.response_topic), content, correlation=to.correlation)


def answers_all(orchestrator: Orchestrator, message: Message) -> None:
    orchestrator.answer(message)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ABSENT", "GRACE", "IMAGE_PATIENCE"):
        monkeypatch.setattr(client_module, name, 0.05)


def ask(broker: MemoryBroker, count: int = 1, window: int = 1, timeout: float = 30.0) -> Answers:
    def connect(address: BrokerAddress, client_id: str, on_event: EventHandler) -> MemoryConnection:
        return MemoryConnection(broker, CLIENT, on_event)

    with Client(ADDRESS, TOPICS.base, "phone", connect) as client:
        return client.infer("cats", b"picture", quiet, count, window, timeout)


def test_one_request(broker: MemoryBroker) -> None:
    orchestrator = Orchestrator(broker, answers_all)
    orchestrator.serve("cats", 7, "left", "right")
    answers = ask(broker, timeout=3.5)
    (asked,) = orchestrator.asked
    assert (asked.topic, asked.payload, asked.expiry) == (TOPICS.infer("cats"), b"picture", 4)
    assert asked.response_topic.startswith("kitchen/answers/phone/")
    assert answers.last.result.ok
    assert answers.agents == ("left", "right")
    assert (answers.failed, len(answers.seconds)) == ({}, 1)
    assert answers.latency_ms["median"] == answers.latency_ms["p95"] == answers.seconds[0] * 1e3


def test_agents_of_another_plan_have_not_computed_it(broker: MemoryBroker) -> None:
    Orchestrator(broker, answers_all).serve("cats", 6, "left")
    assert ask(broker).agents == ()


def test_no_more_are_under_way_than_the_window_holds(broker: MemoryBroker) -> None:
    """The answers come when the window is full, the last request's first."""
    waiting: list[Message] = []
    most = 0

    def react(orchestrator: Orchestrator, message: Message) -> None:
        nonlocal most
        waiting.append(message)
        most = max(most, len(waiting))
        if len(waiting) == 3 or len(orchestrator.asked) == 10:
            for each in reversed(waiting):
                orchestrator.answer(each)
            waiting.clear()

    orchestrator = Orchestrator(broker, react)
    answers = ask(broker, count=10, window=3)
    assert (len(answers.seconds), len(orchestrator.asked), most) == (10, 10, 3)
    assert len({message.correlation for message in orchestrator.asked}) == 10


def test_a_picture_comes_before_or_after_its_result(broker: MemoryBroker) -> None:
    def react(orchestrator: Orchestrator, message: Message) -> None:
        early = len(orchestrator.asked) % 2 == 0
        if early:
            orchestrator.draw(message, b"early")
        orchestrator.answer(message, image="somewhere")
        if not early:
            orchestrator.draw(message, b"late")

    Orchestrator(broker, react)
    assert ask(broker, 1).last.image == b"late"
    assert ask(broker, 1).last.image == b"early"


@pytest.mark.usefixtures("impatient")
def test_a_picture_that_does_not_come_costs_no_answer(broker: MemoryBroker) -> None:
    Orchestrator(broker, lambda orchestrator, message: orchestrator.answer(message, image="somewhere"))
    answers = ask(broker, count=2)
    assert (answers.last.image, len(answers.seconds)) == (None, 2)


def test_what_was_asked_for_is_asked_again_when_the_link_is_back(broker: MemoryBroker) -> None:
    def react(orchestrator: Orchestrator, message: Message) -> None:
        if len(orchestrator.asked) == 1:
            broker.cut(CLIENT)
        else:
            orchestrator.answer(message)
            orchestrator.answer(message)  # twice does not count twice

    orchestrator = Orchestrator(broker, react)
    answers = ask(broker, count=2)
    assert (len(answers.seconds), len(orchestrator.asked)) == (2, 3)


def test_what_was_asked_for_is_asked_again_when_the_orchestrator_is_back(broker: MemoryBroker) -> None:
    def react(orchestrator: Orchestrator, message: Message) -> None:
        match len(orchestrator.asked):
            case 1:
                orchestrator.say("offline")
                orchestrator.say("gathering")
            case 2:
                orchestrator.answer(message, error="restarted")
            case _:
                orchestrator.answer(message)

    orchestrator = Orchestrator(broker, react)
    assert ask(broker).last.result.ok
    assert len(orchestrator.asked) == 3


@pytest.mark.parametrize(("error", "asked"), [("no-model", 1), ("bad-input", 1), ("busy", 5), ("deadline", 5)])
def test_errors_are_counted_and_nothing_is_asked_in_vain(broker: MemoryBroker, error: str, asked: int) -> None:
    orchestrator = Orchestrator(broker, lambda self, message: self.answer(message, error=error))
    answers = ask(broker, count=5)
    assert answers.failed == {error: asked}
    assert len(orchestrator.asked) == asked
    assert (answers.seconds, answers.latency_ms, answers.per_second) == ((), {}, 0)
    assert answers.last.result.error == error


def test_the_last_answer_is_kept_when_others_fail(broker: MemoryBroker) -> None:
    def react(orchestrator: Orchestrator, message: Message) -> None:
        orchestrator.answer(message, error="" if len(orchestrator.asked) == 2 else "busy")

    Orchestrator(broker, react)
    answers = ask(broker, count=4)
    assert (answers.last.result.ok, answers.failed, len(answers.seconds)) == (True, {"busy": 3}, 1)


@pytest.mark.usefixtures("impatient")
def test_nobody_is_there(broker: MemoryBroker) -> None:
    with pytest.raises(RequestError, match="no orchestrator is online"):
        ask(broker)
    Orchestrator(broker, answers_all).say("offline")
    with pytest.raises(RequestError, match="no orchestrator is online"):
        ask(broker)


@pytest.mark.usefixtures("impatient")
def test_nobody_answers(broker: MemoryBroker) -> None:
    orchestrator = Orchestrator(broker, lambda orchestrator, message: None)
    with pytest.raises(RequestError, match=r"no answer within 0\.05 s; the orchestrator is serving"):
        ask(broker, timeout=0.05)
    orchestrator.react = lambda orchestrator, message: orchestrator.say("offline")
    with pytest.raises(RequestError, match="no orchestrator is online"):
        ask(broker, timeout=0.05)
    orchestrator.say("serving")
    orchestrator.react = lambda orchestrator, message: broker.cut(CLIENT, reconnect=False)
    with pytest.raises(BrokerError, match="cut"):
        ask(broker, timeout=0.05)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_every_request_has_one_end_whatever_happens(seed: int, count: int, window: int) -> None:
    """Links are cut, answers come twice, in any order or as `restarted`, pictures come first or last."""
    chance = random.Random(seed)
    waiting: dict[bytes, Message] = {}
    numbers: set[bytes] = set()

    def react(orchestrator: Orchestrator, message: Message) -> None:
        waiting[message.correlation] = message
        numbers.add(message.correlation)
        goes_wrong = len(orchestrator.asked) < 100
        if goes_wrong and chance.random() < 0.1:
            waiting.clear()
            orchestrator.broker.cut(CLIENT)
            return
        if len(waiting) < window and len(numbers) < count and chance.random() < 0.5:
            return  # the client has more to send
        for each in chance.sample(list(waiting.values()), len(waiting)):
            error = chance.choice(("", "", "", "busy", "restarted")) if goes_wrong else ""
            ends: list[Any] = [
                orchestrator.draw,
                lambda to, error=error: orchestrator.answer(to, error, "" if error else "there"),
            ]
            for publish in chance.sample(ends, 2) * chance.choice((1, 1, 2)):
                publish(each)
        waiting.clear()

    broker = MemoryBroker(seed=seed, duplicate=0.2)
    orchestrator = Orchestrator(broker, react)
    answers = ask(broker, count, window)
    assert len(answers.seconds) + sum(answers.failed.values()) == count == len(numbers)
    assert set(answers.failed) <= {"busy"}
    assert len(orchestrator.asked) >= count
