"""What agents and the orchestrator have in common in a simulation: a process with a connection to the broker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from legion_iot.errors import ProtocolError
from legion_iot.runtime.simulation.agenda import Agenda
from legion_iot.runtime.simulation.broker import Broker, Publication
from legion_iot.runtime.simulation.fragment_link import FragmentLink
from legion_iot.wire import codec, delivery
from legion_iot.wire.messages import Fragment
from legion_iot.wire.topics import Topics

TOPICS = Topics("group")
TICK = 0.5
MOST_WAITING = 10_000  # messages at QoS 1 that a client keeps while it has no connection
RECONNECT = (0.1, 1.0)  # seconds between two attempts, from and to


class Participant:
    """A process from its start to its end; a restart is another `Participant`.

    Messages at QoS 1 wait while there is no connection. A process that is `frozen` takes nothing in and sends nothing.
    """

    def __init__(self, agenda: Agenda, broker: Broker, name: str, session: str, filters: Iterable[str]) -> None:
        self.name, self.session = name, session
        self.alive, self.linked, self.frozen = True, False, False
        self.dropped = 0
        self._agenda, self._broker = agenda, broker
        self._outbox: deque[Publication] = deque(maxlen=MOST_WAITING)
        self._unread: list[tuple[str, bytes, bool]] = []
        self.fragments = FragmentLink(
            agenda, agenda.random.getrandbits(48), self._publish_fragments, self._fragment, self._given_up
        )
        self._client = f"{name}-{session}"  # no other process has this id
        broker.subscribe(self._client, name, filters)

    # --- the connection ---

    def link(self) -> None:
        """Connect, or connect again: QoS 1 messages that waited are sent, retained ones come anew."""
        if not self.alive or self.linked:
            return
        if self.frozen or not self._broker.connect(self._client, self._arrived, self._lost, self._will()):
            self._agenda.at(self._agenda.random.uniform(*RECONNECT), self.link)
            return
        self.linked = True
        waited, self._outbox = self._outbox, deque(maxlen=MOST_WAITING)
        for publication in waited:
            self._broker.publish(self._client, publication)
        self.fragments.link_up()
        self._connected()

    def break_link(self, will_after: float) -> None:
        """The line is cut until `mend_link`; the broker notices after a while, and publishes the will."""
        self._broker.line(self.name).cut = True
        self._broker.cut(self._client, will_after)

    def mend_link(self) -> None:
        """The line is whole again; the process connects by itself, before long."""
        if self.alive:
            self._broker.line(self.name).cut = False

    def drop_link(self) -> None:
        """The broker ends the connection, and publishes the will."""
        self._broker.cut(self._client, 0.0)

    def kill(self, will_after: float) -> None:
        """The process ends without a word."""
        if self.alive:
            self.alive = False
            self._broker.cut(self._client, will_after)

    def freeze(self) -> None:
        """The process stops, as by SIGSTOP."""
        self.frozen = self.fragments.is_asleep = True

    def thaw(self) -> None:
        """It goes on, with what has come meanwhile."""
        if not self.alive or not self.frozen:
            return
        self.frozen = False
        unread, self._unread = self._unread, []
        for message in unread:
            self._arrived(*message)
        self.fragments.wake()
        if not self.linked:
            self.link()

    def publish(self, topic: str, message: object, *, qos: int = 1, retain: bool = False) -> None:
        """A message as JSON."""
        self.publish_bytes(topic, codec.to_json(message), qos=qos, retain=retain)

    def publish_bytes(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        publication = Publication(topic, payload, qos, retain)
        if self.linked:
            self._broker.publish(self._client, publication)
        elif qos:
            self._outbox.append(publication)

    def _lost(self, unacknowledged: list[Publication]) -> None:
        self.linked = False
        self._outbox.extendleft(reversed(unacknowledged))
        self._unread.clear()
        if self.alive:
            self._agenda.at(self._agenda.random.uniform(*RECONNECT), self.link)
            self._disconnected()

    def _arrived(self, topic: str, payload: bytes, retained: bool) -> None:
        if self.frozen:
            self._unread.append((topic, payload, retained))
        elif self.alive:
            try:
                self._take(topic, payload, retained)
            except ProtocolError as error:  # dropped and counted, as in life
                self.dropped += 1
                self._agenda.tell(f"{self.name} drops what came on {topic}: {error}")

    def _publish_fragments(self, target: str, payload: bytes) -> None:
        if self.alive:
            self.publish_bytes(TOPICS.inbox(target, self.name), payload, qos=0)

    # --- what differs ---

    def _will(self) -> Publication:
        raise NotImplementedError

    def _connected(self) -> None:
        """There is a connection."""
        raise NotImplementedError

    def _disconnected(self) -> None:
        """The connection has ended."""

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        raise NotImplementedError

    def _fragment(self, sender: str, header: Fragment, elements: memoryview) -> None:
        raise NotImplementedError

    def _given_up(self, effect: delivery.GiveUp) -> None:
        raise NotImplementedError
