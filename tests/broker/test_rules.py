"""Every topic of the protocol × every role, on a real Mosquitto and on the embedded broker.

What is expected is docs/protocol.md's table, written out by hand for two agents.
"""

from __future__ import annotations

import inspect
import queue
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from legion_iot.errors import UsageError
from legion_iot.transport import Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire.access import ROLES, check_member, grants
from legion_iot.wire.bridge import OPERATIONS
from legion_iot.wire.topics import AGENT_KINDS, Topics
from legion_iot_broker.access import acl_file
from legion_iot_broker.launch import RunningBroker

PATIENCE = 20.0
MEMBERS = {
    "pi1": "agent",
    "pi2": "agent",
    "boss": "orchestrator",
    "phone": "client",
    "chief": "operator",
    "eye": "observer",
    "home": "home-assistant",
}
JUDGE = "judge"  # sees and says everything: it is the test's, not the table's

# topic below the base: who writes, who reads
TABLE: dict[str, tuple[set[str], set[str]]] = {
    "echo/pi1": ({"pi1"}, {"pi1"}),
    "echo/eye": ({"eye"}, {"eye"}),
    "agents/pi1/state": ({"pi1"}, {"home", "pi1", "boss", "chief", "eye"}),
    "agents/pi1/info": ({"pi1"}, {"boss", "chief", "eye"}),
    "agents/pi1/metrics": ({"pi1"}, {"home", "boss", "chief", "eye"}),
    "agents/pi1/profile": ({"pi1"}, {"boss", "chief", "eye"}),
    "agents/pi1/command": ({"boss"}, {"pi1", "chief", "eye"}),
    "agents/pi1/assignment/vgg16": ({"boss"}, {"pi1", "boss", "chief", "eye"}),
    "agents/pi1/report/ready": ({"pi1"}, {"boss", "chief", "eye"}),
    "agents/pi1/report/failed": ({"pi1"}, {"boss", "chief", "eye"}),
    "agents/pi1/report/timing": ({"pi1"}, {"boss", "chief", "eye"}),
    "agents/pi1/inbox/pi2": ({"pi2"}, {"pi1"}),
    "agents/pi1/inbox/pi1": ({"pi1"}, {"pi1"}),
    "agents/pi1/inbox/orchestrator": ({"boss"}, {"pi1"}),
    "agents/pi1/probe": ({"pi1"}, set()),
    "agents/pi2/state": ({"pi2"}, {"home", "pi2", "boss", "chief", "eye"}),
    "agents/pi2/command": ({"boss"}, {"pi2", "chief", "eye"}),
    "agents/pi2/inbox/pi1": ({"pi1"}, {"pi2"}),
    "orchestrator/inbox/pi1": ({"pi1"}, {"boss"}),
    "orchestrator/inbox/pi2": ({"pi2"}, {"boss"}),
    "orchestrator/inbox/orchestrator": ({"boss"}, {"boss"}),
    "orchestrator/probe": ({"boss"}, set()),
    "orchestrator/state": ({"boss"}, {"home", "boss", "pi1", "pi2", "phone", "chief", "eye"}),
    "orchestrator/metrics": ({"boss"}, {"home", "phone", "chief", "eye"}),
    "models/vgg16": ({"boss"}, {"home", "boss", "phone", "chief", "eye"}),
    "models/vgg16/plan": ({"boss"}, {"home", "boss", "phone", "chief", "eye"}),
    "infer/vgg16": ({"phone", "chief", "home"}, {"boss"}),
    "infer/vgg16/result": ({"boss"}, {"home", "phone", "chief", "eye"}),
    "infer/vgg16/result/image": ({"boss"}, {"home", "phone", "chief"}),
    "bridge/request/model-list": ({"chief"}, {"boss"}),
    "bridge/request/model-add": ({"chief"}, {"boss"}),
    "bridge/request/model-remove": ({"chief"}, {"boss"}),
    "bridge/request/model-upload": ({"chief"}, {"boss"}),
    "bridge/request/replan": ({"chief", "home"}, {"boss"}),
    "bridge/request/trace": ({"chief"}, {"boss"}),
    "bridge/response/model-list": ({"boss"}, {"chief"}),
    "bridge/response/model-add": ({"boss"}, {"chief"}),
    "bridge/response/model-remove": ({"boss"}, {"chief"}),
    "bridge/response/model-upload": ({"boss"}, {"chief"}),
    "bridge/response/replan": ({"boss"}, {"chief"}),
    "bridge/response/trace": ({"boss"}, {"chief"}),
    "answers/phone/7": ({"boss"}, {"phone"}),
    "answers/chief/7": ({"boss"}, {"chief"}),
    "answers/eye/7": ({"boss"}, set()),
    "answers/phone/7/image": ({"boss"}, {"phone"}),
    "answers/chief/7/image": ({"boss"}, {"chief"}),
    "answers/eye/7/image": ({"boss"}, set()),
    # Nobody writes these.
    "agents/pi1": (set(), set()),
    "agents/pi1/mood": (set(), set()),
    "agents/pi1/assignment": (set(), set()),
    "agents/pi1/state/more": (set(), set()),
    "agents/pi1/report": (set(), set()),
    "agents/pi1/inbox/pi2/more": (set(), set()),
    "agents/phone/state": (set(), {"boss", "chief", "eye", "home"}),  # where an agent would write, and this is none
    "orchestrator/inbox/boss": (set(), {"boss"}),
    "orchestrator/state/more": (set(), set()),
    "infer/vgg16/more": (set(), set()),
    "infer/vgg16/result/more": (set(), set()),
    "answers/phone/7/more": (set(), set()),
    "bridge/request": (set(), set()),
    "bridge/request/model-add/more": (set(), set()),
    "secret": (set(), set()),
}
# What each member may read, to end its list with.
LAST = {
    "pi1": "agents/pi1/command",
    "pi2": "agents/pi2/command",
    "boss": "infer/vgg16",
    "phone": "models/vgg16",
    "chief": "models/vgg16",
    "eye": "models/vgg16",
    "home": "models/vgg16",
}
BASE = "kitchen/legion"
# Beside the base: Home Assistant's discovery.
DISCOVERY: dict[str, tuple[set[str], set[str]]] = {
    "homeassistant/device/kitchen_-legion/group/config": ({"boss"}, {"boss", "home"}),
    "homeassistant/device/kitchen_-legion/agent-pi1/config": ({"boss"}, {"boss", "home"}),
    "homeassistant/status": ({"home"}, {"boss", "home"}),
    "homeassistant/device/kitchen/group/config": (set(), set()),
    "homeassistant/device/group/config": (set(), set()),
    "homeassistant/sensor/kitchen_-legion/group/config": (set(), set()),
    "elsewhere/device/kitchen_-legion/group/config": (set(), set()),
}
EVERY = {**{f"{BASE}/{topic}": who for topic, who in TABLE.items()}, **DISCOVERY}
ELSEWHERE = ["agents/pi1/state", "legion/agents/pi1/state", "kitchen/agents/pi1/state", f"{BASE}2/agents/pi1/state"]


def test_the_table_has_every_topic_there_is() -> None:
    topics = Topics(BASE)
    builders = {name for name, _ in inspect.getmembers(Topics, inspect.isfunction) if not name.startswith("_")}
    built = {
        "agent": [topics.agent("pi1", kind) for kind in AGENT_KINDS],
        "assignment": [topics.assignment("pi1", "vgg16")],
        "report": [topics.report("pi1", "ready")],
        "inbox": [topics.inbox("pi1", "pi2"), topics.inbox("orchestrator", "pi1")],
        "probe": [topics.probe("pi1"), topics.probe("orchestrator")],
        "orchestrator_state": [topics.orchestrator_state()],
        "orchestrator_metrics": [topics.orchestrator_metrics()],
        "model": [topics.model("vgg16")],
        "plan": [topics.plan("vgg16")],
        "infer": [topics.infer("vgg16")],
        "result": [topics.result("vgg16")],
        "bridge_request": [topics.bridge_request(operation) for operation in OPERATIONS],
        "bridge_response": [topics.bridge_response(operation) for operation in OPERATIONS],
        "echo": [topics.echo("pi1"), topics.echo("eye")],
        "result_image": [topics.result_image("vgg16")],
        "answer": [topics.answer("phone", "7")],
        "answer_image": [topics.answer_image("phone", "7")],
    }
    assert builders - {"parse"} == set(built)
    assert {topic for each in built.values() for topic in each} <= {f"{BASE}/{topic}" for topic in TABLE}
    assert set(MEMBERS.values()) == set(ROLES)


class Member:
    def __init__(self, broker: RunningBroker, name: str) -> None:
        self.events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self.connection = PahoConnection(replace(broker.address, user=name, password=f"{name}'s"), name, self._on_event)
        self.connection.open(PATIENCE)

    def _on_event(self, event: TransportEvent) -> None:
        self.events.put(event)

    def topics_until(self, end: bytes) -> list[str]:
        """All topics of messages up to the one that says `end`, other ends left out."""
        topics: list[str] = []
        while True:
            event = self.events.get(timeout=PATIENCE)
            if isinstance(event, Message):
                if event.payload == end:
                    return topics
                if event.payload == b"x":
                    topics.append(event.topic)


@pytest.fixture
def join(start_broker) -> Iterator[Callable[[str], Member]]:
    topics = Topics(BASE)
    rules = acl_file((name, grants(role, name, topics)) for name, role in MEMBERS.items())  # type: ignore[arg-type]
    rules += f"\nuser {JUDGE}\ntopic readwrite #\n"
    broker = start_broker({name: f"{name}'s" for name in (*MEMBERS, JUDGE)}, rules)
    made: list[Member] = []

    def make(name: str) -> Member:
        made.append(Member(broker, name))
        return made[-1]

    yield make
    for member in made:
        member.connection.abort()


def test_who_writes(join: Callable[[str], Member]) -> None:
    judge = join(JUDGE)
    judge.connection.subscribe([("#", 1)])
    for name in MEMBERS:
        member = join(name)
        for topic in EVERY:
            member.connection.publish(topic, b"x")
        for topic in ELSEWHERE:
            member.connection.publish(topic, b"x")
        assert member.connection.flush(PATIENCE)
        judge.connection.publish("end", name.encode())
        expected = [topic for topic, (writers, _) in EVERY.items() if name in writers]
        assert judge.topics_until(name.encode()) == expected, name


def test_who_reads(join: Callable[[str], Member]) -> None:
    judge = join(JUDGE)
    members = {name: join(name) for name in MEMBERS}
    for member in members.values():
        member.connection.subscribe([("#", 1)])
    for topic in EVERY:
        judge.connection.publish(topic, b"x", retain=True)
    for topic in ELSEWHERE:
        judge.connection.publish(topic, b"x", retain=True)
    assert judge.connection.flush(PATIENCE)
    for name, member in members.items():
        expected = [topic for topic, (_, readers) in EVERY.items() if name in readers]
        judge.connection.publish(f"{BASE}/{LAST[name]}", name.encode())
        assert member.topics_until(name.encode()) == expected, name
        # What the broker keeps is not read around the list either, nor by the very name of the topic.
        member.connection.subscribe([(topic, 1) for topic in EVERY])
        member.connection.subscribe([("$SYS/#", 1)])
        again = f"{name} again".encode()
        judge.connection.publish(f"{BASE}/{LAST[name]}", again)
        assert set(member.topics_until(again)) == set(expected), name


@pytest.mark.parametrize(
    ("role", "name"),
    [("agent", "orchestrator"), ("client", "orchestrator"), ("agent", "+"), ("observer", "a/b"), ("king", "pi1")],
)
def test_members_that_cannot_be(role: str, name: str) -> None:
    with pytest.raises(UsageError):
        check_member(role, name)


def test_members_that_can_be() -> None:
    assert check_member("orchestrator", "orchestrator") == "orchestrator"
    assert [check_member(role, "x1") for role in ROLES] == list(ROLES)
