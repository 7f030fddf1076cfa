"""How fast a participant's link to its broker is, in each direction, found without anybody else's help.

Theory. A message of S bytes reaches the broker whole before the broker hands it on. So, with nothing else under way,

| message        | goes to                  | timed until it is          | seconds                            |
|----------------|--------------------------|----------------------------|------------------------------------|
| dead end       | a topic that nobody reads| acknowledged by the broker | 2·latency + S/up                   |
| echo           | the sender's own inbox   | back                       | 2·latency + S/up + S/down          |

The rates come from the differences between a large and a small S, which frees them from the latency, and from what a
shaper lets through at once. Echoes of a few bytes give the latency.

What cannot be told apart: the broker's own link and the participant's, since everything crosses both. A rate is that of
the slower one; what the broker carries for all of them together shows only when all of them send.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator
from dataclasses import dataclass

from legion_iot.planning.links import MOST_RATE, Link, bounded

SMALL = 16  # bytes
ROUNDS = 12  # echoes of so many bytes
FIRST, MOST = 16 << 10, 4 << 20  # bytes of a large message
GROWTH = 4
LONG = 0.030  # seconds in each direction after which a message is large enough
REPEATS = 3
BUDGET = 0.6  # seconds in each direction after which nothing is repeated any more
SHOT_TIMEOUT = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Shot:
    """A message of so many bytes: an echo, or a dead end."""

    echo: bool
    size: int


Probing = Generator[Shot, float, Link]


def probing() -> Probing:
    """Yields the messages to send, one after the other, gets the seconds of each, and returns the link."""
    rounds = []
    for _ in range(ROUNDS):
        rounds.append((yield Shot(True, SMALL)))
    per_byte = {}
    for echo in (False, True):
        size = yield from _large_enough(echo)
        per_byte[echo] = yield from _seconds_per_byte(echo, size)
    best = sorted(rounds)[: ROUNDS // 2]
    up, both = per_byte[False], per_byte[True]
    return bounded(Link(statistics.median(best) / 2, _rate(up), _rate(both - up)))


def _large_enough(echo: bool) -> Generator[Shot, float, int]:
    """The size from which on a message takes long enough to be timed."""
    size, enough = FIRST, 2 * LONG if echo else LONG  # an echo goes both ways
    # The shorter of two: a pause of a busy device must not pass for a slow link.
    while size < MOST and min((yield Shot(echo, size)), (yield Shot(echo, size))) < enough:
        size *= GROWTH
    return size


def _seconds_per_byte(echo: bool, size: int) -> Generator[Shot, float, float]:
    """What a byte takes, from messages of this size and of a smaller one."""
    small: list[float] = []
    large: list[float] = []
    while len(large) < REPEATS and (not large or sum(small) + sum(large) < BUDGET):
        small.append((yield Shot(echo, size // GROWTH)))
        large.append((yield Shot(echo, size)))
    return (statistics.median(large) - statistics.median(small)) / (size - size // GROWTH)


def _rate(seconds_per_byte: float) -> float:
    return 1 / max(seconds_per_byte, 1 / MOST_RATE)


class LinkProber:
    """Sends what `probing` asks for over a connection; nothing else may be under way there.

    `send(shot, number)` publishes a shot; a dead end is acknowledged when it returns, or it returns false since that
    took longer than `SHOT_TIMEOUT`. The clock gives seconds.
    """

    def __init__(self, send: Callable[[Shot, int], bool], clock: Callable[[], float]) -> None:
        self._send, self._clock = send, clock
        self._probing = probing()
        self._next: Shot | None = next(self._probing)
        self._number = 0
        self._sent = 0.0
        self.waits = False  # for an echo under way
        self.result: Link | None = None

    @property
    def ended(self) -> bool:
        """Whether there is a result, or never will be."""
        return self._next is None

    def turn(self) -> None:
        """Send the next message, or give up where one does not come back."""
        if self.waits:
            if self._clock() - self._sent > SHOT_TIMEOUT:
                self._next, self.waits = None, False
        elif self._next is not None:
            self._fire(self._next)

    def returned(self, number: int) -> None:
        """An echo is back; late ones of an earlier shot change nothing."""
        if self.waits and number == self._number:
            self.waits = False
            self._took(self._clock() - self._sent)

    def _fire(self, shot: Shot) -> None:
        self._number += 1
        self._sent = self._clock()
        self.waits = shot.echo
        acknowledged = self._send(shot, self._number)
        if not shot.echo:
            if acknowledged:
                self._took(self._clock() - self._sent)
            else:
                self._next = None

    def _took(self, seconds: float) -> None:
        try:
            self._next = self._probing.send(seconds)
        except StopIteration as end:
            self._next, self.result = None, end.value
