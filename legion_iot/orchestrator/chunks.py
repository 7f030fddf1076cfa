"""Parts of model files for agents that fetch them, beside requests that travel over the same link.

Theory. Agents ask for more at a time than the link carries at once, and feature maps would queue behind all of it. So
what they ask for waits here, one agent's turn after the other's, and little of it is handed to the connection before
the broker has acknowledged the rest. Whatever an agent asks, within a time as long as it may take to fetch, it gets no
more than a few times the model: a wrong or hostile one takes a bounded share of the link.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Protocol

from legion_iot.errors import ProtocolError
from legion_iot.runtime.fetch import CHUNK
from legion_iot.runtime.orchestrator import WORK_TIMEOUT
from legion_iot.wire import codec
from legion_iot.wire.messages import Chunk, ChunkRequest

TIMES = 3  # that an agent gets a model at most
PERIOD = WORK_TIMEOUT  # seconds
UNDER_WAY = 4  # chunks that the broker has not acknowledged
WAITING = 32  # chunks that one agent may ask for before it gets the first
_MOST_COUNTED = 4096  # agents and models, after which those that are over are forgotten


class Send(Protocol):
    """Sends a chunk to an agent, false where that cannot be; else `on_acknowledged` is called, in any thread."""

    def __call__(self, agent: str, payload: tuple[bytes, memoryview], on_acknowledged: Callable[[], None]) -> bool: ...


class ChunkServer:
    """Answers for the models whose content `find` has, by SHA-256; `wake` has `send_more` called soon."""

    def __init__(self, find: Callable[[str], memoryview | None], send: Send, wake: Callable[[], None]) -> None:
        self._find, self._send, self._wake = find, send, wake
        self._waiting: dict[str, list[ChunkRequest]] = {}  # by agent; whose turn it is comes first
        self._under_way = 0
        self._acknowledged: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._given: dict[tuple[str, str], tuple[float, int]] = {}  # since when, and bytes

    def ask(self, agent: str, wanted: ChunkRequest, now: float) -> None:
        """An agent wants a chunk. Raises ProtocolError where it is not to be had, or the agent has had too much."""
        content = self._find(wanted.sha256)
        if content is None or not 0 <= wanted.offset < len(content):
            raise ProtocolError(f"{agent} asks for a model that is not served")
        if not 0 < wanted.size <= CHUNK:
            raise ProtocolError(f"{agent} asks for a chunk of {wanted.size} bytes")
        waiting = self._waiting.get(agent, [])
        if wanted in waiting:
            return
        if len(waiting) >= WAITING:
            raise ProtocolError(f"{agent} asks for more than it can fetch at a time")
        self._count(agent, wanted.sha256, min(wanted.size, len(content) - wanted.offset), TIMES * len(content), now)
        self._waiting.setdefault(agent, []).append(wanted)
        self.send_more()

    def send_more(self) -> None:
        """Send what the connection has room for."""
        while not self._acknowledged.empty():
            self._acknowledged.get()
            self._under_way -= 1
        while self._waiting and self._under_way < UNDER_WAY:
            agent = next(iter(self._waiting))
            wanted, *rest = self._waiting.pop(agent)
            if rest:
                self._waiting[agent] = rest
            content = self._find(wanted.sha256)
            if content is None:
                continue  # the model was removed meanwhile
            body = content[wanted.offset : wanted.offset + wanted.size]
            payload = codec.pack(Chunk(wanted.sha256, wanted.offset)), body
            # One that is not sent is asked for again.
            self._under_way += self._send(agent, payload, self._on_acknowledged)

    def _on_acknowledged(self) -> None:
        self._acknowledged.put(None)
        self._wake()

    def _count(self, agent: str, sha256: str, size: int, most: int, now: float) -> None:
        since, given = self._given.get((agent, sha256), (now, 0))
        if now - since > PERIOD:
            since, given = now, 0
        if given + size > most:
            raise ProtocolError(f"{agent} asks for a model again and again")
        if len(self._given) >= _MOST_COUNTED:
            self._given = {key: each for key, each in self._given.items() if now - each[0] <= PERIOD}
        self._given[agent, sha256] = (since, given + size)
