"""What a link can be, and what it is taken for where nobody knows."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_LATENCY, MOST_LATENCY = 1e-6, 60.0  # seconds; what is outside has not been measured well
LEAST_RATE, MOST_RATE = 10.0, 1e10  # bytes per second
MOST_MESSAGE, MOST_BYTE = 1.0, 1e-4  # seconds of the processor


@dataclass(frozen=True, slots=True)
class Link:
    """One participant's connection to the broker: `latency` in seconds for a small message to the broker or from it,

    `up` and `down` in bytes per second. Handling a message, be it sent or received, keeps the participant's processor
    busy for `message_seconds`, and for `byte_seconds` for each of its bytes; 0 where that is not known.
    """

    latency: float
    up: float
    down: float
    message_seconds: float = 0.0
    byte_seconds: float = 0.0

    @property
    def takes_processor(self) -> bool:
        """Whether messages are known to cost the processor anything."""
        return self.message_seconds > 0 or self.byte_seconds > 0

    def handling_seconds(self, size: int) -> float:
        """Of the processor, for one message of so many bytes."""
        return self.message_seconds + size * self.byte_seconds


ASSUMED = Link(0.001, 100e6 / 8, 100e6 / 8)  # the 100 Mbit/s Ethernet most small boards have


def bounded(link: Link) -> Link:
    """The link with values that can be; NaN becomes the least."""
    return Link(
        _within(LEAST_LATENCY, link.latency, MOST_LATENCY),
        _within(LEAST_RATE, link.up, MOST_RATE),
        _within(LEAST_RATE, link.down, MOST_RATE),
        _within(0.0, link.message_seconds, MOST_MESSAGE),
        _within(0.0, link.byte_seconds, MOST_BYTE),
    )


def _within(least: float, value: float, most: float) -> float:
    return min(value, most) if value > least else least
