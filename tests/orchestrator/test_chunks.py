"""Parts of models for agents: the right bytes, and never more than somebody who fetches can need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import ProtocolError
from legion_iot.orchestrator.chunks import PERIOD, TIMES, ChunkServer
from legion_iot.runtime.fetch import CHUNK, Fetch
from legion_iot.wire import codec
from legion_iot.wire.messages import Chunk, ChunkRequest, ModelReference

SHA = "ab" * 32
CONTENT = bytes(range(251)) * 5000  # several chunks, the last one short


def server() -> ChunkServer:
    return ChunkServer(lambda sha256: memoryview(CONTENT) if sha256 == SHA else None)


def test_a_fetch_gets_the_file_even_when_each_chunk_comes_twice() -> None:
    chunks, fetch = server(), Fetch(ModelReference("m", SHA, len(CONTENT)))
    fetch.begin(0)
    got = bytearray(len(CONTENT))
    while not fetch.is_complete:
        for wanted in fetch.ask(0.0):
            for _ in range(2):
                payload = b"".join(chunks.answer("ant", wanted, 0.0))
                chunk, body = codec.unpack({"Chunk": Chunk}, payload)
                got[chunk.offset : chunk.offset + len(body)] = body
            assert fetch.take(chunk, len(body))
    assert got == CONTENT


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ant", "bee"]),
            st.sampled_from([SHA, "cd" * 32]),
            st.integers(-1, len(CONTENT) + 1),
            st.integers(-1, CHUNK + 1),
            st.floats(0.0, PERIOD / 10),
        ),
        max_size=60,
    )
)
def test_whatever_agents_ask_for_is_bounded(asked: list[tuple[str, str, int, int, float]]) -> None:
    chunks, now = server(), 0.0
    given_to: dict[str, list[tuple[float, int]]] = {"ant": [], "bee": []}
    for agent, sha256, offset, size, pause in asked:
        now += pause
        try:
            _, body = chunks.answer(agent, ChunkRequest(sha256, offset, size), now)
        except ProtocolError:
            continue
        assert body == CONTENT[offset : offset + size]
        given_to[agent].append((now, len(body)))
    for sent in given_to.values():
        for since, _ in sent:
            # A period may begin anywhere within this one, so no more than two of them meet in it.
            assert sum(size for at, size in sent if since <= at < since + PERIOD) <= 2 * TIMES * len(CONTENT)


def test_an_agent_that_asks_again_and_again_is_refused_until_its_time_is_over() -> None:
    chunks, first = server(), ChunkRequest(SHA, 0, CHUNK)

    def given_until_refused(now: float) -> int:
        for count in range(100):
            try:
                chunks.answer("ant", first, now)
            except ProtocolError as error:
                assert "again and again" in str(error)
                return count * CHUNK
        raise AssertionError("it is never refused")

    once = given_until_refused(0.0)
    assert TIMES * len(CONTENT) - CHUNK < once <= TIMES * len(CONTENT)
    assert chunks.answer("bee", first, 0.0)
    assert given_until_refused(PERIOD + 1.0) == once
