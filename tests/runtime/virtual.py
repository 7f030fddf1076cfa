"""A broker in virtual time: what MQTT promises is kept, what it does not promise is broken from a seed."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable


class Broker:
    """Virtual time, and messages on their way."""

    def __init__(self, seed: int, *, duplicates: float = 0.0, slowest: float = 0.05) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self._duplicates, self._slowest = duplicates, slowest
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._retained: dict[str, bytes] = {}
        self._clients: dict[str, tuple[int, Callable[[str, bytes], None]]] = {}  # the link's number, and its end
        self._filters: dict[str, Callable[[str], bool]] = {}
        self._last: dict[tuple[str, str], float] = {}

    def at(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + delay, next(self._numbers), act))

    def run(self, until: float) -> None:
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, act = heapq.heappop(self._agenda)
            act()
        self.now = until

    def connect(self, client: str, wants: Callable[[str], bool], take: Callable[[str, bytes], None]) -> None:
        self._clients[client], self._filters[client] = (next(self._numbers), take), wants
        for topic in sorted(self._retained):
            if wants(topic):
                self._send(client, topic, self._retained[topic], qos=1)

    def disconnect(self, client: str) -> None:
        self._clients.pop(client, None)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        assert "#" not in topic
        assert "+" not in topic
        if retain:
            self._retained[topic] = payload
        for client in list(self._clients):
            if self._filters[client](topic):
                self._send(client, topic, payload, qos)

    def _send(self, client: str, topic: str, payload: bytes, qos: int) -> None:
        link = self._clients[client]

        def deliver() -> None:
            if self._clients.get(client) is link:  # what is under way when a link ends is lost
                link[1](topic, payload)

        for _ in range(2 if qos and self.random.random() < self._duplicates else 1):
            arrives = max(self._last.get((client, topic), 0.0), self.now + self.random.uniform(0.0, self._slowest))
            self._last[client, topic] = arrives
            self.at(arrives - self.now, deliver)
