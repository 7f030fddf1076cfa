"""Fragments between two participants over real brokers: all of them, once, whatever happens to broker and links."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from legion_iot.model.geometry import Interval, Region
from legion_iot.transport.connection import BrokerAddress, Connected, Message, Will
from legion_iot.transport.fragments import FragmentsArrived, Outgoing, Undelivered
from legion_iot.transport.pair import INBOX_LIMIT, ConnectionPair, PairEvent
from legion_iot.wire import codec, delivery
from legion_iot.wire.messages import Chunk, Fragment, Parcel
from legion_iot.wire.tensors import Array, Assembly, bounds, pack_parcel, read_fragment, region_of
from legion_iot.wire.topics import Topics

from .conftest import PATIENCE, _Real, require_mosquitto

TOPICS = Topics("post")
MAP = Region(Interval(0, 224), Interval(0, 112))


@pytest.fixture(params=["embedded", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> Iterator[_Real]:
    if request.param == "mosquitto":
        require_mosquitto()
    running = _Real(request.param)
    yield running
    running.stop()


@pytest.fixture
def pairs(broker: _Real) -> Iterator[tuple[ConnectionPair, ConnectionPair]]:
    assert broker.address is not None
    ant, bee = (pair(broker.address, name) for name in ("ant", "bee"))
    yield ant, bee
    ant.close()
    bee.close()


def pair(address: BrokerAddress, name: str) -> ConnectionPair:
    made = ConnectionPair(address, name, Will(TOPICS.agent(name, "state"), b""), TOPICS, name)
    made.open([])
    assert isinstance(made.next(PATIENCE), Connected)
    return made


def feature_map(seed: int, region: Region = MAP) -> Array:
    shape = len(region.rows), len(region.columns), 64
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def outgoing(tensor: int, values: Array, target: str = "bee") -> Outgoing:
    whole = Region(Interval(0, values.shape[0]), Interval(0, values.shape[1]))
    header = Fragment("r", 1, 1, 0, tensor, bounds(whole), values.shape[2], str(values.dtype))
    return Outgoing(target, header, values, whole)


def collect(receiver: ConnectionPair, wanted: dict[int, Array]) -> list[int]:
    """Take in fragments until every tensor is complete; the tensors in the order in which they were."""
    parts = {
        tensor: Assembly(Region(Interval(0, values.shape[0]), Interval(0, values.shape[1])), 64, "float32")
        for tensor, values in wanted.items()
    }
    seen: set[tuple[int, tuple[int, int, int, int]]] = set()
    complete: list[int] = []
    deadline = time.monotonic() + PATIENCE
    while len(complete) < len(parts):
        event = receiver.next(deadline - time.monotonic())
        assert event is not None, f"only {complete} of {sorted(parts)} came in time"
        if not isinstance(event, FragmentsArrived):
            continue
        for header, body in event.fragments:
            assert (header.tensor, header.region) not in seen, "a fragment came twice"
            seen.add((header.tensor, header.region))
            parts[header.tensor].put(region_of(header.region), read_fragment(header, body))
            if not parts[header.tensor].missing:
                complete.append(header.tensor)
    for tensor, values in wanted.items():
        np.testing.assert_array_equal(parts[tensor].values, values)
    return complete


def test_control_is_preferred_to_data(broker: _Real, monkeypatch: pytest.MonkeyPatch) -> None:
    preferred: list[object] = []
    monkeypatch.setattr("legion_iot.transport.paho.prefer", preferred.append)
    assert broker.address is not None
    ant = pair(broker.address, "ant")
    try:
        assert len(preferred) == 1
    finally:
        ant.close()


def test_a_halo_overtakes_maps_that_wait(pairs: tuple[ConnectionPair, ConnectionPair]) -> None:
    ant, bee = pairs
    maps = {tensor: feature_map(tensor) for tensor in range(3)}  # 6 MB each: more than the credit
    halo = feature_map(9, Region(Interval(0, 1), Interval(0, 4)))
    with ant._fragments._changed:  # no receipt is taken in before the halo is there
        ant.send([outgoing(tensor, values) for tensor, values in maps.items()])
        ant.send([outgoing(9, halo)])
    assert collect(bee, {**maps, 9: halo})[-1] != 9


def test_what_was_announced_and_never_comes_holds_nothing_up(pairs: tuple[ConnectionPair, ConnectionPair]) -> None:
    ant, bee = pairs
    halos = {tensor: feature_map(tensor, Region(Interval(0, 1), Interval(0, 4))) for tensor in range(5)}
    for tensor, values in halos.items():
        header = outgoing(tensor, values).header
        parcel = Parcel(1, tensor, 0, 0, False, (header,), follows=1 << 40)
        ant.data.publish(TOPICS.inbox("bee", "ant"), pack_parcel(parcel, (values.data.cast("B"),)), qos=0)
        assert collect(bee, {tensor: values}) == [tensor]


def test_small_regions_of_one_step_come_in_one_message(pairs: tuple[ConnectionPair, ConnectionPair]) -> None:
    ant, bee = pairs
    halos = [feature_map(number, Region(Interval(0, 1), Interval(0, 8))) for number in range(4)]
    ant.send([outgoing(0, feature_map(7)), *(outgoing(1 + number, values) for number, values in enumerate(halos))])
    event = bee.next(PATIENCE)
    assert isinstance(event, FragmentsArrived)
    assert [header.tensor for header, _ in event.fragments][:4] == [1, 2, 3, 4]


def test_everything_arrives_when_the_broker_restarts_in_between(
    broker: _Real, pairs: tuple[ConnectionPair, ConnectionPair]
) -> None:
    ant, bee = pairs
    maps = {tensor: feature_map(tensor) for tensor in range(4)}
    for tensor, values in maps.items():
        ant.send([outgoing(tensor, values)])
        if tensor == 1:
            broker.stop()
            broker.start()
    collect(bee, maps)


def test_both_ways_from_several_threads_at_once(pairs: tuple[ConnectionPair, ConnectionPair]) -> None:
    """Whoever sends writes to the socket itself: no packet may get into the middle of another."""
    shapes = [Region(Interval(0, 1 + 37 * (n % 4)), Interval(0, 1 + n)) for n in range(24)]
    maps = {tensor: feature_map(tensor, shape) for tensor, shape in enumerate(shapes)}

    def send(sender: ConnectionPair, target: str, first: int) -> None:
        for tensor in range(first, len(maps), 3):
            sender.send([outgoing(tensor, maps[tensor], target)])
            sender.data.publish(TOPICS.inbox(target, "cat"), codec.pack(Chunk("a", tensor), bytes(tensor * 9000)))

    ant, bee = pairs
    threads = [
        threading.Thread(target=send, args=(sender, target, first))
        for sender, target in ((ant, "bee"), (bee, "ant"))
        for first in range(3)
    ]
    for thread in threads:
        thread.start()
    collect(bee, maps)
    collect(ant, maps)
    for thread in threads:
        thread.join(PATIENCE)


def test_who_does_not_answer_is_given_up(
    pairs: tuple[ConnectionPair, ConnectionPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "GIVE_UP", 0.2)
    monkeypatch.setattr(delivery, "FIRST_TIMEOUT", 0.05)
    ant, _ = pairs
    ant.send([outgoing(0, feature_map(0), "dog")])
    event: PairEvent | None = ant.next(PATIENCE)
    assert isinstance(event, Undelivered)
    assert (event.target, event.requests) == ("dog", ((1, "r"),))
    assert "dog has acknowledged nothing" in event.reason


def test_what_finds_the_inbox_full_comes_later(
    pairs: tuple[ConnectionPair, ConnectionPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FIRST_TIMEOUT", 0.05)
    ant, bee = pairs
    event = Message(TOPICS.inbox("bee", "ant"), b"")
    for _ in range(INBOX_LIMIT):
        bee._enqueue(event)
    values = feature_map(0, Region(Interval(0, 2), Interval(0, 2)))
    ant.send([outgoing(0, values)])
    deadline = time.monotonic() + PATIENCE
    while ant._fragments._state.resent == 0:  # it was not acknowledged
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert bee._events.qsize() == INBOX_LIMIT
    collect(bee, {0: values})


def test_noise_among_parcels_is_dropped(pairs: tuple[ConnectionPair, ConnectionPair]) -> None:
    ant, bee = pairs
    header = Fragment("r", 1, 1, 0, 0, (0, 1, 0, 1), 64, "float32")
    for parcel, body in ((Parcel(1, 0, 0, 1, True, (header,)), b"x"), (Parcel(1, 5, 9, 1, True, ()), b"")):
        ant.data.publish(TOPICS.inbox("bee", "ant"), pack_parcel(parcel, (memoryview(body),)))
    ant.data.publish(TOPICS.inbox("bee", "ant"), b"noise")
    values = feature_map(0, Region(Interval(0, 2), Interval(0, 2)))
    ant.send([outgoing(0, values)])
    collect(bee, {0: values})
