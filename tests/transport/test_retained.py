"""All that brokers retain, read at once: more than their windows hold, and nothing where there is nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from legion_iot.transport.connection import Message
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.retained import read_retained

from .conftest import PATIENCE, _Real, require_mosquitto


@pytest.fixture(params=["embedded", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> Iterator[_Real]:
    if request.param == "mosquitto":
        require_mosquitto()
    running = _Real(request.param)
    yield running
    running.stop()


def test_all_of_it_and_nothing_else(broker: _Real) -> None:
    assert broker.address is not None
    assert read_retained(broker.address, "reader", ["a/#", "b/+"]) == []
    sender = PahoConnection(broker.address, "sender", lambda event: None)
    sender.open(PATIENCE)
    wanted = {f"a/{number}/x": bytes([number]) * 20_000 for number in range(150)} | {"b/1": b"one"}
    for topic, payload in {**wanted, "c/1": b"other", "b/1/2": b"deeper"}.items():
        sender.publish(topic, payload, retain=True)
    sender.publish("a/cleared", b"x", retain=True)
    sender.publish("a/cleared", b"", retain=True)
    assert sender.flush(PATIENCE)
    found = read_retained(broker.address, "reader", ["a/#", "b/+"])
    assert sorted(found, key=lambda message: message.topic) == [
        Message(topic, payload, retain=True) for topic, payload in sorted(wanted.items())
    ]
    sender.close()
