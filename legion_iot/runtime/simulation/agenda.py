"""Virtual time: what is to happen, in order, and the one source of chance."""

from __future__ import annotations

import heapq
import itertools
import random
import zlib
from collections.abc import Callable

BEGIN = 1000.0  # seconds; no machine may take the beginning for zero


class Agenda:
    """Acts in order of time; those of the same time in the order in which they were put down.

    `digest` is of everything that was noted, so that two runs can be compared.
    """

    def __init__(self, seed: int) -> None:
        self.now = BEGIN
        self.random = random.Random(seed)
        self.events = 0
        self.digest = 0
        self.trace: Callable[[str], None] | None = None
        self._numbers = itertools.count()
        self._acts: list[tuple[float, int, Callable[[], object]]] = []

    def at(self, delay: float, act: Callable[[], object]) -> None:
        """Let `act` happen `delay` seconds from now."""
        heapq.heappush(self._acts, (self.now + delay, next(self._numbers), act))

    def run(self, until: float) -> None:
        """Everything that happens before then."""
        while self._acts and self._acts[0][0] <= until:
            self.now, _, act = heapq.heappop(self._acts)
            self.events += 1
            act()
        self.now = until

    def note(self, what: str, payload: bytes = b"") -> None:
        """Something has happened that a run of the same seed has to repeat."""
        self.digest = zlib.crc32(payload, zlib.crc32(what.encode(), self.digest))

    def tell(self, text: str) -> None:
        """A line for people who follow the run."""
        if self.trace is not None:
            self.trace(f"{self.now - BEGIN:10.3f}  {text}")
