"""Parts of models for agents: the right bytes, in turns, few at a time, and never more than somebody can need."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import ProtocolError
from legion_iot.orchestrator.chunks import PERIOD, TIMES, UNDER_WAY, WAITING, ChunkServer
from legion_iot.runtime.fetch import CHUNK, Fetch
from legion_iot.wire import codec
from legion_iot.wire.messages import Chunk, ChunkRequest, ModelReference

SHA = "ab" * 32
CONTENT = bytes(range(251)) * 5000  # several chunks, the last one short


class Link:
    """What the server sends, and the broker that acknowledges it when it is told to."""

    def __init__(self, held: dict[str, bytes] | None = None) -> None:
        self.held = {SHA: CONTENT} if held is None else held
        self.sent: list[tuple[str, int, bytes]] = []
        self.unacknowledged: list[Callable[[], None]] = []
        self.full = False
        self.woken = 0
        self.server = ChunkServer(self._find, self._send, self._wake)

    def _find(self, sha256: str) -> memoryview | None:
        return memoryview(self.held[sha256]) if sha256 in self.held else None

    def _send(self, agent: str, payload: tuple[bytes, memoryview], on_acknowledged: Callable[[], None]) -> bool:
        if self.full:
            return False
        chunk, body = codec.unpack({"Chunk": Chunk}, b"".join(payload))
        self.sent.append((agent, chunk.offset, bytes(body)))
        self.unacknowledged.append(on_acknowledged)
        assert len(self.unacknowledged) <= UNDER_WAY
        return True

    def _wake(self) -> None:
        self.woken += 1

    def acknowledge(self) -> None:
        """The broker has all that was sent, until nothing more comes."""
        while self.unacknowledged:
            self.unacknowledged.pop(0)()
            assert self.woken
            self.server.send_more()

    def given_to(self, agent: str) -> int:
        return sum(len(body) for to, _, body in self.sent if to == agent)


def test_a_fetch_gets_the_file_even_when_each_chunk_is_asked_for_twice() -> None:
    link, fetch = Link(), Fetch(ModelReference("m", SHA, len(CONTENT)))
    fetch.begin(0)
    got = bytearray(len(CONTENT))
    while not fetch.is_complete:
        for wanted in fetch.ask(0.0):
            link.server.ask("ant", wanted, 0.0)
            link.acknowledge()
            link.server.ask("ant", wanted, 0.0)
            link.acknowledge()
        for _, offset, body in link.sent:
            got[offset : offset + len(body)] = body
            fetch.take(Chunk(SHA, offset), len(body))
    assert got == CONTENT


def test_agents_take_turns_and_little_is_under_way() -> None:
    big = bytes(100 * CHUNK)
    link = Link({SHA: big})
    for agent in ("ant", "bee"):
        for number in range(8):
            link.server.ask(agent, ChunkRequest(SHA, number * CHUNK, CHUNK), 0.0)
    assert len(link.sent) == UNDER_WAY
    link.acknowledge()
    assert [agent for agent, _, _ in link.sent[UNDER_WAY : UNDER_WAY + 8]] == ["ant", "bee"] * 4
    for agent in ("ant", "bee"):
        assert [offset for to, offset, _ in link.sent if to == agent] == [n * CHUNK for n in range(8)]


def test_what_cannot_be_sent_or_is_gone_holds_nobody_up() -> None:
    link = Link({SHA: CONTENT, "cd" * 32: CONTENT})
    link.full = True
    for number in range(2 * UNDER_WAY):
        link.server.ask("ant", ChunkRequest(SHA, number, 1), 0.0)
    link.full = False
    for number in range(UNDER_WAY + 1):
        link.server.ask("ant", ChunkRequest("cd" * 32, number, 1), 0.0)
    del link.held["cd" * 32]
    link.server.ask("bee", ChunkRequest(SHA, 0, 1), 0.0)
    link.acknowledge()
    assert [agent for agent, _, _ in link.sent] == ["ant"] * UNDER_WAY + ["bee"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ant", "bee"]),
            st.sampled_from([SHA, "cd" * 32]),
            st.integers(-1, len(CONTENT) + 1),
            st.integers(-1, CHUNK + 1),
            st.floats(0.0, PERIOD / 10),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_whatever_agents_ask_for_is_bounded(asked: list[tuple[str, str, int, int, float, bool]]) -> None:
    link, now = Link(), 0.0
    times: list[tuple[str, float, int]] = []
    for agent, sha256, offset, size, pause, idle in asked:
        now += pause
        before = len(link.sent)
        try:
            link.server.ask(agent, ChunkRequest(sha256, offset, size), now)
        except ProtocolError:
            assert len(link.sent) == before
        else:
            times.append((agent, now, size))
        if idle:
            link.acknowledge()
    link.acknowledge()
    for agent in ("ant", "bee"):
        wanted = [(at, size) for of, at, size in times if of == agent]
        assert link.given_to(agent) <= sum(size for _, size in wanted)
        for since, _ in wanted:
            # A period may begin anywhere within this one, so no more than two of them meet in it.
            inside = sum(size for at, size in wanted if since <= at < since + PERIOD)
            assert inside <= 2 * (TIMES * len(CONTENT) + CHUNK)
    assert all(body == CONTENT[offset : offset + len(body)] for _, offset, body in link.sent)


def test_an_agent_that_asks_again_and_again_is_refused_until_its_time_is_over() -> None:
    link, first = Link(), ChunkRequest(SHA, 0, CHUNK)

    def given_until_refused(now: float) -> int:
        before = link.given_to("ant")
        for _ in range(100):
            try:
                link.server.ask("ant", first, now)
            except ProtocolError as error:
                assert "again and again" in str(error)
                return link.given_to("ant") - before
            link.acknowledge()
        raise AssertionError("it is never refused")

    once = given_until_refused(0.0)
    assert TIMES * len(CONTENT) - CHUNK < once <= TIMES * len(CONTENT)
    link.server.ask("bee", first, 0.0)
    link.acknowledge()
    assert link.given_to("bee") == CHUNK
    assert given_until_refused(PERIOD + 1.0) == once


def test_an_agent_that_asks_for_all_at_once_is_refused() -> None:
    link = Link({SHA: bytes(1000 * CHUNK)})
    for number in range(UNDER_WAY + WAITING):
        link.server.ask("ant", ChunkRequest(SHA, number * CHUNK, CHUNK), 0.0)
    with pytest.raises(ProtocolError, match="at a time"):
        link.server.ask("ant", ChunkRequest(SHA, 999 * CHUNK, CHUNK), 0.0)
