"""What a link can be, and what it is taken for where nobody knows."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_LATENCY, MOST_LATENCY = 1e-6, 60.0  # seconds; what is outside has not been measured well
LEAST_RATE, MOST_RATE = 10.0, 1e10  # bytes per second


@dataclass(frozen=True, slots=True)
class Link:
    """One participant's connection to the broker: `latency` in seconds for a small message to the broker or from it,

    `up` and `down` in bytes per second.
    """

    latency: float
    up: float
    down: float


ASSUMED = Link(0.001, 100e6 / 8, 100e6 / 8)  # the 100 Mbit/s Ethernet most small boards have


def bounded(link: Link) -> Link:
    """The link with values that can be; NaN becomes the least."""
    return Link(
        _within(LEAST_LATENCY, link.latency, MOST_LATENCY),
        _within(LEAST_RATE, link.up, MOST_RATE),
        _within(LEAST_RATE, link.down, MOST_RATE),
    )


def _within(least: float, value: float, most: float) -> float:
    return min(value, most) if value > least else least
