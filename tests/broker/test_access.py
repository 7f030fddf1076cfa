"""Users and access lists: the same texts mean the same to Mosquitto and to the embedded broker."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from legion_iot.errors import BrokerError, UsageError
from legion_iot.transport import Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot_broker.access import AccessList, Users, hash_password, password_file
from legion_iot_broker.embedded import EmbeddedBroker
from legion_iot_broker.launch import RunningBroker
from legion_iot_broker.mosquitto import MosquittoProcess

PATIENCE = 20.0
USERS = {"pi1": "one", "pi2": "two", "boss": "three"}
ACL = """
# the orchestrator
user boss
topic readwrite base/#
topic deny base/secret

pattern write base/agents/%u/state
pattern read base/agents/%u/command
pattern write base/agents/+/inbox/%c
pattern read base/open/#
"""


class User:
    def __init__(self, broker: RunningBroker, user: str, client_id: str) -> None:
        self.events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        address = replace(broker.address, user=user, password=USERS[user])
        self.connection = PahoConnection(address, client_id, self.events.put)
        self.connection.open(PATIENCE)

    def topics_until(self, last: str) -> list[str]:
        topics: list[str] = []
        while not topics or topics[-1] != last:
            event = self.events.get(timeout=PATIENCE)
            if isinstance(event, Message):
                topics.append(event.topic)
        return topics


@pytest.fixture
def join(start_broker) -> Iterator[Callable[..., User]]:
    broker = start_broker(USERS, ACL)
    made: list[User] = []

    def make(user: str, client_id: str | None = None) -> User:
        made.append(User(broker, user, client_id or f"{user}-control"))
        return made[-1]

    yield make
    for user in made:
        user.connection.abort()


def test_writing_is_denied_unless_allowed(join: Callable[..., User]) -> None:
    boss, pi1 = join("boss"), join("pi1")
    boss.connection.subscribe([("#", 1)])
    allowed = ["base/agents/pi1/state", "base/agents/pi2/inbox/pi1-control"]
    denied = ["base/agents/pi2/state", "base/agents/pi2/inbox/pi2-control", "base/secret", "base/open/x", "elsewhere"]
    for topic in [*denied, *allowed]:
        pi1.connection.publish(topic, b"x")
    boss.connection.publish("elsewhere", b"x")
    boss.connection.publish("base/secret", b"x")
    assert pi1.connection.flush(PATIENCE)
    boss.connection.publish("base/end", b"x")
    assert boss.topics_until("base/end") == [*allowed, "base/end"]


def test_reading_is_denied_unless_allowed(join: Callable[..., User]) -> None:
    boss, pi1 = join("boss"), join("pi1")
    pi1.connection.subscribe([("#", 1)])
    for topic in ("base/agents/pi2/command", "base/agents/pi1/command", "base/secret", "base/x", "base/open/end"):
        boss.connection.publish(topic, b"x")
    assert pi1.topics_until("base/open/end") == ["base/agents/pi1/command", "base/open/end"]


def test_a_retained_message_is_not_read_around_the_list(join: Callable[..., User]) -> None:
    boss, pi2 = join("boss"), join("pi2")
    boss.connection.publish("base/agents/pi1/command", b"x", retain=True)
    boss.connection.publish("base/open/end", b"x", retain=True)
    assert boss.connection.flush(PATIENCE)
    pi2.connection.subscribe([("base/#", 1)])
    assert pi2.topics_until("base/open/end") == ["base/open/end"]


@pytest.mark.parametrize(("user", "password"), [("pi1", "two"), ("pi1", ""), ("nobody", "one"), (None, None)])
def test_wrong_credentials_are_refused(start_broker, user: str | None, password: str | None) -> None:
    broker = start_broker(USERS)
    connection = PahoConnection(replace(broker.address, user=user, password=password), "a", lambda _: None)
    with pytest.raises(BrokerError, match="check user and password"):
        connection.open(PATIENCE)


@pytest.mark.parametrize("kind", [EmbeddedBroker, MosquittoProcess])
def test_an_open_broker_stays_on_this_machine(kind: type) -> None:
    try:
        with pytest.raises(UsageError, match="users and passwords"):
            kind(host="0.0.0.0")
    except BrokerError:
        pytest.skip("mosquitto is not installed")


def test_password_files() -> None:
    users = Users(password_file({"a": "secret", "b": "pä$$:word"}))
    assert users.accepts("a", b"secret")
    assert users.accepts("b", "pä$$:word".encode())
    assert not users.accepts("a", b"secret2")
    assert not users.accepts("c", b"")
    assert hash_password("x") != hash_password("x")


@pytest.mark.parametrize(
    "text", ["a", "a:b", "a:$6$x$y", "a:$7$0$AAAA$AAAA", "a:$7$9999999999$AAAA$AAAA", "a:$7$1$A$*", ":$7$1$AAAA$AAAA"]
)
def test_broken_password_files_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="password file, line 1"):
        Users(text)


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "+", "a#", "a\nb", " a"])
def test_user_names_cannot_break_out(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        password_file({name: "x"})


@pytest.mark.parametrize("text", ["topic", "user", "allow all", "topic read a/#/b", "pattern"])
def test_broken_access_lists_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="ACL file, line 2"):
        AccessList.parse("# first\n" + text)


def test_names_with_wildcards_do_not_widen_patterns() -> None:
    rules = AccessList.parse("pattern readwrite home/%u/%c\n")
    assert rules.allows("a", "c", "home/a/c", "read")
    assert not rules.allows("+", "c", "home/a/c", "read")
    assert not rules.allows("a", "#", "home/a/c", "write")
    assert not rules.allows("a/c", "x", "home/a/c", "read")
    assert not rules.allows(None, "c", "home//c", "read")
    assert rules.allows("%c", "x", "home/%c/x", "read")
    assert not rules.allows("%c", "x", "home/x/x", "read")


def test_topic_lines_before_any_user_are_for_anonymous_clients() -> None:
    rules = AccessList.parse("topic read open\nuser a\ntopic shut\n")
    assert rules.allows(None, "c", "open", "read")
    assert not rules.allows(None, "c", "open", "write")
    assert not rules.allows("a", "c", "open", "read")
    assert rules.allows("a", "c", "shut", "write")
