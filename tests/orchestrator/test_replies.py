"""Requests get a name before they count as arrived, and one answer, where it is wanted; at the memory broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from legion_iot.orchestrator.journal import Journal
from legion_iot.orchestrator.replies import RESULT_EXPIRY, Replies
from legion_iot.orchestrator.retained import Retained
from legion_iot.transport.connection import Message, TransportEvent
from legion_iot.transport.memory import MemoryBroker, MemoryConnection
from legion_iot.wire.messages import Result
from legion_iot.wire.topics import Topics

TOPICS = Topics("kitchen/legion")
INFER = TOPICS.infer("vgg16")


class Scene:
    """A client that sees everything, and an orchestrator's side of the requests."""

    def __init__(self, path: Path | None = None) -> None:
        self.broker = MemoryBroker()
        self.seen: list[Message] = []
        self.control = MemoryConnection(self.broker, "orchestrator", lambda event: None)
        client = MemoryConnection(self.broker, "client", self._on_event)
        for connection in (self.control, client):
            connection.open(1.0)
        client.subscribe([("#", 1)])
        self.path = path
        self.start("first")

    def _on_event(self, event: TransportEvent) -> None:
        if isinstance(event, Message):
            self.seen.append(event)

    def start(self, session: str) -> None:
        self.journal = Journal(self.path)
        self.replies = Replies(TOPICS, session, self.journal, self.control)

    def end(self, name: str) -> None:
        self.replies.answer(Result(name, True, "vgg16", 7, 1.5))

    @property
    def answers(self) -> list[tuple[str, bytes, Any]]:
        return [(message.topic, message.correlation, json.loads(message.payload)["error"]) for message in self.seen]


def test_names_differ_and_what_is_no_request_has_none() -> None:
    scene = Scene()
    names = [scene.replies.admit(Message(INFER, b"x"), False) for _ in range(3)]
    assert len(set(names)) == 3
    assert all(names)
    for other in (
        Message(INFER, b"x", retain=True), Message(f"{INFER}/result", b""), Message(f"{INFER}/", b""),
        Message("kitchen/legion/infer/Bad Name", b""), Message("kitchen/legion2/infer/vgg16", b""),
        Message(TOPICS.agent("ant", "state"), b""),
    ):  # fmt: skip
        assert scene.replies.admit(other, False) is None
    assert scene.seen == []


def test_an_answer_goes_where_it_is_wanted() -> None:
    scene = Scene()
    for topic in ("", "kitchen/legion/answers/phone/1", "elsewhere/1", "kitchen/legion2"):
        name = scene.replies.admit(Message(INFER, b"x", response_topic=topic, correlation=b"\x00c"), False)
        assert name
        scene.end(name)
    assert [topic for topic, _, _ in scene.answers] == [
        TOPICS.result("vgg16"), "kitchen/legion/answers/phone/1", "elsewhere/1", "kitchen/legion2",
    ]  # fmt: skip
    assert {correlation for _, correlation, _ in scene.answers} == {b"\x00c"}
    assert {message.expiry for message in scene.seen} == {RESULT_EXPIRY}


def test_a_picture_follows_its_result() -> None:
    scene = Scene()
    for topic in ("", "kitchen/legion/answers/phone/1"):
        name = scene.replies.admit(Message(INFER, b"x", response_topic=topic, correlation=b"c"), False)
        assert name
        scene.replies.answer(Result(name, True, "vgg16", 7, 1.5), lambda: b"PNG")
        result, picture = scene.seen[-2:]
        assert json.loads(result.payload)["image"] == picture.topic == f"{result.topic}/image"
        assert (picture.payload, picture.correlation, picture.expiry) == (b"PNG", b"c", RESULT_EXPIRY)
    assert scene.seen[0].topic == TOPICS.result("vgg16")


@pytest.mark.parametrize(
    "topic",
    ["kitchen/legion", INFER, "kitchen/legion/agents/ant/command", "kitchen/legion/answers/+", "$SYS/x", "a/#"],
)  # fmt: skip
def test_nobody_has_the_orchestrator_speak_where_it_gives_orders(topic: str) -> None:
    scene = Scene()
    assert scene.replies.admit(Message(INFER, b"x", response_topic=topic, correlation=b"7"), False) is None
    assert scene.answers == [(TOPICS.result("vgg16"), b"", "bad-input")]
    assert "answers/" in json.loads(scene.seen[0].payload)["reason"]


def test_what_comes_while_too_much_waits_is_answered_at_once() -> None:
    scene = Scene()
    assert scene.replies.admit(Message(INFER, b"x", response_topic="me", correlation=b"7"), True) is None
    assert scene.answers == [("me", b"7", "busy")]


def test_a_request_is_open_until_the_broker_has_its_answer(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "journal.jsonl")
    requests = [Message(INFER, b"x", response_topic=topic, correlation=topic.encode()) for topic in ("a", "", "c", "d")]
    names = [scene.replies.admit(message, False) for message in requests]
    assert names[0]
    scene.end(names[0])
    scene.broker.stop()
    assert names[3]
    scene.end(names[3])  # the broker never gets it
    scene.journal.close()

    scene.broker.start()  # but the process that had it in its queue is gone
    scene.seen.clear()
    scene.start("second")
    scene.replies.answer_left()
    assert scene.answers == [
        (TOPICS.result("vgg16"), b"", "restarted"), ("c", b"c", "restarted"), ("d", b"d", "restarted"),
    ]  # fmt: skip
    assert [json.loads(message.payload)["request"] for message in scene.seen] == names[1:]
    scene.journal.close()

    scene.seen.clear()
    scene.start("third")
    scene.replies.answer_left()
    assert scene.seen == []


def test_who_ends_answers_what_is_open() -> None:
    scene = Scene()
    for topic in ("a", "b"):
        scene.replies.admit(Message(INFER, b"x", response_topic=topic), False)
    scene.replies.answer_open()
    scene.replies.answer_open()
    assert scene.answers == [("a", b"", "restarted"), ("b", b"", "restarted")]


def test_an_answer_that_cannot_be_sent_ends_nothing_else() -> None:
    scene = Scene()
    name = scene.replies.admit(Message(INFER, b"x"), False)
    assert name
    scene.control.close()
    scene.end(name)
    assert scene.seen == []


def test_what_is_retained_is_said_again_and_what_was_left_goes() -> None:
    scene = Scene()

    class Links:
        control = scene.control

    retained = Retained(Links())  # type: ignore[arg-type]
    retained.found([Message("old/a", b"1", retain=True), Message("old/b", b"2", retain=True)])
    retained.publish("new/a", b"x")
    retained.publish("old/a", b"newer")
    retained.clear_left(lambda topic: topic.startswith("old/"))
    retained.clear_left(lambda topic: True)
    retained.publish("new/b", b"y")
    retained.clear(lambda topic: topic == "new/b")
    assert [(message.topic, message.payload) for message in scene.seen] == [
        ("new/a", b"x"), ("old/a", b"newer"), ("old/b", b""), ("new/b", b"y"), ("new/b", b""),
    ]  # fmt: skip
    scene.seen.clear()
    retained.publish("state", b"z")
    scene.seen.clear()
    retained.say_again(but="state")
    assert [(message.topic, message.payload) for message in scene.seen] == [("new/a", b"x"), ("old/a", b"newer")]
