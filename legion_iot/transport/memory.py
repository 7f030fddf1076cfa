"""A broker inside this process, with fault knobs; it keeps the same contract as a real one.

Routing happens at once, under one lock; the events it causes go into one bounded queue, and the thread that caused
them delivers them before its call returns, unless another thread (or an outer call of the same one) is delivering
already. So a program with one thread sees every effect in a fixed order and without waiting.

Faults: `drop` loses that share of QoS 0 deliveries, `duplicate` repeats that share of QoS 1 deliveries, both drawn
from a seed; `cut` breaks one client's link; `stop` and `start` are a broker that goes away and comes back empty.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from legion_iot.errors import BrokerError
from legion_iot.transport.connection import (
    CLOSE_TIMEOUT,
    DEFAULT_KEEP_ALIVE,
    Connected,
    Disconnected,
    EventHandler,
    Message,
    Payload,
    QueueLimits,
    TransportEvent,
    Will,
)
from legion_iot.transport.matching import FilterTree, check_filters, check_message, matches

logger = logging.getLogger(__name__)

MAX_RETAINED = 10_000
MAX_DELIVERIES = 100_000
TAKEN_OVER = "another client connected with the same id"


class MemoryBroker:
    """Retained messages, wildcards, wills, take-over; QoS 0 and 1."""

    def __init__(self, *, seed: int = 0, drop: float = 0.0, duplicate: float = 0.0) -> None:
        self.drop = drop
        self.duplicate = duplicate
        self.dropped = 0
        self._random = random.Random(seed)
        self._running = True
        self._clients: dict[str, MemoryConnection] = {}
        self._away: dict[str, MemoryConnection] = {}
        self._retained: dict[str, Message] = {}
        self._tree: FilterTree[MemoryConnection, int] = FilterTree()
        self._events: deque[tuple[MemoryConnection, TransportEvent]] = deque()
        self._delivering = False
        self.changed = threading.Condition(threading.RLock())

    def stop(self) -> None:
        """Go away: every link breaks, no will is published, nothing retained is kept."""
        with self.changed:
            self._running = False
            for client in list(self._clients.values()):
                self._lose(client, "the broker stopped")
                self._away[client.client_id] = client
            self._retained.clear()
        self.deliver()

    def start(self) -> None:
        """Come back: every client that is away connects again."""
        with self.changed:
            self._running = True
            for client_id in list(self._away):
                self._return(client_id)
        self.deliver()

    def cut(self, client_id: str, *, reconnect: bool = True) -> None:
        """Break one client's link: its will is published; it connects again at once, or at `restore`."""
        with self.changed:
            client = self._clients.get(client_id)
            if client is None:
                return
            self._lose(client, "the link was cut")
            self._publish_will(client)
            self._away[client_id] = client
            if reconnect:
                self._return(client_id)
        self.deliver()

    def restore(self, client_id: str) -> None:
        """Let a client that was cut connect again."""
        with self.changed:
            if self._running:
                self._return(client_id)
        self.deliver()

    # -- what connections call, with `changed` held --------------------------------------------------------------------

    def attach(self, client: MemoryConnection) -> None:
        """Accept a client, pushing out an older one of the same id."""
        if not self._running:
            raise BrokerError("the memory broker is stopped: start it first")
        self._away.pop(client.client_id, None)
        older = self._clients.get(client.client_id)
        if older is not None and older is not client:
            self._lose(older, TAKEN_OVER)
            older.ended = TAKEN_OVER
            self._publish_will(older)
        self._clients[client.client_id] = client
        client.linked = True
        self.enqueue(client, Connected())
        self.add_filters(client, list(client.filters.items()))
        waiting, client.waiting = client.waiting, deque()
        client.waiting_bytes = 0
        for message, expires_at, on_acknowledged in waiting:
            if time.monotonic() < expires_at:
                self.route(message, 1)
                if on_acknowledged is not None:
                    on_acknowledged()

    def detach(self, client: MemoryConnection, *, with_will: bool) -> None:
        """Forget a client that ended by itself."""
        if self._away.get(client.client_id) is client:
            del self._away[client.client_id]
        if self._clients.get(client.client_id) is client:
            self._drop_filters(client)
            del self._clients[client.client_id]
            if with_will:
                self._publish_will(client)
        client.linked = False

    def add_filters(self, client: MemoryConnection, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe, and hand over what is retained."""
        for pattern, qos in filters:
            self._tree.put(pattern, client, qos)
            for topic, message in self._retained.items():
                if matches(pattern, topic):
                    self.enqueue(client, message)

    def route(self, message: Message, qos: int) -> None:
        """Carry one message to all who subscribed to it, once each; retain it where it says so."""
        topic = message.topic
        if message.retain and not message.payload:
            self._retained.pop(topic, None)
        elif message.retain:
            if len(self._retained) >= MAX_RETAINED and topic not in self._retained:
                raise BrokerError(f"the memory broker keeps {MAX_RETAINED} retained messages already: clear some")
            self._retained[topic] = message
        live = replace(message, retain=False)
        granted: dict[MemoryConnection, int] = {}
        for client, limit in self._tree.match(topic):
            granted[client] = max(granted.get(client, 0), min(limit, qos))
        for client, effective in granted.items():
            if effective == 0 and self.drop and self._random.random() < self.drop:
                self.dropped += 1
                continue
            self.enqueue(client, live)
            if effective == 1 and self.duplicate and self._random.random() < self.duplicate:
                self.enqueue(client, live)

    def enqueue(self, client: MemoryConnection, event: TransportEvent) -> None:
        """Put one event where `deliver` finds it; beyond the limit messages are lost and counted."""
        if len(self._events) >= MAX_DELIVERIES and isinstance(event, Message):
            self.dropped += 1
            return
        self._events.append((client, event))

    # -- what connections call without it ------------------------------------------------------------------------------

    def deliver(self) -> None:
        """Deliver all that waits, unless somebody does already."""
        with self.changed:
            if self._delivering:
                return
            self._delivering = True
        while True:
            with self.changed:
                if not self._events:
                    self._delivering = False
                    self.changed.notify_all()
                    return
                client, event = self._events.popleft()
                wanted = not client.closed and (client.linked or not isinstance(event, Message))
            if wanted:
                client.emit(event)

    def idle(self) -> bool:
        """Whether everything was delivered."""
        return not self._events and not self._delivering

    def _lose(self, client: MemoryConnection, reason: str) -> None:
        self._drop_filters(client)
        self._clients.pop(client.client_id, None)
        client.linked = False
        self.enqueue(client, Disconnected(reason))

    def _drop_filters(self, client: MemoryConnection) -> None:
        for pattern in client.filters:
            self._tree.remove(pattern, client)

    def _publish_will(self, client: MemoryConnection) -> None:
        if client.will is not None:
            self.route(Message(client.will.topic, client.will.payload, client.will.retain), client.will.qos)

    def _return(self, client_id: str) -> None:
        client = self._away.pop(client_id, None)
        if client is not None:
            self.attach(client)


class MemoryConnection:
    """`Connection` to a `MemoryBroker`."""

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        on_event: EventHandler,
        will: Will | None = None,
        *,
        keep_alive: float = DEFAULT_KEEP_ALIVE,
        limits: QueueLimits | None = None,
    ) -> None:
        self._broker = broker
        self._on_event = on_event
        self._limits = limits or QueueLimits()
        # Read and written by the broker, under its lock.
        self.client_id = client_id
        self.will = will
        self.filters: dict[str, int] = {}
        self.linked = False
        self.closed = True
        self.ended: str | None = "the connection is not open"
        # Messages, when they expire, and who is told.
        self.waiting: deque[tuple[Message, float, Callable[[], None] | None]] = deque()
        self.waiting_bytes = 0

    def open(self, timeout: float) -> None:
        """See `Connection.open`."""
        with self._broker.changed:
            if self.linked:
                raise BrokerError(f"{self.client_id} is connected already; close it before opening it again")
            self._broker.attach(self)
            self.closed, self.ended = False, None
        self._broker.deliver()

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """See `Connection.subscribe`."""
        check_filters(filters)
        with self._broker.changed:
            self.filters.update(filters)
            if self.linked:
                self._broker.add_filters(self, filters)
        self._broker.deliver()

    def publish(
        self,
        topic: str,
        payload: Payload,
        *,
        qos: int = 1,
        retain: bool = False,
        correlation: bytes = b"",
        response_topic: str = "",
        expiry: int = 0,
        on_acknowledged: Callable[[], None] | None = None,
    ) -> None:
        """See `Connection.publish`."""
        check_message(topic, qos)
        data = b"".join(payload) if isinstance(payload, tuple) else bytes(payload)
        message = Message(topic, data, retain, response_topic, correlation, expiry)
        with self._broker.changed:
            if self.ended is not None:
                raise BrokerError(f"cannot publish on {topic}: {self.ended}")
            if self.linked:
                self._broker.route(message, qos)
                if qos and on_acknowledged is not None:
                    on_acknowledged()
            elif qos:
                full = len(self.waiting) >= self._limits.messages or self.waiting_bytes + len(data) > self._limits.bytes
                if self.waiting and full:
                    raise BrokerError(f"{len(self.waiting)} messages wait for the memory broker: start it")
                expires_at = time.monotonic() + expiry if expiry else math.inf
                self.waiting.append((message, expires_at, on_acknowledged))
                self.waiting_bytes += len(data)
        self._broker.deliver()

    def flush(self, timeout: float) -> bool:
        """See `Connection.flush`."""
        self._broker.deliver()
        with self._broker.changed:
            return self._broker.changed.wait_for(lambda: not self.waiting and self._broker.idle(), timeout)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """See `Connection.close`."""
        self._end("the connection is closed", with_will=False)

    def abort(self) -> None:
        """See `Connection.abort`."""
        self._end("the connection was aborted", with_will=True)

    def emit(self, event: TransportEvent) -> None:
        """Call the event handler; its failure is logged and changes nothing."""
        try:
            self._on_event(event)
        except Exception:
            logger.exception("the event handler of %s failed on %s", self.client_id, type(event).__name__)

    def _end(self, why: str, *, with_will: bool) -> None:
        with self._broker.changed:
            if self.closed:
                return
            self.closed, self.ended = True, why
            self._broker.detach(self, with_will=with_will)
        self._broker.deliver()
