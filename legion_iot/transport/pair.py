"""The two connections of one participant, control and data, feeding one bounded queue.

Control carries the will, commands and reports, data carries fragments and model chunks: a heartbeat never waits behind
a feature map (findings: 1,221 ms on one connection, 4.6 ms on its own). The network threads only enqueue. A full queue
holds the data connection's thread, and by TCP the broker, instead of dropping what was paid for.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import time
from collections.abc import Callable, Sequence

from legion_iot.transport.connection import (
    BrokerAddress,
    Connected,
    Disconnected,
    Message,
    QueueLimits,
    TransportEvent,
    Will,
)
from legion_iot.transport.paho import PahoConnection

log = logging.getLogger(__name__)

INBOX_LIMIT = 1024  # messages of at most 256 KB
INBOX_WAIT = 60.0  # seconds until a message is dropped after all
OPEN_TIMEOUT = 15.0
DATA_KEEP_ALIVE = 60.0
DATA_LIMITS = QueueLimits(messages=65536, bytes=512 << 20)


class ConnectionPair:
    """Control and data connection under one client id; `on_lost(reason)` hears of a lost control connection."""

    def __init__(self, address: BrokerAddress, client_id: str, will: Will, on_lost: Callable[[str], None]) -> None:
        self._address = address
        self._on_lost = on_lost
        self._events: queue.Queue[Connected | Message] = queue.Queue(INBOX_LIMIT)
        self.control = PahoConnection(address, client_id, self._on_control, will)
        self.data = PahoConnection(
            address, f"{client_id}-data", self._on_data, keep_alive=DATA_KEEP_ALIVE, limits=DATA_LIMITS
        )

    def open(self, control: Sequence[tuple[str, int]], data: Sequence[tuple[str, int]]) -> None:
        """Connect and subscribe, data first, so that nothing can be sent to us before we can take it.

        Raises BrokerError, and leaves neither connected then.
        """
        try:
            self.data.open(OPEN_TIMEOUT)
            self.data.subscribe(data)
            self.control.open(OPEN_TIMEOUT)
            self.control.subscribe(control)
        except BaseException:
            self.close()
            raise

    def next(self, timeout: float) -> Connected | Message | None:
        """The next message, or that control is connected (again); None after `timeout` seconds without."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Say goodbye on both connections; the will is not published."""
        self.control.close()
        self.data.close()

    def _on_control(self, event: TransportEvent) -> None:
        if isinstance(event, Disconnected):
            log.warning("connection to %s lost: %s", self._address, event.reason)
            self._on_lost(event.reason)
        else:
            self._enqueue(event)

    def _on_data(self, event: TransportEvent) -> None:
        if isinstance(event, Message):
            self._enqueue(event)

    def _enqueue(self, event: Connected | Message) -> None:
        if isinstance(event, Message):
            event = dataclasses.replace(event, received=time.monotonic())
        try:
            self._events.put(event, timeout=INBOX_WAIT)
        except queue.Full:
            log.error("dropped a message: %d are waiting already", INBOX_LIMIT)
