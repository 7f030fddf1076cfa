"""One model being fetched: which chunks to ask for, which have come, and when to give up.

A window of chunks is asked for at a time, so that the answers never fill a queue on their way; and none far beyond the
first one that has not come, so that what comes ahead of it takes little memory. A chunk that does not come is asked for
again; a chunk nobody asked for, or of another size, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from legion_iot.wire.messages import Chunk, ChunkRequest, Command, ModelReference

CHUNK = 256 << 10  # bytes
CHUNKS_IN_FLIGHT = 8
CHUNKS_AHEAD = 16  # from the first one that has not come
CHUNK_TIMEOUT = 5.0  # seconds
CHUNK_ATTEMPTS = 5  # in a row without a single chunk


@dataclass(slots=True)
class Fetch:
    """A model being fetched: which chunks are under way since when, and the newest command that waits for it.

    It has `begun` when there is room for the model, and is `resumed` where some of it was there before.
    """

    model: ModelReference
    begun: bool = False
    resumed: bool = False
    next_offset: int = 0
    in_flight: dict[int, float] = field(default_factory=dict)
    attempts: int = 0
    command: Command | None = None

    @property
    def is_complete(self) -> bool:
        return self.begun and not self.in_flight and self.next_offset >= self.model.size

    def begin(self, there: int) -> None:
        """There is room, and so many bytes are there already."""
        self.begun, self.resumed, self.next_offset = True, there > 0, there

    def ask(self, now: float) -> list[ChunkRequest]:
        """Requests that fill the window; none before it has begun, or where it is full."""
        requests: list[ChunkRequest] = []
        if not self.begun:
            return requests
        first = min(self.in_flight, default=self.next_offset)
        most = min(self.model.size, first + CHUNKS_AHEAD * CHUNK)
        while len(self.in_flight) < CHUNKS_IN_FLIGHT and self.next_offset < most:
            self.in_flight[self.next_offset] = now
            requests.append(self._request(self.next_offset))
            self.next_offset += CHUNK
        return requests

    def take(self, chunk: Chunk, size: int) -> bool:
        """Whether a chunk of `size` bytes is one that was asked for; it then is no longer under way."""
        if chunk.sha256 != self.model.sha256 or chunk.offset not in self.in_flight:
            return False
        if size != self._request(chunk.offset).size:
            return False
        del self.in_flight[chunk.offset]
        self.attempts = 0
        return True

    def ask_again(self, now: float) -> list[ChunkRequest] | None:
        """Requests for chunks that are late; None when it is time to give up."""
        late = [offset for offset, asked in self.in_flight.items() if now - asked > CHUNK_TIMEOUT]
        if not late:
            return []
        self.attempts += 1
        if self.attempts > CHUNK_ATTEMPTS:
            return None
        for offset in late:
            self.in_flight[offset] = now
        return [self._request(offset) for offset in late]

    def _request(self, offset: int) -> ChunkRequest:
        return ChunkRequest(self.model.sha256, offset, min(CHUNK, self.model.size - offset))
