"""How fast a participant's link to its broker is, in each direction, found without anybody else's help.

Theory. A message of S bytes reaches the broker whole before the broker hands it on. So, with nothing else under way,

| message        | goes to                  | timed until it is          | seconds                            |
|----------------|--------------------------|----------------------------|------------------------------------|
| dead end       | a topic that nobody reads| acknowledged by the broker | 2·latency + S/up                   |
| echo           | the sender's own inbox   | back                       | 2·latency + S/up + S/down          |

The rates come from the differences between a large and a small S, which frees them from the latency, and from what a
shaper lets through at once. Echoes of a few bytes give the latency.

What messages cost the processor is found by regions that a participant sends to itself, the way feature maps go: small
ones, one at a time, then large ones in fragments. Each fragment is handled twice, sent and received, so the processor
is busy for twice what a message costs, and for each byte beyond those of a small region for twice what a byte costs.

What cannot be told apart: the broker's own link and the participant's, since everything crosses both. A rate is that of
the slower one; what the broker carries for all of them together shows only when all of them send.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from legion_iot.planning.links import MOST_RATE, Link, bounded
from legion_iot.planning.traffic import LEAST_PIECE

SMALL = 16  # bytes
ROUNDS = 12  # echoes of so many bytes
REGION_ROUNDS = 36  # small regions
FIRST, MOST = 16 << 10, 4 << 20  # bytes of a large message
GROWTH = 4
LONG = 0.030  # seconds in each direction after which a message is large enough
REPEATS = 3
BUDGET = 0.6  # seconds in each direction after which nothing is repeated any more
SHOT_TIMEOUT = 5.0  # seconds
SMALL_REGION, LARGE_REGION = 1 << 10, 32 * LEAST_PIECE  # bytes
REGION_SECONDS = 0.2  # that a large region may take in one direction, if it has more than one fragment


@dataclass(frozen=True, slots=True)
class Shot:
    """A message of so many bytes: an echo, or a dead end.

    An echo of a `region` goes the way of feature maps, in fragments; it is the processor's time that counts.
    """

    echo: bool
    size: int
    region: bool = False


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


def handling(link: Link) -> Probing:
    """Yields the regions to send over this link, gets the seconds each takes of the processor, and returns the link

    with what messages and their bytes cost.
    """
    rounds = []
    for _ in range(REGION_ROUNDS):
        rounds.append((yield Shot(True, SMALL_REGION, True)))
    message = statistics.median(rounds) / 2
    size = LARGE_REGION
    while size > LEAST_PIECE and size / min(link.up, link.down) > REGION_SECONDS:
        size //= 2
    large = []
    for _ in range(REPEATS):
        large.append((yield Shot(True, size, True)))
    fragment = statistics.median(large) / 2 / (size // LEAST_PIECE)
    byte = (fragment - message) / (LEAST_PIECE - SMALL_REGION)
    return bounded(replace(link, message_seconds=message, byte_seconds=byte))


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
    took longer than `SHOT_TIMEOUT`. The clock gives seconds, `processor` those for which the participant would have
    been kept from computing; without it, what messages cost is not looked for.
    """

    def __init__(
        self,
        send: Callable[[Shot, int], bool],
        clock: Callable[[], float],
        processor: Callable[[], float] | None = None,
    ) -> None:
        self._send, self._clock, self._processor = send, clock, processor
        self._probing = probing()
        self._next: Shot | None = next(self._probing)
        self._number = 0
        self._sent = self._worked = 0.0
        self._under_way = 0  # bytes of a region
        self.waits = False  # for an echo under way
        self.result: Link | None = None

    @property
    def ended(self) -> bool:
        """Whether there is the whole result, or what there is will not become more."""
        return self._next is None

    @property
    def sends_region(self) -> bool:
        """Whether the next turn sends a region, of which the processor's time counts."""
        return self._next is not None and self._next.region and not self.waits

    def turn(self) -> None:
        """Send the next message, or give up where one does not come back."""
        if self.waits:
            if self._clock() - self._sent > SHOT_TIMEOUT:
                self._next, self.waits = None, False
        elif self._next is not None:
            self._fire(self._next)

    def returned(self, number: int, size: int = 0) -> None:
        """An echo is back, or so many bytes of a region; late ones of an earlier shot change nothing."""
        if not self.waits or number != self._number:
            return
        self._under_way -= size
        if self._under_way > 0:
            return
        self.waits = False
        is_region = self._next is not None and self._next.region
        self._took(self._work() - self._worked if is_region else self._clock() - self._sent)

    def _work(self) -> float:
        return self._processor() if self._processor is not None else 0.0

    def _fire(self, shot: Shot) -> None:
        self._number += 1
        self._sent, self._worked = self._clock(), self._work()
        self._under_way = shot.size if shot.region else 0
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
            self._next, before, self.result = None, self.result, end.value
            if before is None and self._processor is not None:
                self._probing = handling(end.value)
                self._next = next(self._probing)
