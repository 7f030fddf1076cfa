"""The orchestrator's own link to the broker, measured like an agent's: by what it sends to itself and to nobody."""

from __future__ import annotations

import time

from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.runtime.orchestrator_events import OwnLinkProbed
from legion_iot.transport.connection import Connection
from legion_iot.transport.link import SHOT_TIMEOUT, LinkProber, Shot
from legion_iot.wire import codec
from legion_iot.wire.messages import Echo
from legion_iot.wire.topics import Topics

MOST_PROBES = 3  # tries, each ended by a request


class OwnLink:
    """Measures over the data connection, while no request is under way."""

    def __init__(self, data: Connection, topics: Topics) -> None:
        self._data, self._topics = data, topics
        self._number: int | None = None
        self._prober: LinkProber | None = None
        self._tries = 0

    def start(self, number: int) -> None:
        """Measure in the turns to come; `number` is given back with the answer."""
        self._number, self._prober, self._tries = number, None, 0

    def patience(self, longest: float) -> float:
        """Seconds that may be waited for a message before the next turn."""
        waits = self._prober is not None and self._prober.waits
        return longest if self._number is None or waits else 0.0

    def echoed(self, number: int) -> None:
        """What was sent to ourselves is back."""
        if self._prober is not None:
            self._prober.returned(number)

    def turn(self, idle: bool) -> OwnLinkProbed | None:
        """Send the next message, if `idle`; the answer when that was the last one."""
        if self._number is None:
            return None
        if not idle:
            self._prober = None
            return None
        if self._prober is None:
            if self._tries == MOST_PROBES:
                return self._answer("it is never idle for long enough")
            self._tries += 1
            self._prober = LinkProber(self._send, time.monotonic)
        self._prober.turn()
        return self._answer("what is sent does not come back") if self._prober.ended else None

    def _answer(self, failure: str) -> OwnLinkProbed:
        assert self._number is not None
        number, link = self._number, self._prober.result if self._prober is not None else None
        self._number = self._prober = None
        return OwnLinkProbed(number, link, "" if link is not None else failure)

    def _send(self, shot: Shot, number: int) -> bool:
        to_itself = self._topics.inbox(ORCHESTRATOR, ORCHESTRATOR)
        topic = to_itself if shot.echo else self._topics.probe(ORCHESTRATOR)
        self._data.publish(topic, (codec.pack(Echo(number)), bytes(shot.size)))
        return shot.echo or self._data.flush(SHOT_TIMEOUT)
