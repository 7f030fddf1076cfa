"""The embedded broker without its sockets: sessions, routing, retained messages, wills.

A session lives exactly as long as its link. What is to be written to a client lies in its session's `outgoing`; whoever
owns the sockets writes it out, for the sessions in `dirty`, and cuts the links of those in `doomed`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from legion_iot.transport.matching import FilterTree, matches
from legion_iot.wire.access import Access
from legion_iot_broker.access import AccessList
from legion_iot_broker.limits import BrokerLimits
from legion_iot_broker.packets import (
    NO_MATCHING_SUBSCRIBERS,
    NOT_AUTHORIZED,
    QUOTA_EXCEEDED,
    SESSION_TAKEN_OVER,
    SHARED_NOT_SUPPORTED,
    SUCCESS,
    Connect,
    Publish,
    Subscribe,
    Subscription,
    publish_header,
)

logger = logging.getLogger(__name__)

# What a message costs in a queue beside its bytes.
_OVERHEAD = 64
# Topics for which one client's permissions are remembered.
_REMEMBERED_TOPICS = 2_048


@dataclass(slots=True)
class Counters:
    """What went wrong or was left out since the start."""

    dropped: int = 0
    denied: int = 0
    slow_clients: int = 0
    malformed: int = 0
    unretained: int = 0
    defects: int = 0


class Session:
    """One client that was accepted, and what waits for it."""

    def __init__(self, connect: Connect, client_id: str, hub: Hub) -> None:
        self.client_id = client_id
        self.user = connect.user
        self.version = connect.version
        self.will = connect.will
        self.outgoing: deque[bytes | memoryview] = deque()
        self.subscriptions: dict[str, Subscription] = {}
        self._hub = hub
        self._limits = hub.limits
        self._largest_packet = connect.largest_packet
        self._window = min(connect.receive_maximum, hub.limits.in_flight)
        self._waiting: deque[tuple[Publish, bool]] = deque()
        self._in_flight: set[int] = set()
        self._next_number = 1
        self._bytes = 0
        self._permissions: dict[tuple[str, Access], bool] = {}

    def send(self, data: bytes | memoryview) -> None:
        """Put bytes behind all that is to be written; a client that reads none of it is cut off."""
        self.outgoing.append(data)
        self._bytes += len(data)
        self._hub.dirty.add(self)
        if len(self.outgoing) > 2 * self._limits.queue_messages:
            self._hub.doom(self, QUOTA_EXCEEDED)

    def written(self, size: int) -> None:
        """The socket took that many bytes from the front of `outgoing`."""
        self._bytes -= size
        while size:
            front = self.outgoing[0]
            if len(front) > size:
                self.outgoing[0] = memoryview(front)[size:]
                return
            size -= len(front)
            self.outgoing.popleft()

    def deliver(self, message: Publish, qos: int, retain: bool) -> None:
        """Queue one message; without room QoS 0 is dropped, and for QoS 1 the client is too slow to be kept."""
        size = len(message.payload) + len(message.topic) + len(message.properties) + _OVERHEAD
        if self._largest_packet is not None and size > self._largest_packet:
            self._hub.counters.dropped += 1
            return
        backlog = len(self.outgoing) + len(self._waiting)
        if backlog and (self._bytes + size > self._limits.queue_bytes or backlog >= self._limits.queue_messages):
            self._hub.counters.dropped += 1
            if qos:
                self._hub.counters.slow_clients += 1
                self._hub.doom(self, QUOTA_EXCEEDED)
        elif qos and len(self._in_flight) >= self._window:
            self._waiting.append((message, retain))
            self._bytes += len(message.payload)
        else:
            self._send_publish(message, qos, retain)

    def acknowledge(self, number: int) -> None:
        """The client has that QoS 1 message; send it the next one that waits."""
        self._in_flight.discard(number)
        if self._waiting and len(self._in_flight) < self._window:
            message, retain = self._waiting.popleft()
            self._bytes -= len(message.payload)
            self._send_publish(message, 1, retain)

    def may(self, access: Access, topic: str) -> bool:
        """Whether the access list lets this client read or write there."""
        if self._hub.acl is None:
            return True
        known = self._permissions.get((topic, access))
        if known is None:
            known = self._hub.acl.allows(self.user, self.client_id, topic, access)
            if len(self._permissions) >= _REMEMBERED_TOPICS:
                self._permissions.clear()
            self._permissions[topic, access] = known
        return known

    def forget_permissions(self) -> None:
        """The access list has changed."""
        self._permissions.clear()

    def _send_publish(self, message: Publish, qos: int, retain: bool) -> None:
        number = 0
        if qos:
            # The window is far smaller than the numbers, so a free one is near.
            while self._next_number in self._in_flight:
                self._next_number = self._next_number % 65_535 + 1
            number, self._next_number = self._next_number, self._next_number % 65_535 + 1
            self._in_flight.add(number)
        self.send(publish_header(self.version, message, qos, retain, number))
        if len(message.payload):
            self.send(message.payload)


class Hub:
    """All sessions and what they share."""

    def __init__(self, limits: BrokerLimits, acl: AccessList | None = None) -> None:
        self.limits = limits
        self.acl = acl
        self.counters = Counters()
        self.dirty: set[Session] = set()
        self.doomed: dict[Session, int] = {}
        self._sessions: dict[str, Session] = {}
        self._tree: FilterTree[Session, Subscription] = FilterTree()
        self._retained: dict[str, Publish] = {}
        self._retained_bytes = 0

    def doom(self, session: Session, reason: int) -> None:
        """Have a client's link cut, for an MQTT 5 reason."""
        if session not in self.doomed:
            self.doomed[session] = reason
            logger.warning("cutting off %s: reason %#04x", session.client_id, reason)

    def adopt(self, acl: AccessList, is_gone: Callable[[str | None], bool]) -> None:
        """Another access list, from now on; clients whose user is gone are cut off."""
        self.acl = acl
        for session in self._sessions.values():
            session.forget_permissions()
            if is_gone(session.user):
                self.doom(session, NOT_AUTHORIZED)

    def attach(self, session: Session) -> None:
        """Let a client in; an older one of the same id goes, and its will is published first."""
        older = self._sessions.get(session.client_id)
        if older is not None:
            self.doom(older, SESSION_TAKEN_OVER)
            self.detach(older, with_will=True)
        self._sessions[session.client_id] = session

    def detach(self, session: Session, *, with_will: bool) -> None:
        """Forget a client, and publish its will if it has not ended in order. Idempotent."""
        if self._sessions.get(session.client_id) is not session:
            return
        del self._sessions[session.client_id]
        for pattern in session.subscriptions:
            self._tree.remove(pattern, session)
        session.subscriptions.clear()
        if with_will and session.will is not None:
            self.publish(session, session.will)

    def publish(self, origin: Session, message: Publish) -> int:
        """Carry one message to every subscriber, once each; returns the MQTT 5 reason for its sender."""
        if not origin.may("write", message.topic):
            self.counters.denied += 1
            return NOT_AUTHORIZED
        if message.retain and not self._retain(message):
            return QUOTA_EXCEEDED
        wanted: dict[Session, Subscription] = {}
        for session, subscription in self._tree.match(message.topic):
            if subscription.no_local and session is origin:
                continue
            other = wanted.get(session)
            if other is None or subscription.qos > other.qos:
                wanted[session] = subscription
        delivered = False
        for session, subscription in wanted.items():
            if session in self.doomed or not session.may("read", message.topic):
                continue
            retain = message.retain and subscription.retain_as_published
            session.deliver(message, min(message.qos, subscription.qos), retain)
            delivered = True
        return SUCCESS if delivered else NO_MATCHING_SUBSCRIBERS

    def subscribe(self, session: Session, request: Subscribe) -> tuple[list[int], list[Subscription]]:
        """Add the filters; returns a code for each, and those whose retained messages are due after the answer."""
        codes: list[int] = []
        due: list[Subscription] = []
        for wanted in request.subscriptions:
            known = wanted.pattern in session.subscriptions
            if wanted.pattern.startswith("$share/"):
                codes.append(SHARED_NOT_SUPPORTED)
            elif not known and len(session.subscriptions) >= self.limits.subscriptions_per_client:
                codes.append(QUOTA_EXCEEDED)
            else:
                session.subscriptions[wanted.pattern] = wanted
                self._tree.put(wanted.pattern, session, wanted)
                codes.append(min(wanted.qos, 1))
                if wanted.retain_handling == 0 or (wanted.retain_handling == 1 and not known):
                    due.append(wanted)
        return codes, due

    def unsubscribe(self, session: Session, patterns: tuple[str, ...]) -> list[int]:
        """Remove filters; returns a code for each."""
        codes: list[int] = []
        for pattern in patterns:
            known = session.subscriptions.pop(pattern, None) is not None
            if known:
                self._tree.remove(pattern, session)
            codes.append(SUCCESS if known else 0x11)
        return codes

    def deliver_retained(self, session: Session, subscription: Subscription) -> None:
        """Hand over what was kept for a new subscription."""
        if "+" in subscription.pattern or "#" in subscription.pattern:
            found = [m for topic, m in self._retained.items() if matches(subscription.pattern, topic)]
        else:
            found = [self._retained[subscription.pattern]] if subscription.pattern in self._retained else []
        for message in found:
            if session.may("read", message.topic):
                session.deliver(message, min(message.qos, subscription.qos, 1), retain=True)

    def _retain(self, message: Publish) -> bool:
        old = self._retained.get(message.topic)
        old_size = len(old.payload) if old is not None else 0
        size = len(message.payload)
        if not size:
            self._retained.pop(message.topic, None)
            self._retained_bytes -= old_size
            return True
        too_many = old is None and len(self._retained) >= self.limits.retained_messages
        if too_many or self._retained_bytes + size - old_size > self.limits.retained_bytes:
            self.counters.unretained += 1
            logger.warning("no room to retain %d bytes on %s", size, message.topic)
            return False
        self._retained[message.topic] = message
        self._retained_bytes += size - old_size
        return True
