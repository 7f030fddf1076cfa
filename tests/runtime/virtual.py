"""A broker in virtual time: what MQTT promises is kept, what it does not promise is broken from a seed."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

from legion_iot.wire import codec, delivery
from legion_iot.wire.messages import Fragment, Parcel, Receipt
from legion_iot.wire.tensors import Piece, open_parcel, pack_parcel


class Broker:
    """Virtual time, and messages on their way."""

    def __init__(self, seed: int, *, duplicates: float = 0.0, losses: float = 0.0, slowest: float = 0.05) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self._duplicates, self._losses, self._slowest = duplicates, losses, slowest
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._retained: dict[str, bytes] = {}
        self._clients: dict[str, tuple[int, Callable[[str, bytes], None]]] = {}  # the link's number, and its end
        self._filters: dict[str, Callable[[str], bool]] = {}
        self._last: dict[tuple[str, str], float] = {}

    def at(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + delay, next(self._numbers), act))

    def run(self, until: float) -> None:
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, act = heapq.heappop(self._agenda)
            act()
        self.now = until

    def connect(self, client: str, wants: Callable[[str], bool], take: Callable[[str, bytes], None]) -> None:
        self._clients[client], self._filters[client] = (next(self._numbers), take), wants
        for topic in sorted(self._retained):
            if wants(topic):
                self._send(client, topic, self._retained[topic], qos=1)

    def disconnect(self, client: str) -> None:
        self._clients.pop(client, None)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        assert "#" not in topic
        assert "+" not in topic
        if retain:
            self._retained[topic] = payload
        for client in list(self._clients):
            if self._filters[client](topic):
                self._send(client, topic, payload, qos)

    def _send(self, client: str, topic: str, payload: bytes, qos: int) -> None:
        link = self._clients[client]

        def deliver() -> None:
            if self._clients.get(client) is link:  # what is under way when a link ends is lost
                link[1](topic, payload)

        if not qos and self.random.random() < self._losses:
            return
        for _ in range(2 if qos and self.random.random() < self._duplicates else 1):
            arrives = max(self._last.get((client, topic), 0.0), self.now + self.random.uniform(0.0, self._slowest))
            self._last[client, topic] = arrives
            self.at(arrives - self.now, deliver)


class VirtualLink:
    """`delivery` for one participant in virtual time; parcels and receipts travel as bytes, at QoS 0."""

    def __init__(
        self,
        broker: Broker,
        stream: int,
        publish: Callable[[str, bytes], None],
        emit: Callable[[str, Fragment, memoryview], None],
        undelivered: Callable[[delivery.GiveUp], None],
    ) -> None:
        self.state = delivery.State(stream)
        self._broker, self._publish, self._emit, self._undelivered = broker, publish, emit, undelivered
        self._alarms: set[float] = set()

    def send(self, target: str, pieces: list[Piece]) -> None:
        self._step(delivery.Offer(target, pieces))

    def link_up(self) -> None:
        self._step(delivery.LinkUp())

    def take(self, sender: str, message: Parcel | Receipt, body: memoryview) -> None:
        if isinstance(message, Receipt):
            self._step(delivery.ReceiptArrived(sender, message))
            return
        opened = open_parcel(message, body)
        for effect in self._step(delivery.ParcelArrived(sender, message)):
            if isinstance(effect, delivery.Accept):
                for header, elements in opened:
                    self._emit(sender, header, elements)

    def _step(self, event: delivery.Event) -> list[delivery.Effect]:
        effects = delivery.step(self.state, event, self._broker.now)
        for effect in effects:
            match effect:
                case delivery.Transmit(target=target, parcel=parcel, bodies=bodies):
                    self._publish(target, b"".join(pack_parcel(parcel, bodies)))
                case delivery.Answer(target=target, receipt=receipt):
                    self._publish(target, codec.pack(receipt))
                case delivery.GiveUp():
                    self._undelivered(effect)
        due = self.state.due()
        if due != float("inf") and due not in self._alarms:
            self._alarms.add(due)
            self._broker.at(max(0.0, due - self._broker.now), lambda: self._alarm(due))
        return effects

    def _alarm(self, due: float) -> None:
        self._alarms.discard(due)
        self._step(delivery.Tick())
