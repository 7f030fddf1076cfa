"""A broker's stream cut apart under every split, packets in parts, and a wrapped socket that never oversleeps."""

from __future__ import annotations

import contextlib
import random
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.transport.packets import (
    BATCH,
    MAX_HEAD,
    PINGRESP,
    WAKE,
    PacketSocket,
    PacketStream,
    Parts,
    Publish,
    publish_head,
)

PUBACK = b"\x40\x02\x00\x07"
CORRELATION = b"\x05\x09\x00\x02id"  # MQTT 5 properties, with their length


def message(topic: bytes, payload: bytes, qos: int = 1, retain: bool = False, number: int = 7) -> bytes:
    return publish_head(topic, len(payload), qos, retain, False, number) + payload


def feed(stream: PacketStream, data: bytes, sizes: Iterator[int]) -> list[Publish]:
    found: list[Publish] = []
    while data:
        space = stream.space()
        size = min(len(space), len(data), next(sizes))
        space[:size] = data[:size]
        found += stream.filled(size)
        data = data[size:]
    return found


messages = st.builds(
    Publish,
    topic=st.binary(min_size=1, max_size=40),
    payload=st.one_of(
        st.binary(max_size=200),
        st.sampled_from([bytes(16_380), bytes(range(256)) * 128, b"x" * 70_000]),
    ),
    qos=st.integers(0, 1),
    retain=st.booleans(),
    number=st.integers(1, 65_535),
    properties=st.just(b"\0"),
)


@given(st.lists(st.one_of(messages, st.sampled_from([PUBACK, PINGRESP, b"\xe0\x00"])), max_size=8), st.integers())
def test_any_split_gives_the_same_messages(packets: list[Publish | bytes], seed: int) -> None:
    data, control, expected = b"", b"", []
    for packet in packets:
        if isinstance(packet, bytes):
            data, control = data + packet, control + packet
        else:
            data += message(packet.topic, packet.payload, packet.qos, packet.retain, packet.number)
            number = packet.number if packet.qos else 0
            expected.append(Publish(packet.topic, packet.payload, packet.qos, packet.retain, number, b"\0"))
    draw, stream = random.Random(seed), PacketStream()
    sizes = iter(lambda: draw.choice((1, 2, 3, 17, 1000, 100_000)), 0)
    assert feed(stream, data, sizes) == expected
    assert stream.control == control
    assert stream.missing == 0


def test_properties_are_handed_over_as_they_are() -> None:
    body = b"\x00\x01t" + b"\x00\x07" + CORRELATION + b"payload"
    data = bytes((0x32, len(body))) + body
    for size in range(1, len(data) + 1):
        (found,) = feed(PacketStream(), data, iter(lambda size=size: size, 0))
        assert found == Publish(b"t", b"payload", 1, False, 7, CORRELATION)


@pytest.mark.parametrize(
    "data",
    [
        b"\x34\x05\x00\x01t\x00\x07",  # QoS 2
        b"\x30\x01\x00",  # no topic
        b"\x30\x03\x00\x05t",  # a topic longer than the packet
        b"\x30\x03\x00\x01t",  # no properties
        b"\x30\x05\x00\x01t\x05\x00",  # properties longer than the packet
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x30\xff\xff\xff\x7f\x00\x01t\xff\xff\xff\x7f" + bytes(MAX_HEAD),  # properties without end
    ],
)
@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_what_is_no_message_is_refused(data: bytes, step: int) -> None:
    with pytest.raises(ValueError, match=r"message|packet"):
        feed(PacketStream(), data, iter(lambda: step, 0))


@given(st.lists(st.binary(max_size=9), max_size=5), st.data())
def test_parts_answer_like_the_bytes_they_are(buffers: list[bytes], data: st.DataObject) -> None:
    parts, whole = Parts(*buffers), b"".join(buffers)
    while whole:
        assert len(parts) == len(whole)
        assert b"".join(parts.buffers) == whole
        written = data.draw(st.integers(1, len(whole)))
        parts, whole = parts[written:], whole[written:]
    assert b"".join(parts[0:].buffers) == b""


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        return listener.accept()[0], theirs


def test_paho_is_woken_for_a_large_payload_and_for_what_is_small_after_it() -> None:
    ours, theirs = tcp_pair()
    found: list[Publish] = []
    wrapped = PacketSocket(ours, found.append)
    ours.setblocking(False)
    payload = bytes(range(256)) * 1200
    data = message(b"t", payload) + PUBACK

    def read_until_control() -> bytes:
        while True:
            assert wrapped.pending() or select.select([wrapped], [], [], 20)[0]
            try:
                if (control := wrapped.recv(100)) != PINGRESP:
                    return control
            except BlockingIOError:
                continue

    with closing(ours), closing(theirs):
        sender = threading.Thread(target=lambda: theirs.sendall(data + message(b"t", b"small")))
        sender.start()
        assert read_until_control() == PUBACK
        sender.join()
        assert found[0].payload == payload
        for number in range(200):  # a turn may end anywhere: what is small must come through at once
            theirs.sendall(message(b"t", b"x" * (WAKE // 4) * (number % 3)) + PUBACK)
            assert read_until_control() == PUBACK
    assert len(found) == 202


def test_messages_that_were_announced_are_waited_for_together_but_never_relied_on() -> None:
    ours, theirs = tcp_pair()
    found: list[Publish] = []
    wrapped = PacketSocket(ours, found.append)
    ours.setblocking(False)
    first, second = message(b"t", bytes(1000), qos=0), message(b"t", bytes(5000), qos=0)

    def threshold() -> int:
        return ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    def take_in(count: int) -> None:
        while len(found) < count:
            assert select.select([wrapped], [], [], 20)[0]
            if wrapped.drain():
                assert wrapped.recv(2) == PINGRESP

    with closing(ours), closing(theirs):
        theirs.sendall(first)
        take_in(1)
        assert (threshold(), wrapped.patience) == (1, None)
        wrapped.expect(len(second) + 3000)
        theirs.sendall(first)
        take_in(2)
        assert threshold() == len(second) + 3000 - len(first)
        assert wrapped.patience is not None
        theirs.sendall(second)
        wrapped.hurry()
        take_in(3)
        assert (threshold(), wrapped.patience) == (1, None)
        wrapped.expect(1 << 40)
        theirs.sendall(first + PUBACK)
        wrapped.drain()
        assert threshold() <= BATCH


@pytest.mark.parametrize("end", [b"", b"\x34\x05\x00\x01t\x00\x07"])
def test_a_drained_link_says_how_it_ended(end: bytes) -> None:
    ours, theirs = tcp_pair()
    wrapped = PacketSocket(ours, lambda packet: None)
    with closing(ours):
        theirs.sendall(end)
        theirs.close()
        assert wrapped.drain()
        with contextlib.suppress(ConnectionError):
            assert wrapped.recv(10) == b""


def test_an_ended_link_says_so() -> None:
    ours, theirs = socket.socketpair()
    wrapped = PacketSocket(ours, lambda packet: None)
    theirs.close()
    with closing(ours):
        assert wrapped.recv(10) == b""


def test_what_is_no_mqtt_ends_the_link() -> None:
    ours, theirs = socket.socketpair()
    wrapped = PacketSocket(ours, lambda packet: None)
    with closing(ours), closing(theirs):
        theirs.sendall(b"\x34\x05\x00\x01t\x00\x07")
        with pytest.raises(ConnectionError, match="no MQTT"):
            wrapped.recv(10)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_over_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(certificate))
    body, got = bytes(range(256)) * 4000, bytearray()
    data = b"".join(message(b"t", body[: number * 100_000]) + PUBACK for number in range(8))

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as secure:
            while len(got) < 4 + len(body):
                got.extend(secure.recv(1 << 16))
            secure.sendall(data)
            secure.recv(1)

    plain, theirs = tcp_pair()
    server_thread = threading.Thread(target=serve)
    server_thread.start()
    ours = client.wrap_socket(plain, server_hostname="localhost")
    ours.setblocking(False)
    found: list[Publish] = []
    wrapped = PacketSocket(ours, found.append)
    left, control = Parts(b"head", body), b""
    with closing(ours):
        while left:
            try:
                left = left[wrapped.send(left) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                select.select([], [wrapped], [], 1)
        while control.count(PUBACK) < 8:
            assert wrapped.pending() or select.select([wrapped], [], [], 20)[0]
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                control += wrapped.recv(100)
    server_thread.join(20)
    assert bytes(got) == b"head" + body
    assert [packet.payload for packet in found] == [body[: number * 100_000] for number in range(8)]
