"""The three brokers that the contract suite runs against, behind one handle."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from legion_iot.transport.connection import (
    BrokerAddress,
    Connected,
    Connection,
    Disconnected,
    Message,
    QueueLimits,
    TransportEvent,
    Will,
)
from legion_iot.transport.memory import MemoryBroker, MemoryConnection
from legion_iot.transport.paho import PahoConnection
from legion_iot_broker.embedded import EmbeddedBroker
from legion_iot_broker.mosquitto import MosquittoProcess, find_mosquitto

# Generous: it bounds a failing test, and a passing one never waits for it.
PATIENCE = 20.0


class Client:
    """A connection and the events it emitted, to be awaited one by one."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self.connection: Connection

    def next(self, kind: type[TransportEvent], timeout: float = PATIENCE) -> TransportEvent:
        """The next event of that kind; others before it are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            event = self.events.get(timeout=max(0.001, deadline - time.monotonic()))
            if isinstance(event, kind):
                return event

    def message(self) -> Message:
        event = self.next(Message)
        assert isinstance(event, Message)
        return event

    def disconnected(self) -> Disconnected:
        event = self.next(Disconnected)
        assert isinstance(event, Disconnected)
        return event

    def connected(self) -> None:
        self.next(Connected)

    def pending(self) -> list[TransportEvent]:
        """All that has arrived already."""
        found = []
        while not self.events.empty():
            found.append(self.events.get())
        return found


class Broker(Protocol):
    def connect(self, client_id: str, on_event: Callable[[TransportEvent], None], **options: object) -> Connection: ...
    def stop(self) -> None: ...
    def start(self) -> None: ...


class _Memory:
    kind = "memory"

    def __init__(self) -> None:
        self._broker = MemoryBroker()

    def connect(
        self,
        client_id: str,
        on_event: Callable[[TransportEvent], None],
        will: Will | None = None,
        keep_alive: float = 10,
        limits: QueueLimits | None = None,
    ) -> Connection:
        return MemoryConnection(self._broker, client_id, on_event, will, keep_alive=keep_alive, limits=limits)

    def stop(self) -> None:
        self._broker.stop()

    def start(self) -> None:
        self._broker.start()


class _Real:
    """A broker behind a socket, which comes back on the port it had."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.address: BrokerAddress | None = None
        self._broker: EmbeddedBroker | MosquittoProcess | None = None
        self.start()

    def connect(
        self,
        client_id: str,
        on_event: Callable[[TransportEvent], None],
        will: Will | None = None,
        keep_alive: float = 10,
        limits: QueueLimits | None = None,
    ) -> Connection:
        assert self.address is not None
        return PahoConnection(self.address, client_id, on_event, will, keep_alive=keep_alive, limits=limits)

    def stop(self) -> None:
        if self._broker is not None:
            self._broker.stop()
            self._broker = None

    def start(self) -> None:
        port = self.address.port if self.address else 0
        self._broker = EmbeddedBroker(port=port) if self.kind == "embedded" else MosquittoProcess(port=port)
        self._broker.start()
        self.address = self._broker.address


def require_mosquitto() -> None:
    """Skip without Mosquitto on a developer's machine; fail in CI, where it must be installed."""
    if find_mosquitto() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("mosquitto is missing, and CI may not skip its tests")
        pytest.skip("mosquitto is not installed")


@pytest.fixture(params=["memory", "embedded", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> Iterator[_Memory | _Real]:
    if request.param == "mosquitto":
        require_mosquitto()
    running = _Memory() if request.param == "memory" else _Real(request.param)
    yield running
    running.stop()


@pytest.fixture
def connect(broker: _Memory | _Real) -> Iterator[Callable[..., Client]]:
    """Make clients, open unless told otherwise, and close them all at the end."""
    made: list[Client] = []

    def make(client_id: str = "client", *, opened: bool = True, **options: object) -> Client:
        client = Client()
        client.connection = broker.connect(client_id, client.events.put, **options)  # type: ignore[arg-type]
        made.append(client)
        if opened:
            client.connection.open(PATIENCE)
            client.connected()
        return client

    yield make
    for client in made:
        client.connection.abort()
