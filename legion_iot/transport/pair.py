"""The two connections of one participant, control and data, feeding one bounded queue.

Control carries the will, commands and reports, data carries fragments and model chunks: a heartbeat never waits behind
a feature map (findings: 1,221 ms on one connection, 4.6 ms on its own). The network threads only enqueue. What finds
the queue full is not acknowledged, so that its sender runs out of credit and sends it again later.
"""

from __future__ import annotations

import logging
import queue
import secrets
from collections.abc import Sequence
from typing import TypeAlias

from legion_iot.errors import BrokerError, ProtocolError
from legion_iot.transport.connection import (
    BrokerAddress,
    Connected,
    Disconnected,
    Message,
    QueueLimits,
    Refused,
    TransportEvent,
    Will,
)
from legion_iot.transport.fragments import FragmentLink, FragmentsArrived, Outgoing, Undelivered
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import Parcel, Receipt
from legion_iot.wire.tensors import INBOX
from legion_iot.wire.topics import InboxTopic, ParsedTopic, Topics

log = logging.getLogger(__name__)

INBOX_LIMIT = 1024  # messages of at most 512 KB
CONTROL_LIMIT = 2 * INBOX_LIMIT  # for what comes over the control connection
MAX_TOPICS = 256  # whose meaning is remembered
OPEN_TIMEOUT = 15.0
DATA_KEEP_ALIVE = 60.0
DATA_LIMITS = QueueLimits(messages=65536, bytes=512 << 20)


PairEvent: TypeAlias = Connected | Disconnected | Message | FragmentsArrived | Undelivered


class ConnectionPair:
    """Control and data connection under one client id.

    `name` is the participant's, as it stands in topics: fragments go from its name to another one.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        will: Will,
        topics: Topics,
        name: str,
    ) -> None:
        self._address = address
        self._topics, self._name = topics, name
        self._refusal: BrokerError | None = None
        self._events: queue.SimpleQueue[PairEvent | None] = queue.SimpleQueue()
        self._places: dict[str, ParsedTopic] = {}
        self.control = PahoConnection(address, client_id, self._on_control, will, is_urgent=True)
        self.data = PahoConnection(
            address,
            f"{client_id}-data",
            self._on_data,
            keep_alive=DATA_KEEP_ALIVE,
            limits=DATA_LIMITS,
            on_round=self._hand_over,
        )
        self._arrived: list[FragmentsArrived] = []  # in this round, for the data connection's thread alone
        self._fragments = FragmentLink(self.data, topics, name, secrets.randbits(48), self._on_fragments)

    def open(self, control: Sequence[tuple[str, int]]) -> None:
        """Connect and subscribe, data first, so that nothing can be sent to us before we can take it.

        Raises BrokerError, and leaves neither connected then.
        """
        try:
            self.data.open(OPEN_TIMEOUT)
            self.data.subscribe([(self._topics.inbox(self._name, "+"), 1)])
            self.control.open(OPEN_TIMEOUT)
            self.control.subscribe(control)
        except BaseException:
            self.close()
            raise

    @property
    def delivered(self) -> bool:
        """Whether all regions that were sent have arrived, or been given up."""
        return self._fragments.delivered

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes of payloads, sent and received, over both connections."""
        both = (self.control, self.data)
        return sum(each.bytes_sent for each in both), sum(each.bytes_received for each in both)

    def send(self, regions: Sequence[Outgoing]) -> None:
        """Send regions of feature maps to other participants, small ones first, without waiting for the network.

        Nobody may write into their values any more. What cannot be delivered comes back as `Undelivered`.
        """
        self._fragments.send(regions)

    def next(self, timeout: float) -> PairEvent | None:
        """The next event; None after `timeout` seconds without, or a `wake`.

        `Connected` and `Disconnected` are the control connection's. Raises BrokerError when the broker does not take us
        any more.
        """
        if self._refusal is not None:
            raise self._refusal
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def wake(self) -> None:
        """End a `next` that waits; may be called from any thread."""
        self._events.put(None)

    def close(self) -> None:
        """Say goodbye on both connections; the will is not published."""
        self._fragments.close()
        self.control.close()
        self.data.close()

    def _on_control(self, event: TransportEvent) -> None:
        if isinstance(event, Refused):
            self._refusal = event.error
        elif isinstance(event, Disconnected):
            log.warning("connection to %s lost: %s", self._address, event.reason)
            self._events.put(event)
        elif isinstance(event, Connected):
            self._events.put(event)
        else:
            self._enqueue(event)

    def _on_data(self, event: TransportEvent) -> None:
        if isinstance(event, Refused):
            self._refusal = event.error
        elif isinstance(event, Connected):
            self._fragments.link_up()
        elif isinstance(event, Message):
            try:
                self._on_inbox(event)
            except ProtocolError as error:
                log.warning("dropped a message on %s: %s", event.topic, error)

    def _on_inbox(self, message: Message) -> None:
        place = self._place(message.topic)
        content, body = codec.unpack(INBOX, message.payload)
        if not isinstance(content, (Parcel, Receipt)) or not isinstance(place, InboxTopic):
            self._enqueue(message)
        elif isinstance(content, Receipt) or self._events.qsize() + len(self._arrived) < INBOX_LIMIT:
            self._fragments.take(place.sender, content, body)
            if isinstance(content, Parcel) and content.follows > 0:
                self.data.expect(content.follows)

    def _on_fragments(self, event: FragmentsArrived | Undelivered) -> None:
        if isinstance(event, FragmentsArrived):
            self._arrived.append(event)
        else:
            self._enqueue(event)

    def _hand_over(self) -> None:
        # Not one by one: whoever waits for them would have to be given the interpreter, and give it back, for each.
        arrived, self._arrived = self._arrived, []
        for event in arrived:
            self._enqueue(event)

    def _place(self, topic: str) -> ParsedTopic:
        place = self._places.get(topic)
        if place is None:
            if len(self._places) >= MAX_TOPICS:
                self._places.clear()
            place = self._places[topic] = self._topics.parse(topic)
        return place

    def _enqueue(self, event: PairEvent) -> None:
        if self._events.qsize() >= CONTROL_LIMIT:
            log.error("dropped a message: %d are waiting already", CONTROL_LIMIT)
            return
        self._events.put(event)
