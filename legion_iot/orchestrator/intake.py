"""Requests of clients, or of operators, on a connection of their own: a heartbeat does not wait behind a picture.

For requests of clients, its client id is the group's, whichever process serves it, so that what is published while none
does is kept in the broker's session for the next one. Each request is `admit`ted on the network's thread, before the
broker is told that it has arrived, and no more of them wait than fit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from legion_iot.errors import BrokerError
from legion_iot.transport.connection import BrokerAddress, Disconnected, Message, TransportEvent
from legion_iot.transport.paho import TAKEN_OVER, PahoConnection

log = logging.getLogger("legion-orchestrator")

OPEN_TIMEOUT = 15.0  # seconds
MOST_WAITING = 256  # requests that were admitted and not looked at,
MOST_BYTES = 128 << 20  # and of their payloads


@dataclass(frozen=True, slots=True)
class Request:
    """A message that was admitted under a name."""

    name: str
    message: Message


class Intake:
    """Hands requests to `put`, on the network's thread; whoever takes one up says so to `taken`.

    `admit` says under which name a message is to come, or None where it is not; it is told whether too much waits
    already. For `session_seconds` after the connection has ended, the broker keeps what is published at QoS 1.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        session_seconds: int,
        admit: Callable[[Message, bool], str | None],
        put: Callable[[Request], None],
    ) -> None:
        self._admit, self._put = admit, put
        self._count = self._bytes = 0
        self._lock = threading.Lock()
        self._topics = ""
        self._is_taken_over = False
        self._connection = PahoConnection(address, client_id, self._on_event, session_seconds=session_seconds)

    def open(self, topics: str) -> None:
        """Connect and subscribe; raises BrokerError."""
        self._topics, self._is_taken_over = topics, False
        self._connection.open(OPEN_TIMEOUT)
        self._connection.subscribe([(topics, 1)])

    def keep(self) -> None:
        """Connect again where another process took the connection over, as one that has ended since may have done."""
        if self._is_taken_over:
            self._connection.close()
            try:
                self.open(self._topics)
            except BrokerError as error:
                self._is_taken_over = True
                log.warning("requests cannot be taken now: %s", error)

    def close(self) -> None:
        """End the connection; idempotent."""
        self._connection.close()

    def taken(self, request: Request) -> None:
        """It waits no longer."""
        with self._lock:
            self._count -= 1
            self._bytes -= len(request.message.payload)

    def _on_event(self, event: TransportEvent) -> None:
        if isinstance(event, Disconnected) and event.reason == TAKEN_OVER:
            self._is_taken_over = True
        if not isinstance(event, Message):
            return
        size = len(event.payload)
        with self._lock:
            crowded = self._count >= MOST_WAITING or (self._count > 0 and self._bytes + size > MOST_BYTES)
        name = self._admit(event, crowded)
        if name is not None:
            with self._lock:
                self._count += 1
                self._bytes += size
            self._put(Request(name, event))
