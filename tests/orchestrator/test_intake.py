"""Requests as they come from a Mosquitto: kept while nobody takes them, and never more than fit."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator

import pytest

from legion_iot.orchestrator import intake as module
from legion_iot.orchestrator.intake import Intake, Request
from legion_iot.transport.connection import BrokerAddress, Message
from legion_iot.transport.paho import PahoConnection
from legion_iot_broker.embedded import EmbeddedBroker
from legion_iot_broker.mosquitto import MosquittoProcess, find_mosquitto

PATIENCE = 20.0


@pytest.fixture
def address() -> Iterator[BrokerAddress]:
    if find_mosquitto() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("mosquitto is missing, and CI may not skip its tests")
        pytest.skip("mosquitto is not installed")
    with MosquittoProcess() as broker:
        yield broker.address


class Taker:
    def __init__(self, address: BrokerAddress, session_seconds: int = 60) -> None:
        self.requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self.crowded: list[bool] = []
        self.intake = Intake(address, "taker", session_seconds, self.admit, self.requests.put)
        self.intake.open("infer/+")

    def admit(self, message: Message, crowded: bool) -> str | None:
        self.crowded.append(crowded)
        return None if crowded else f"r{len(self.crowded)}"

    def take(self) -> Request:
        request = self.requests.get(timeout=PATIENCE)
        self.intake.taken(request)
        return request


@pytest.fixture
def client(address: BrokerAddress) -> Iterator[PahoConnection]:
    connection = PahoConnection(address, "client", lambda event: None)
    connection.open(PATIENCE)
    yield connection
    connection.close()


def test_what_is_published_while_nobody_takes_it_is_kept_for_the_next(
    address: BrokerAddress, client: PahoConnection
) -> None:
    first = Taker(address)
    client.publish("infer/a", b"1")
    assert first.take().message.payload == b"1"
    first.intake.close()
    for payload in (b"2", b"3"):
        client.publish("infer/a", payload)
    assert client.flush(PATIENCE)
    second = Taker(address)
    assert [second.take().message.payload for _ in range(2)] == [b"2", b"3"]
    second.intake.close()


def test_nothing_is_kept_where_that_is_not_wanted(address: BrokerAddress, client: PahoConnection) -> None:
    Taker(address, session_seconds=0).intake.close()
    client.publish("infer/a", b"lost")
    assert client.flush(PATIENCE)
    second = Taker(address, session_seconds=0)
    client.publish("infer/a", b"here")
    assert second.take().message.payload == b"here"
    second.intake.close()


@pytest.mark.parametrize(("count", "size"), [(3, 1 << 20), (1000, 30)])
def test_no_more_wait_than_fit(
    address: BrokerAddress, client: PahoConnection, monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", count)
    monkeypatch.setattr(module, "MOST_BYTES", size)
    taker = Taker(address)
    for _ in range(5):
        client.publish("infer/a", b"0123456789")
    taken = [taker.requests.get(timeout=PATIENCE) for _ in range(3)]
    deadline = time.monotonic() + PATIENCE
    while len(taker.crowded) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for request in taken:
        taker.intake.taken(request)
    client.publish("infer/a", b"again")
    assert taker.take().message.payload == b"again"
    assert taker.crowded == [False, False, False, True, True, False]
    taker.intake.close()


def test_who_stays_has_its_connection_back_from_who_took_it_over() -> None:
    with EmbeddedBroker() as broker:  # which says why it ends a connection, so that nobody comes back by itself
        first, second = Taker(broker.address), Taker(broker.address)
        second.intake.close()
        sender = PahoConnection(broker.address, "client", lambda event: None)
        sender.open(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while first.requests.empty():
            assert time.monotonic() < deadline
            first.intake.keep()
            sender.publish("infer/a", b"1")
            assert sender.flush(PATIENCE)
        assert first.take().message.payload == b"1"
        first.intake.close()
        sender.close()
