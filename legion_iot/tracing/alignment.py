"""Clocks of several machines, aligned by messages that both ends saw.

Nobody asks a machine what time it is. What is known is that a message is received after it was sent. If A sent at a on
its own clock and B received at b on its, then for the offsets that turn each clock into the reference's

    offset(A) - offset(B) <= b - a

Many messages give many such bounds. With d(A, B) the shortest path over them, the offset of A lies between -d(R, A) and
d(A, R) for the reference R. The middle of that interval satisfies every bound at once: no message arrives before it was
sent. Half of the interval's length is how far off it may be.

Source: clock synchronisation by message bounds, as in Lundelius and Lynch (1984) and, with two messages, NTP.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """Something `sender` did at `sent` on its clock, before `receiver` had it at `received` on its own; in seconds."""

    sender: str
    sent: float
    receiver: str
    received: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """Seconds to add to a clock to get the reference's, and by how much that may be wrong at most (None: unknown)."""

    offset: float
    uncertainty: float | None


def align(messages: Iterable[Message], reference: str) -> dict[str, Alignment]:
    """The alignment of every participant; one that never exchanged a message with anyone has none."""
    bounds: dict[tuple[str, str], float] = {}
    for message in messages:
        pair = message.sender, message.receiver
        bounds[pair] = min(bounds.get(pair, math.inf), message.received - message.sent)
    to_reference = _distances({(b, a): seconds for (a, b), seconds in bounds.items()}, reference)
    from_reference = _distances(bounds, reference)
    aligned = {}
    for name in dict.fromkeys((reference, *(name for pair in bounds for name in pair))):
        most, least = to_reference.get(name, math.inf), -from_reference.get(name, math.inf)
        if math.isfinite(most) and math.isfinite(least):
            aligned[name] = Alignment((most + least) / 2, max(0.0, (most - least) / 2))
        elif math.isfinite(most) or math.isfinite(least):
            aligned[name] = Alignment(most if math.isfinite(most) else least, None)
    return aligned


def _distances(bounds: Mapping[tuple[str, str], float], reference: str) -> dict[str, float]:
    """The shortest paths from the reference to whom it can reach, over edges of any sign (Bellman and Ford)."""
    distance = {reference: 0.0}
    for _ in range(len({name for pair in bounds for name in pair})):
        changed = False
        for (source, target), seconds in bounds.items():
            if source in distance and distance[source] + seconds < distance.get(target, math.inf):
                distance[target] = distance[source] + seconds
                changed = True
        if not changed:
            break
    return distance
