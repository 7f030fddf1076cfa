"""The embedded broker's codec: what it accepts it can write, and no bytes make it fail or grow."""

from __future__ import annotations

import contextlib
import itertools
import socket
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from legion_iot_broker.embedded import EmbeddedBroker
from legion_iot_broker.framing import Framer
from legion_iot_broker.limits import BrokerLimits
from legion_iot_broker.packets import (
    PACKET_TOO_LARGE,
    QOS_NOT_SUPPORTED,
    V5,
    V311,
    Connect,
    PubAck,
    Publish,
    Subscribe,
    decode,
    publish_header,
)
from legion_iot_broker.wire_format import Cursor, PacketError, packet, string, u16, varint

LIMIT = 1 << 20
TOPICS = st.text(st.characters(exclude_characters="+#\0", exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: text.count("/") < 60
)


def frames(data: bytes, cuts: list[int], limit: int = LIMIT) -> list[tuple[int, bytes]]:
    """Feed `data` in pieces as a socket would, into the framer's own space where it has one."""
    framer, found = Framer(limit), []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        piece = memoryview(data)[start:end]
        while len(piece):
            space = framer.space()
            if space is None:
                found += [(first, bytes(body)) for first, body in framer.feed(piece)]
                break
            size = min(len(space), len(piece))
            space[:size] = piece[:size]
            if (done := framer.filled(size)) is not None:
                found.append((done[0], bytes(done[1])))
            piece = piece[size:]
    return found


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=8),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_a_stream_is_cut_the_same_wherever_it_is_torn(packets: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(packet(first, body) for first, body in packets)
    assert frames(stream, cuts) == packets


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6))
def test_any_stream_is_framed_or_refused(data: bytes, cuts: list[int]) -> None:
    try:
        found = frames(data, cuts)
    except PacketError:
        return
    assert sum(len(body) for _, body in found) <= len(data)


@given(st.integers(0, 255), st.binary(max_size=200), st.sampled_from([V311, V5]))
@example(0x10, b"\0\4MQTT\5\4\0\0\0\0\1a\5\x18\0\0\0\1\0\1t\0\1p", V5)
def test_any_packet_is_decoded_or_refused(first: int, body: bytes, version: int) -> None:
    reason = 0x80
    try:
        decode(first, memoryview(body), version)
    except PacketError as error:
        reason = error.reason
    assert 0x80 <= reason <= 0xA2


@given(
    TOPICS,
    st.binary(max_size=100),
    st.tuples(st.integers(0, 1), st.booleans(), st.integers(1, 65_535)),
    st.sampled_from([V311, V5]),
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5), max_size=3),
)
def test_publish_comes_back_as_it_was(
    topic: str, payload: bytes, flags: tuple[int, bool, int], version: int, names: list[str]
) -> None:
    qos, retain, number = flags
    properties = b"".join(b"\x26" + string(name) + string("v") for name in names) if version == V5 else b""
    message = Publish(topic, memoryview(payload), qos, retain, number if qos else 0, properties)
    wire = publish_header(version, message, qos, retain, number) + payload
    ((first, body),) = frames(wire, [])
    assert decode(first, memoryview(body), version) == message


@given(st.integers(0, 268_435_455))
def test_variable_numbers_come_back(value: int) -> None:
    cursor = Cursor(memoryview(varint(value)))
    assert cursor.varint() == value
    cursor.end()


def test_qos_2_is_refused_by_its_name() -> None:
    with pytest.raises(PacketError) as caught:
        decode(0x34, memoryview(string("t") + u16(1)), V311)
    assert caught.value.reason == QOS_NOT_SUPPORTED


def test_a_will_loses_its_delay_and_nothing_else() -> None:
    pair = b"\x26" + string("k") + string("v")
    properties = b"\x01\x01" + pair + b"\x18\0\0\0\x09" + b"\x02\0\0\0\x05" + b"\x03" + string("text")
    body = b"\0\4MQTT\5\x2e\0\x0a\0\0\1a" + varint(len(properties)) + properties + string("t") + string("gone")
    connect = decode(0x10, memoryview(body), V311)
    assert isinstance(connect, Connect)
    assert connect.will is not None
    assert connect.will.properties == b"\x01\x01" + pair + b"\x02\0\0\0\x05" + b"\x03" + string("text")
    assert (connect.will.topic, bytes(connect.will.payload), connect.will.retain, connect.will.qos) == (
        "t",
        b"gone",
        True,
        1,
    )


def test_a_large_claim_costs_nothing_until_it_is_filled() -> None:
    framer = Framer(1024)
    with pytest.raises(PacketError) as caught:
        list(framer.feed(memoryview(b"\x30" + varint(1025))))
    assert caught.value.reason == PACKET_TOO_LARGE
    tracemalloc.start()
    try:
        for _ in range(1000):
            assert list(Framer(1024).feed(memoryview(b"\x30" + varint(1000)))) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def connect_packet(version: int, client_id: str) -> bytes:
    return packet(
        0x10, string("MQTT") + bytes((version, 2)) + u16(60) + (b"\0" if version == V5 else b"") + string(client_id)
    )


def read_packet(sock: socket.socket) -> tuple[int, bytes]:
    head = sock.recv(1)
    if not head:
        return -1, b""
    size = shift = 0
    while True:
        byte = sock.recv(1)[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    body = b""
    while len(body) < size:
        body += sock.recv(size - len(body))
    return head[0], body


@pytest.fixture(scope="module")
def embedded():
    with EmbeddedBroker(limits=BrokerLimits(packet_bytes=LIMIT, queue_bytes=2 * LIMIT)) as broker:
        yield broker
        assert broker.counters.defects == 0


def joined(broker: EmbeddedBroker, version: int, client_id: str) -> socket.socket:
    sock = socket.create_connection((broker.address.host, broker.address.port), timeout=20)
    sock.sendall(connect_packet(version, client_id))
    first, body = read_packet(sock)
    assert (first, body[1]) == (0x20, 0)
    return sock


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4), st.booleans(), st.sampled_from([V311, V5]))
def test_garbage_ends_only_its_sender(
    embedded: EmbeddedBroker, chunks: list[bytes], polite: bool, version: int
) -> None:
    endpoint = (embedded.address.host, embedded.address.port)
    with joined(embedded, version, "witness") as witness, socket.create_connection(endpoint, timeout=20) as rude:
        with contextlib.suppress(OSError):  # cut off already, as it should be
            if polite:
                rude.sendall(connect_packet(version, "rude"))
            for chunk in chunks:
                rude.sendall(chunk)
        rude.close()
        witness.sendall(b"\xc0\0")
        assert read_packet(witness) == (0xD0, b"")


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"\x34\5\0\1t\0\1", 0x9B),  # QoS 2
        (b"\x30\7\0\1t\3\x23\0\1", 0x94),  # a topic alias
        (b"\x82\x0a\0\1\2\x0b\1\0\1t\0" + b"\0", 0xA1),  # a subscription identifier
        (b"\x30" + varint(LIMIT + 1), 0x95),
        (connect_packet(V5, "again"), 0x82),
        (b"\x00\0", 0x82),
    ],
)
def test_version_5_clients_are_told_why(embedded: EmbeddedBroker, wire: bytes, reason: int) -> None:
    with joined(embedded, V5, "told") as sock:
        sock.sendall(wire)
        assert read_packet(sock) == (0xE0, bytes((reason,)))
        assert read_packet(sock) == (-1, b"")


def test_nobody_listens_is_said_to_version_5_only(embedded: EmbeddedBroker) -> None:
    with joined(embedded, V5, "five") as five, joined(embedded, V311, "three") as three:
        five.sendall(b"\x32\7\0\1t\0\1\0x")
        assert read_packet(five) == (0x40, b"\0\1\x10")
        three.sendall(b"\x32\6\0\1t\0\1x")
        assert read_packet(three) == (0x40, b"\0\1")


def test_properties_reach_version_5_and_not_3(embedded: EmbeddedBroker) -> None:
    properties = b"\x08" + string("reply/to") + b"\x09" + string("id")
    with joined(embedded, V5, "five") as five, joined(embedded, V311, "three") as three:
        five.sendall(packet(0x82, u16(1) + b"\0" + string("t") + b"\0"))
        assert read_packet(five)[0] == 0x90
        three.sendall(packet(0x82, u16(1) + string("t") + b"\0"))
        assert read_packet(three)[0] == 0x90
        five.sendall(packet(0x30, string("t") + varint(len(properties)) + properties + b"payload"))
        assert read_packet(five) == (0x30, string("t") + varint(len(properties)) + properties + b"payload")
        assert read_packet(three) == (0x30, string("t") + b"payload")


def test_qos_2_subscriptions_are_granted_qos_1(embedded: EmbeddedBroker) -> None:
    with joined(embedded, V311, "two") as sock:
        sock.sendall(packet(0x82, u16(7) + string("t") + b"\2" + string("$share/g/t") + b"\1"))
        assert read_packet(sock) == (0x90, b"\0\7\1\x80")


def test_the_window_holds_back_what_is_not_acknowledged(embedded: EmbeddedBroker) -> None:
    with joined(embedded, V311, "slow") as slow, joined(embedded, V311, "fast") as fast:
        slow.sendall(packet(0x82, u16(1) + string("w") + b"\1"))
        assert read_packet(slow)[0] == 0x90
        for number in range(1, 101):
            fast.sendall(packet(0x32, string("w") + u16(number) + str(number).encode()))
            assert read_packet(fast)[0] == 0x40
        got = []
        for _ in range(64):
            first, body = read_packet(slow)
            assert first == 0x32
            got.append((body[3:5], body[5:]))
        slow.settimeout(0.05)
        with pytest.raises(TimeoutError):
            slow.recv(1)
        slow.settimeout(20)
        for number, _ in got[:36]:
            slow.sendall(packet(0x40, number))
        for _ in range(36):
            got.append((b"", read_packet(slow)[1][5:]))
        assert [int(payload) for _, payload in got] == list(range(1, 101))


@pytest.mark.parametrize("qos", [0, 1])
def test_a_client_that_does_not_read_loses_messages_or_its_link(qos: int) -> None:
    limits = BrokerLimits(queue_bytes=LIMIT, in_flight=10_000)
    with (
        EmbeddedBroker(limits=limits) as broker,
        joined(broker, V311, "stuck") as stuck,
        joined(broker, V311, "fast") as fast,
    ):
        stuck.sendall(packet(0x82, u16(1) + string("w") + bytes((qos,))))
        assert read_packet(stuck)[0] == 0x90
        for number in range(1, 301):
            fast.sendall(packet(0x30 | qos << 1, string("w") + (u16(number) if qos else b"") + bytes(100_000)))
            if qos:
                assert read_packet(fast)[0] == 0x40
        fast.sendall(b"\xc0\0")
        assert read_packet(fast)[0] == 0xD0
        assert broker.counters.dropped > 0
        assert broker.counters.slow_clients == qos


def test_silence_ends_a_link() -> None:
    with EmbeddedBroker() as broker, joined(broker, V5, "watcher") as watcher:
        watcher.sendall(packet(0x82, u16(1) + b"\0" + string("gone") + b"\0"))
        assert read_packet(watcher)[0] == 0x90
        body = (
            string("MQTT") + bytes((V5, 6)) + u16(1) + b"\0" + string("mute") + b"\0" + string("gone") + string("mute")
        )
        with socket.create_connection((broker.address.host, broker.address.port), timeout=20) as mute:
            mute.sendall(packet(0x10, body))
            assert read_packet(mute)[0] == 0x20
            assert read_packet(watcher) == (0x30, string("gone") + b"\0mute")
            assert read_packet(mute) == (0xE0, b"\x8d")


def test_version_3_clients_of_paho_are_served(embedded: EmbeddedBroker) -> None:
    client = Client(CallbackAPIVersion.VERSION2, "old", protocol=MQTTProtocolVersion.MQTTv311)
    got: list[MQTTMessage] = []
    client.on_message = lambda _client, _data, message: got.append(message)
    client.on_connect = lambda *_: client.subscribe("v3", 1)
    client.on_subscribe = lambda *_: client.publish("v3", b"x", 1)
    client.connect(embedded.address.host, embedded.address.port)
    for _ in range(200):
        client.loop(0.1)
        if got:
            break
    assert [(message.topic, message.payload) for message in got] == [("v3", b"x")]
    client.disconnect()


def test_small_packets() -> None:
    assert decode(0x40, memoryview(b"\0\1"), V311) == PubAck(1)
    assert isinstance(decode(0x82, memoryview(u16(1) + string("t") + b"\0"), V311), Subscribe)
