"""Broker addresses, and the outgoing queue without a broker."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import BrokerError, UsageError
from legion_iot.transport import BrokerAddress, QueueLimits
from legion_iot.transport.memory import MemoryBroker, MemoryConnection
from legion_iot.transport.outbox import Outbox, Outgoing
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.sockets import Flapping


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("mqtt://pi", BrokerAddress("pi"), "mqtt://pi:1883"),
        ("mqtt://pi:1/", BrokerAddress("pi", 1), "mqtt://pi:1"),
        ("mqtts://pi", BrokerAddress("pi", 8883, tls=True), "mqtts://pi:8883"),
        ("mqtt://u%40e@pi:7", BrokerAddress("pi", 7, "u@e"), "mqtt://u@e@pi:7"),
        ("mqtt://u@[::1]:7", BrokerAddress("::1", 7, "u"), "mqtt://u@[::1]:7"),
    ],
)
def test_addresses(url: str, address: BrokerAddress, shown: str) -> None:
    assert BrokerAddress.parse(url) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "url",
    [
        *["", "pi", "pi:1883", "http://pi", "mqtt://", "mqtt://:1", "mqtt://pi:x", "mqtt://pi:0", "mqtt://pi:70000"],
        *[
            "mqtt://pi/topic",
            "mqtt://pi?x",
            "mqtt://p i",
            "mqtt://:secret@pi",
            "mqtt://u:secret@pi",
            "mqtt://@pi",
            "mqtt://[::1",
            "mqtt://pi\n",
        ],
    ],
)
def test_rubbish_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(UsageError, match="is not mqtt://") as caught:
        BrokerAddress.parse(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        BrokerAddress.parse("mqtt://" + text)


def test_an_unknown_host_is_named() -> None:
    connection = PahoConnection(BrokerAddress("no-such-host.invalid"), "a", lambda _: None)
    with pytest.raises(BrokerError, match=r"no-such-host\.invalid"):
        connection.open(5.0)


def message(name: str, qos: int = 1, size: int = 1) -> Outgoing:
    return Outgoing(name, b"x" * size, qos, False)


def test_the_window_bounds_what_is_under_way() -> None:
    box = Outbox(QueueLimits(window_messages=2))
    box.link_up(65_535)
    for name in "abc":
        box.put(message(name))
    for number in (1, 2):
        assert box.take() is not None
        box.handed(number)
    assert box.take() is None
    assert box.done(1) == message("a")
    assert box.take() == message("c")


def test_a_broker_may_want_a_smaller_window() -> None:
    box = Outbox(QueueLimits())
    box.link_up(1)
    box.put(message("a"))
    box.put(message("b"))
    assert box.take() is not None
    box.handed(1)
    assert box.take() is None


def test_nothing_overtakes_what_is_sent_again() -> None:
    box = Outbox(QueueLimits())
    box.link_up(10)
    box.put(message("a"))
    box.take()
    box.handed(1)
    box.link_down()
    box.put(message("b"))
    box.put(message("lost", qos=0))
    box.link_up(10)
    assert box.take() is None
    box.done(1)
    assert box.take() == message("b")
    box.handed(2)
    box.done(2)
    assert len(box) == 0
    assert box.has_room(1 << 30)


def test_an_acknowledgement_may_come_before_its_number_is_known() -> None:
    box = Outbox(QueueLimits())
    box.link_up(10)
    box.put(message("a"))
    box.take()
    assert box.done(7) is None
    box.handed(7)
    assert len(box) == 0


@pytest.mark.parametrize(
    ("qos", "drop", "duplicate", "expected"),
    [
        (0, 0.5, 0.0, range(20, 80)),
        (1, 0.5, 0.0, range(100, 101)),
        (1, 0.0, 0.5, range(120, 180)),
        (0, 0.0, 0.5, range(100, 101)),
    ],
)
def test_faults_follow_their_seed_and_the_qos(qos: int, drop: float, duplicate: float, expected: range) -> None:
    def run() -> list[object]:
        got: list[object] = []
        broker = MemoryBroker(seed=7, drop=drop, duplicate=duplicate)
        connection = MemoryConnection(broker, "a", got.append)
        connection.open(1.0)
        connection.subscribe([("t", 1)])
        for number in range(100):
            connection.publish("t", bytes([number]), qos=qos)
        return got[1:]

    got = run()
    assert got == run()
    assert len(got) in expected


def test_a_cut_client_comes_back_when_it_is_told_to() -> None:
    events: list[object] = []
    broker = MemoryBroker()
    connection = MemoryConnection(broker, "a", lambda event: events.append(type(event).__name__))
    connection.open(1.0)
    broker.cut("a", reconnect=False)
    connection.publish("t", b"kept")
    broker.restore("a")
    assert connection.flush(1.0)
    broker.cut("a")
    assert events == ["Connected", "Disconnected", "Connected", "Disconnected", "Connected"]


def test_waits_grow_while_links_end_at_once() -> None:
    flapping = Flapping()
    waits = []
    for _ in range(8):
        flapping.link_lasted(0.1)
        waits.append(flapping.wait_range(1, 8))
    assert waits == [(1, 8), (2, 8), (4, 8), (8, 8), (16, 16), (32, 32), (32, 32), (32, 32)]
    flapping.link_lasted(60.0)
    assert flapping.wait_range(1, 8) == (1, 8)
