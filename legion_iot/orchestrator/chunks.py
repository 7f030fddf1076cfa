"""Parts of model files for agents that fetch them, no more than somebody who fetches can need.

Theory. An agent asks for a window of chunks, and for those again that did not come. Whatever it asks, within a time as
long as it may take to fetch, it gets no more than a few times the model; so a wrong or hostile one takes a bounded
share of the link that requests travel on.
"""

from __future__ import annotations

from collections.abc import Callable

from legion_iot.errors import ProtocolError
from legion_iot.runtime.fetch import CHUNK
from legion_iot.runtime.orchestrator import WORK_TIMEOUT
from legion_iot.wire import codec
from legion_iot.wire.messages import Chunk, ChunkRequest

TIMES = 3  # that an agent gets a model at most
PERIOD = WORK_TIMEOUT  # seconds
_MOST_COUNTED = 4096  # agents and models, after which those that are over are forgotten


class ChunkServer:
    """Answers for the models whose content `find` has, by SHA-256."""

    def __init__(self, find: Callable[[str], memoryview | None]) -> None:
        self._find = find
        self._given: dict[tuple[str, str], tuple[float, int]] = {}  # since when, and bytes

    def answer(self, agent: str, wanted: ChunkRequest, now: float) -> tuple[bytes, memoryview]:
        """The message with a chunk; raises ProtocolError where it is not to be had, or the agent has had too much."""
        content = self._find(wanted.sha256)
        if content is None or not 0 <= wanted.offset < len(content):
            raise ProtocolError(f"{agent} asks for a model that is not served")
        if not 0 < wanted.size <= CHUNK:
            raise ProtocolError(f"{agent} asks for a chunk of {wanted.size} bytes")
        body = content[wanted.offset : wanted.offset + wanted.size]
        self._count(agent, wanted.sha256, len(body), TIMES * len(content), now)
        return codec.pack(Chunk(wanted.sha256, wanted.offset)), body

    def _count(self, agent: str, sha256: str, size: int, most: int, now: float) -> None:
        since, given = self._given.get((agent, sha256), (now, 0))
        if now - since > PERIOD:
            since, given = now, 0
        if given + size > most:
            raise ProtocolError(f"{agent} asks for a model again and again")
        if len(self._given) >= _MOST_COUNTED:
            self._given = {key: each for key, each in self._given.items() if now - each[0] <= PERIOD}
        self._given[agent, sha256] = (since, given + size)
