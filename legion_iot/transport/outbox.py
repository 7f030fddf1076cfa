"""What waits to be published: a bounded queue and the window of messages that are under way.

The theory. A message is *queued*, then *under way* (handed to the MQTT library), then gone. QoS 1 leaves on its
acknowledgement, QoS 0 once written. Losing the link takes the QoS 0 messages under way with it; the library sends
the QoS 1 ones again by itself, and until one of those is acknowledged nothing newer may overtake them.

No locks, no clock: the owner brings its lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from legion_iot.transport.connection import QueueLimits


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message on its way out."""

    topic: str
    payload: bytes | bytearray
    qos: int
    retain: bool
    correlation: bytes = b""
    response_topic: str = ""
    expires_at: float = math.inf  # on the owner's clock, seconds
    on_acknowledged: Callable[[], None] | None = None


class Outbox:
    """The queue and the window of one connection."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._window = limits.window_messages
        self._queued: deque[Outgoing] = deque()
        self._under_way: dict[int, Outgoing] = {}
        self._early: set[int] = set()
        self._handing: Outgoing | None = None
        self._bytes = 0
        self._window_bytes = 0
        self._resending = False
        self._linked = False

    def __len__(self) -> int:
        return len(self._queued) + len(self._under_way) + (self._handing is not None)

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes may be queued now."""
        waiting = len(self)
        if waiting == 0:
            return True
        return waiting < self._limits.messages and self._bytes + size <= self._limits.bytes

    @property
    def is_clear(self) -> bool:
        """Whether nothing waits that a new message would overtake; what the library holds does not count."""
        return not self._queued and self._handing is None

    def written_in_part(self, number: int, message: Outgoing) -> None:
        """The message was written in part, past the queue; `done` with this number tells of the rest."""
        self._under_way[number] = message
        self._bytes += len(message.payload)
        self._window_bytes += len(message.payload)

    def put(self, message: Outgoing) -> None:
        """Queue it; a QoS 0 message without a link is dropped, as its sender must expect."""
        if message.qos == 0 and not self._linked:
            return
        self._queued.append(message)
        self._bytes += len(message.payload)

    def take(self) -> Outgoing | None:
        """The next message to hand to the library, or None; call `handed` before taking another."""
        if not self._queued or not self._linked or self._resending or self._handing is not None:
            return None
        size = len(self._queued[0].payload)
        if self._under_way and (
            len(self._under_way) >= self._window or self._window_bytes + size > self._limits.window_bytes
        ):
            return None
        self._handing = self._queued.popleft()
        self._window_bytes += size
        return self._handing

    def handed(self, number: int | None) -> Outgoing | None:
        """The library took the message under this packet number, or (None) lost it at once; it where it is done."""
        message, self._handing = self._handing, None
        if message is None:
            return None
        done = number in self._early
        if number is None or done or (message.qos == 0 and not self._linked):
            self._release(message)
        else:
            self._under_way[number] = message
        self._early.clear()
        return message if done else None

    def done(self, number: int) -> Outgoing | None:
        """That packet was acknowledged or written; returns its message when it was known."""
        message = self._under_way.pop(number, None)
        if message is None:
            # The acknowledgement overtook `handed`: the library's thread was faster than ours.
            if self._handing is not None:
                self._early.add(number)
            return None
        self._release(message)
        if message.qos:
            self._resending = False
        return message

    def link_up(self, receive_maximum: int) -> None:
        """The broker accepted us and takes that many unacknowledged messages."""
        self._linked = True
        self._window = max(1, min(self._limits.window_messages, receive_maximum))
        self._resending = any(message.qos for message in self._under_way.values())

    def link_down(self) -> None:
        """The link is gone, and with it every QoS 0 message."""
        self._linked = False
        self._early.clear()
        for number in [n for n, message in self._under_way.items() if message.qos == 0]:
            self._release(self._under_way.pop(number))
        kept = [message for message in self._queued if message.qos]
        self._bytes -= sum(len(message.payload) for message in self._queued if not message.qos)
        self._queued = deque(kept)

    def _release(self, message: Outgoing) -> None:
        self._bytes -= len(message.payload)
        self._window_bytes -= len(message.payload)
