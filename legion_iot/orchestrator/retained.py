"""What the orchestrator keeps retained on the broker: remembered, so that it can be said again, and cleared.

Theory. A broker that restarts may have lost what it retained, or have an older version of it; so all of it is published
again with each new connection. A process that was killed leaves assignments behind. They stay until a newer plan of
that model is in force, since agents go on with what they have loaded, and then go with those whom the plan leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from legion_iot.transport.connection import Message
from legion_iot.transport.pair import ConnectionPair


class Retained:
    """Payloads by topic, as they were last published over the control connection."""

    def __init__(self, links: ConnectionPair) -> None:
        self._links = links
        self._held: dict[str, bytes] = {}
        self._left: set[str] = set()  # topics of a former process

    def publish(self, topic: str, payload: bytes) -> None:
        """Retain it; with an empty payload, nothing there any more. Raises BrokerError."""
        self._left.discard(topic)
        if payload:
            self._held[topic] = payload
        else:
            self._held.pop(topic, None)
        self._links.control.publish(topic, payload, retain=True)

    def say_again(self, but: str) -> None:
        """Publish all of it once more, but what is on that topic."""
        for topic, payload in self._held.items():
            if topic != but:
                self._links.control.publish(topic, payload, retain=True)

    def clear(self, unwanted: Callable[[str], bool]) -> None:
        """Keep nothing retained any more whose topic is unwanted."""
        for topic in [topic for topic in self._held if unwanted(topic)]:
            self.publish(topic, b"")

    def found(self, messages: Iterable[Message]) -> None:
        """A former process has left these."""
        self._left |= {message.topic for message in messages}

    def clear_left(self, unwanted: Callable[[str], bool]) -> None:
        """Clear what a former process has left and nobody has replaced, where its topic is unwanted."""
        for topic in [topic for topic in self._left if unwanted(topic)]:
            self.publish(topic, b"")
