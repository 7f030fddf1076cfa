"""When a byte may pass an emulated link, and when it arrives: arithmetic on times, without a clock or a socket.

A link direction is a wire that is busy until `free_at`. Bytes go onto it one piece after the other, each takes its size
over the rate, and arrives `delay` after its end. Who looks late finds the wire idle for at most `CATCH_UP` seconds: the
rest of the idle time is lost, as on a real wire.

Loss, on TCP: the application never sees a hole, it sees the stream stand still until the missing packet came again. A
packet with others behind it is missed by the receiver at once and comes again a round trip later; the last packet of a
burst is missed by nobody but the sender's timer, 200 ms at least on Linux. That stall is what is emulated; that TCP
also sends slower for a while afterwards is not.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

CATCH_UP = 0.010  # seconds
PAYLOAD = 1448  # bytes of a TCP segment on Ethernet, with timestamps
WIRE = 1514 / PAYLOAD  # bytes that `tc` counts for each byte of payload
RETRANSMISSION_TIMEOUT = 0.2  # seconds
LEAST_RECOVERY = 0.001


def bytes_per_second(mbit: float | None) -> float | None:
    """Payload bytes per second of a link of so many Mbit/s on the wire; None stays None."""
    return None if mbit is None else mbit * 1e6 / 8 / WIRE


@dataclass(slots=True)
class Wire:
    """One direction of one link, shared by all connections over it; `rate` is payload bytes per second."""

    rate: float | None
    delay: float = 0.0
    loss: float = 0.0
    random: random.Random = field(default_factory=lambda: random.Random(0))
    free_at: float = -math.inf
    is_cut: bool = False  # nothing goes onto it, and nothing arrives

    @property
    def piece(self) -> int:
        """Bytes that go onto the wire at once: about 2 ms, so that a small message waits no longer for a large one."""
        return 1 << 16 if self.rate is None else int(min(max(self.rate * 0.002, PAYLOAD), 1 << 16))

    @property
    def held(self) -> int:
        """Bytes that may be under way in one connection: twice what the delay holds, and some pieces."""
        return max(256 << 10, int(2 * (self.rate or 125e6) * self.delay))

    def is_free(self, now: float) -> bool:
        return self.free_at <= now and not self.is_cut

    def send(self, count: int, now: float) -> float:
        """Put bytes onto a free wire; the time at which they have arrived."""
        if self.rate is not None:
            self.free_at = max(self.free_at, now - CATCH_UP) + count / self.rate
        return max(self.free_at, now) + self.delay

    def stall(self, count: int, last: bool) -> float:
        """Seconds by which so many bytes arrive later since one of their packets was lost, mostly 0."""
        packets = math.ceil(count / PAYLOAD)
        if not self.loss or self.random.random() >= 1 - (1 - self.loss) ** packets:
            return 0.0
        if last:
            return max(RETRANSMISSION_TIMEOUT, 2 * self.delay)
        return max(2 * self.delay, LEAST_RECOVERY)
