"""An MQTT broker and its clients' links in virtual time.

What MQTT promises is kept: order within one topic, retained messages, a will for a link that breaks. What it does not
promise is broken by chance: delays differ, QoS 1 messages come twice, QoS 0 messages get lost, and so does all that is
under way to a client whose link ends. What a client has sent at QoS 1 it sends again when it is back.

A message takes, on its way to the broker and again on its way from it, the link's latency and the time of its bytes,
after those before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from legion_iot.runtime.simulation.agenda import Agenda

HEADER = 40  # bytes that a message has beside its payload


@dataclass(frozen=True, slots=True)
class Publication:
    """A message on its way to the broker."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


Take = Callable[[str, bytes, bool], None]  # topic, payload, and whether it was retained
Lost = Callable[[list[Publication]], None]  # with what the client does not know to have arrived


@dataclass(slots=True)
class Line:
    """A client's way to the broker; all of it may change during a run.

    `latency` in seconds each way, up to `jitter` more on the way from the broker, `rate` in bytes per second each way;
    `losses`, `duplicates` and `late` are the shares of messages that this happens to. A late one comes a second time,
    long after the first. While the line is `cut`, nobody can connect.
    """

    latency: float = 0.0
    jitter: float = 0.05
    rate: float = math.inf
    losses: float = 0.0
    duplicates: float = 0.0
    late: float = 0.0
    cut: bool = False


@dataclass(slots=True, eq=False)
class _Session:
    """One connection of a client, from beginning to end."""

    take: Take
    lost: Lost
    will: Publication | None
    up_free: float = 0.0
    down_free: float = 0.0
    sent: dict[str, float] = field(default_factory=dict)  # by topic: when the last one comes to the broker
    received: dict[str, float] = field(default_factory=dict)  # by topic: when the last one comes from it
    unacknowledged: dict[int, Publication] = field(default_factory=dict)


class Broker:
    """The broker. Filters of subscriptions may have `+` for any level."""

    def __init__(self, agenda: Agenda, usual: Line) -> None:
        self.is_up = True
        self.retained: dict[str, bytes] = {}
        self.lines: dict[str, Line] = {}
        self.counts = {"lost": 0, "duplicated": 0, "late": 0}
        self._agenda, self._usual = agenda, usual
        self._sessions: dict[str, _Session] = {}
        self._wills: dict[str, Publication] = {}  # of clients that are gone, and not noticed to be
        self._filters: dict[str, dict[str, None]] = {}  # client names in order, by filter
        self._wanted: dict[str, tuple[str, ...]] = {}  # filters by client
        self._places: dict[str, str] = {}  # whose line a client uses
        self._wildcards: dict[tuple[int, ...], None] = {(): None}  # levels that are + in any filter
        self._subscribers: dict[str, tuple[str, ...]] = {}  # by topic, as far as they were asked for
        self._kept: dict[str, dict[str, None]] = {}  # retained topics, by what may be a filter for them
        self._numbers = 0

    def line(self, place: str) -> Line:
        """The line of a device, which may be changed."""
        if place not in self.lines:
            usual = self._usual
            self.lines[place] = Line(usual.latency, usual.jitter, usual.rate, usual.losses, usual.duplicates)
        return self.lines[place]

    def subscribe(self, client: str, place: str, filters: Iterable[str]) -> None:
        """What a client of this id wants whenever it is connected; it uses the line of `place`."""
        self._wanted[client], self._places[client] = tuple(filters), place
        self._subscribers.clear()
        for each in self._wanted[client]:
            self._filters.setdefault(each, {})[client] = None
            wildcard = tuple(n for n, level in enumerate(each.split("/")) if level == "+")
            if wildcard not in self._wildcards:
                self._wildcards[wildcard] = None
                for topic in self.retained:
                    self._index(topic)

    # --- connections ---

    def connect(self, client: str, take: Take, lost: Lost, will: Publication | None = None) -> bool:
        """Whether there is a connection now; retained messages follow. A will of that client that waits is published.

        `lost` is called when the connection ends but by `disconnect`.
        """
        if not self.is_up or self.line(self._places[client]).cut:
            return False
        self._publish_will(client)
        session = self._sessions[client] = _Session(take, lost, will)
        for topic in sorted(topic for wanted in self._wanted[client] for topic in self._kept.get(wanted, ())):
            self._deliver(client, session, topic, self.retained[topic], qos=1, retained=True)
        return True

    def disconnect(self, client: str) -> None:
        """The client has said goodbye, so that there is no will; what it has sent arrives."""
        if (session := self._sessions.pop(client, None)) is not None:
            for publication in session.unacknowledged.values():
                self._accept(publication)

    def cut(self, client: str, notice: float) -> None:
        """The connection breaks; the broker notices after so many seconds, or when the client is back: the will."""
        self._end(client, notice)

    def stop(self, *, keeps: bool) -> None:
        """The broker dies, and all connections with it; what was retained is kept by one with persistence."""
        self.is_up = False
        if not keeps:
            self.retained.clear()
            self._kept.clear()
        for client in list(self._sessions):
            self._end(client, notice=math.inf)
        self._wills.clear()

    def start(self) -> None:
        self.is_up = True

    def _end(self, client: str, notice: float) -> None:
        session = self._sessions.pop(client, None)
        if session is None:
            return
        if (will := session.will) is not None:
            self._wills[client] = will
            if notice < math.inf:
                self._agenda.at(notice, lambda: self._publish_will(client, will))
        session.lost(list(session.unacknowledged.values()))

    def _publish_will(self, client: str, which: Publication | None = None) -> None:
        """The will of a client that is gone, unless it is another one than `which`."""
        will = self._wills.get(client)
        if will is not None and which in (None, will):
            del self._wills[client]
            self._accept(will)

    # --- messages ---

    def publish(self, client: str, publication: Publication) -> None:
        """From a client that is connected."""
        assert "#" not in publication.topic
        assert "+" not in publication.topic
        session, line = self._sessions[client], self.line(self._places[client])
        if not publication.qos and self._happens(line.losses, "lost"):
            return
        session.up_free = max(session.up_free, self._agenda.now) + (len(publication.payload) + HEADER) / line.rate
        arrives = max(session.sent.get(publication.topic, 0.0), session.up_free + line.latency)
        if arrives <= self._agenda.now:
            self._accept(publication)
            return
        session.sent[publication.topic] = arrives
        self._numbers += 1
        number = self._numbers
        if publication.qos:
            session.unacknowledged[number] = publication

        def arrive() -> None:
            if self._sessions.get(client) is session:
                session.unacknowledged.pop(number, None)
                self._accept(publication)

        self._agenda.at(arrives - self._agenda.now, arrive)

    def _accept(self, publication: Publication) -> None:
        """At the broker, unless it is down."""
        if not self.is_up:
            return
        topic, payload = publication.topic, publication.payload
        if publication.retain and payload:
            if topic not in self.retained:
                self._index(topic)
            self.retained[topic] = payload
        elif publication.retain and self.retained.pop(topic, None) is not None:
            for pattern in self._patterns(topic):
                del self._kept[pattern][topic]
        if topic not in self._subscribers:
            found = [client for pattern in self._patterns(topic) for client in self._filters.get(pattern, ())]
            self._subscribers[topic] = tuple(dict.fromkeys(found))
        for client in self._subscribers[topic]:
            if (session := self._sessions.get(client)) is not None:
                self._deliver(client, session, topic, payload, publication.qos)

    def _index(self, topic: str) -> None:
        for pattern in self._patterns(topic):
            self._kept.setdefault(pattern, {})[topic] = None

    def _patterns(self, topic: str) -> Iterator[str]:
        """The filters that match the topic, of those that may be in use."""
        levels = topic.split("/")
        for wildcard in self._wildcards:
            if not wildcard or wildcard[-1] < len(levels):
                yield "/".join("+" if n in wildcard else level for n, level in enumerate(levels))

    def _deliver(
        self, client: str, session: _Session, topic: str, payload: bytes, qos: int, retained: bool = False
    ) -> None:
        line, draw = self.line(self._places[client]), self._agenda.random

        def deliver() -> None:
            if self._sessions.get(client) is session:  # what is under way when a link ends is lost
                self._agenda.note(topic, payload)
                session.take(topic, payload, retained)

        def deliver_late() -> None:
            if (current := self._sessions.get(client)) is not None:
                current.take(topic, payload, retained)

        if not qos and self._happens(line.losses, "lost"):
            return
        if not qos and self._happens(line.late, "late"):
            self._agenda.at(draw.uniform(1.0, 40.0), deliver_late)
        session.down_free = max(session.down_free, self._agenda.now) + (len(payload) + HEADER) / line.rate
        for _ in range(2 if qos and self._happens(line.duplicates, "duplicated") else 1):
            arrives = session.down_free + line.latency + draw.uniform(0.0, line.jitter)
            arrives = session.received[topic] = max(session.received.get(topic, 0.0), arrives)
            self._agenda.at(arrives - self._agenda.now, deliver)

    def _happens(self, share: float, what: str) -> bool:
        if not share or self._agenda.random.random() >= share:
            return False
        self.counts[what] += 1
        return True
