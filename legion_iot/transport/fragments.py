"""Fragments from one participant to another: `wire.delivery` with a connection, a clock and a lock around it.

Everything happens on the thread that sends or the one that receives, so neither waits for the other's computing. A
third thread looks whether a receipt is due or a receiver late. While fragments come and go it does so by the clock:
to wake it up for each of them costs a slow processor too much.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from legion_iot.errors import BrokerError
from legion_iot.model.geometry import Region
from legion_iot.transport.connection import Payload
from legion_iot.wire import codec, delivery
from legion_iot.wire.messages import Fragment, Parcel, Receipt
from legion_iot.wire.tensors import Array, Piece, fragments, open_parcel, pack_parcel, region_of, wire_bytes
from legion_iot.wire.topics import Topics

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # between two looks
LINGER_SECONDS = 2.0  # and for so long after the last one that found something due


@dataclass(frozen=True, slots=True)
class FragmentsArrived:
    """The fragments of one message, each with its elements; `received` on this machine's monotonic clock."""

    sender: str
    fragments: list[tuple[Fragment, memoryview]]
    received: float


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """`header.region` of `values`, (rows, columns, channels) of the region `origin`, for `target`."""

    target: str
    header: Fragment
    values: Array
    origin: Region

    @property
    def size(self) -> int:
        """Bytes of its elements, before they are quantised."""
        return region_of(self.header.region).area * int(self.values.shape[2]) * int(self.values.itemsize)

    @property
    def carried(self) -> int:
        """Bytes that will travel for it; 0 where it is packed, and nobody knows before."""
        if self.header.codec:
            return 0
        header = self.header
        return wire_bytes(region_of(header.region), header.channels, header.dtype, header.wire)


@dataclass(frozen=True, slots=True)
class Undelivered:
    """`target` acknowledges nothing: what these requests, (epoch, request), had for it is given up."""

    target: str
    requests: tuple[tuple[int, str], ...]
    reason: str


class Publisher(Protocol):
    """What of a connection is needed; see `Connection.publish`."""

    def publish(self, topic: str, payload: Payload, *, qos: int = 1) -> None: ...


class FragmentLink:
    """One participant's fragments, out and in; `stream` is a number that no other run of it has.

    `emit` takes an event, on the receiving thread or one of our own, and must not wait.
    """

    def __init__(
        self,
        connection: Publisher,
        topics: Topics,
        name: str,
        stream: int,
        emit: Callable[[FragmentsArrived | Undelivered], None],
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._name = name
        self._emit = emit
        self._state = delivery.State(stream)
        self._changed = threading.Condition()
        self._wakes_at = math.inf
        self._closed = False
        self._timer = threading.Thread(target=self._run_timer, name=f"{name}-resend", daemon=True)
        self._timer.start()

    def send(self, regions: Sequence[Outgoing]) -> None:
        """Send regions to participants, small ones first, without waiting for the network."""
        waiting: dict[str, list[Piece]] = {}
        left: dict[str, int] = {}  # bytes that are not offered yet
        for region in regions:
            left[region.target] = left.get(region.target, 0) + region.carried
        size = 0
        for region in sorted(regions, key=lambda region: region.size):
            held_back = waiting.setdefault(region.target, [])
            for piece in fragments(region.header, region.values, region.origin):
                if size > delivery.LEAST_PARCEL:
                    # What is large sets off while the rest is encoded; the last fragment stays, to ask for a receipt.
                    for target, pieces in waiting.items():
                        if offered := pieces[:-1]:
                            del pieces[:-1]
                            left[target] -= sum(len(each.body) for each in offered)
                            self._step(delivery.Offer(target, offered, max(left[target], len(pieces[0].body))))
                    size = 0
                held_back.append(piece)
                size += len(piece.body)
        for target, pieces in waiting.items():
            self._step(delivery.Offer(target, pieces))

    def take(self, sender: str, message: Parcel | Receipt, body: memoryview) -> None:
        """Take in what came from `sender`; raises ProtocolError where it is none of this protocol."""
        if isinstance(message, Receipt):
            self._step(delivery.ReceiptArrived(sender, message))
            return
        # Opened first: what cannot be read is not acknowledged.
        arrived = FragmentsArrived(sender, open_parcel(message, body), time.monotonic())
        self._step(delivery.ParcelArrived(sender, message), arrived)

    @property
    def delivered(self) -> bool:
        """Whether nothing that was sent waits for its receipt, and nothing that came for ours."""
        with self._changed:
            return self._state.due() == math.inf

    def link_up(self) -> None:
        """The broker can be reached, for the first time or again."""
        self._step(delivery.LinkUp())

    def close(self) -> None:
        """End the thread that waits; nothing is sent again any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._timer:
            self._timer.join()

    def _step(self, event: delivery.Event, arrived: FragmentsArrived | None = None) -> None:
        # Published with the lock held: a parcel that overtook another would make that one seem lost.
        with self._changed:
            now = time.monotonic()
            for effect in delivery.step(self._state, event, now):
                match effect:
                    case delivery.Transmit(target=target, parcel=parcel, bodies=bodies):
                        self._publish(target, pack_parcel(parcel, bodies))
                    case delivery.Answer(target=target, receipt=receipt):
                        self._publish(target, codec.pack(receipt))
                    case delivery.Accept() if arrived is not None:
                        self._emit(arrived)
                    case delivery.GiveUp(target=target, requests=requests, reason=reason):
                        log.warning("%s", reason)
                        self._emit(Undelivered(target, requests, reason))
            if self._wakes_at > now + LOOK_SECONDS and self._state.due() < self._wakes_at:
                self._changed.notify_all()

    def _publish(self, target: str, payload: Payload) -> None:
        try:
            self._connection.publish(self._topics.inbox(target, self._name), payload, qos=0)
        except BrokerError as error:  # it will be sent again
            log.debug("not sent to %s: %s", target, error)

    def _run_timer(self) -> None:
        busy_until = -math.inf
        while True:
            with self._changed:
                if self._closed:
                    return
                due, now = self._state.due(), time.monotonic()
                if due > now:
                    if due < math.inf:
                        busy_until = now + LINGER_SECONDS
                    self._wakes_at = now + LOOK_SECONDS if now < busy_until else due
                    self._changed.wait(None if self._wakes_at == math.inf else self._wakes_at - now)
                    continue
            self._step(delivery.Tick())
