"""Emulated links: the arithmetic of a wire, and the relay on loopback."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.lab.pacing import CATCH_UP, PAYLOAD, RETRANSMISSION_TIMEOUT, WIRE, Wire, bytes_per_second
from legion_iot.lab.proxy import Proxy
from legion_iot.lab.spec import Link

# --- arithmetic ---


@given(st.floats(1e4, 1e9), st.floats(0, 1), st.lists(st.integers(1, 1 << 16), min_size=1, max_size=50))
def test_a_busy_wire_carries_its_rate(rate: float, delay: float, counts: list[int]) -> None:
    wire = Wire(rate, delay)
    now = 10.0
    first = wire.send(counts[0], now)
    arrivals = [first]
    for count in counts[1:]:
        now = max(now, wire.free_at)
        assert wire.is_free(now)
        arrivals.append(wire.send(count, now))
    assert arrivals == sorted(arrivals)
    # What the wire made good at the start, and no more.
    assert -1e-6 <= sum(counts[1:]) / rate - (arrivals[-1] - first) <= CATCH_UP + 1e-6
    assert first >= 10.0 + delay


@given(st.floats(1e4, 1e9), st.floats(0, 100))
def test_idle_time_is_lost_but_for_a_little(rate: float, idle: float) -> None:
    wire = Wire(rate)
    wire.send(1, 10.0)
    late = wire.free_at + idle
    sent = 0
    while wire.is_free(late):
        wire.send(1000, late)
        sent += 1000
    assert sent / rate <= min(idle, CATCH_UP) + 2000 / rate


def test_without_a_rate_only_the_delay_counts() -> None:
    wire = Wire(None, 0.5)
    assert [wire.send(1 << 20, 3.0) for _ in range(3)] == [3.5] * 3
    assert wire.is_free(3.0)


def test_no_loss_no_stall() -> None:
    assert Wire(1e6).stall(1 << 20, last=True) == 0


@given(st.floats(0.001, 0.3), st.integers(1, 50))
def test_a_piece_is_lost_as_often_as_one_of_its_packets(loss: float, packets: int) -> None:
    wire = Wire(1e6, 0.01, loss, random.Random(1))
    stalls = [wire.stall(packets * PAYLOAD, last=False) for _ in range(2000)]
    share = sum(stall > 0 for stall in stalls) / len(stalls)
    assert share == pytest.approx(1 - (1 - loss) ** packets, abs=0.05)
    assert set(stalls) <= {0.0, 0.02}


def test_the_last_packet_of_a_burst_waits_for_the_timer() -> None:
    wire = Wire(1e6, 0.01, 1.0)
    assert wire.stall(100, last=True) == RETRANSMISSION_TIMEOUT
    assert wire.stall(100, last=False) == 0.02


def test_a_rate_on_the_wire_carries_less_payload() -> None:
    assert bytes_per_second(None) is None
    assert bytes_per_second(100) == pytest.approx(12.5e6 / WIRE)
    assert math.isclose(WIRE, 1.0456, rel_tol=1e-3)


# --- the relay ---


@contextlib.contextmanager
def echo_server() -> Iterator[tuple[str, int]]:
    """Sends back what it gets, and ends the stream when it has."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    threading.Thread(target=answer, args=(sock,), daemon=True).start()

        def answer(sock: socket.socket) -> None:
            with sock, contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while data := sock.recv(1 << 16):
                    sock.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def through(link: Link, count: int = 1) -> Iterator[list[socket.socket]]:
    with echo_server() as upstream:
        proxy = Proxy()
        (port,) = proxy.add(link, "127.0.0.1", [upstream])
        with proxy, contextlib.ExitStack() as stack:
            socks = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(count)]
            for sock in socks:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield socks


def receive(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece
        data += piece
    return bytes(data)


def fastest(rates: Iterator[float], enough: float) -> float:
    """The highest of up to twelve rates; a busy machine slows some, and none is higher for it."""
    best = 0.0
    for rate in itertools.islice(rates, 12):
        best = max(best, rate)
        if best > enough:
            break
    return best


def transfer(sock: socket.socket, data: bytes) -> float:
    """Mbit/s on the wire, there and back."""
    start = time.perf_counter()
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    assert receive(sock, len(data)) == data
    sender.join()
    return len(data) * 8 / 1e6 * WIRE / (time.perf_counter() - start)


@pytest.mark.parametrize(("up", "down"), [(40.0, None), (None, 40.0), (80.0, 40.0)])
def test_rates(up: float | None, down: float | None) -> None:
    data = random.Random(1).randbytes(2_500_000)
    with through(Link(up, down)) as (sock,):
        assert 30 < fastest((transfer(sock, data) for _ in itertools.count()), 30) < 44


def test_connections_share_a_link() -> None:
    with through(Link(40, None), count=2) as socks, ThreadPoolExecutor(2) as pool:
        for _ in range(5):  # where one of the threads is late, the other has the link for itself meanwhile
            rates = list(pool.map(lambda sock: transfer(sock, bytes(1_250_000)), socks))
            if all(13 < rate < 30 for rate in rates):
                return
    raise AssertionError(rates)


def test_a_small_message_does_not_wait_for_a_large_one() -> None:
    with through(Link(20, None), count=2) as (large, small):
        threading.Thread(target=large.sendall, args=(bytes(2_500_000),), daemon=True).start()
        drain = threading.Thread(target=receive, args=(large, 2_500_000))
        drain.start()
        time.sleep(0.2)
        waits = []
        while drain.is_alive() and len(waits) < 10:
            waits.append(round_trip(small))
        assert min(waits) < 0.050  # a busy machine slows some; behind the large one, the first would be the only one
        drain.join(10)


def round_trip(sock: socket.socket) -> float:
    start = time.perf_counter()
    sock.sendall(b"?")
    receive(sock, 1)
    return time.perf_counter() - start


@pytest.mark.parametrize("delay_ms", [5.0, 20.0])
def test_delay(delay_ms: float) -> None:
    with through(Link(None, None, delay_ms)) as (sock,):
        least = min(round_trip(sock) for _ in range(15)) * 1e3
        assert 2 * delay_ms - 0.5 < least < 2 * delay_ms + 8


def test_delay_does_not_cost_rate() -> None:
    with through(Link(40, None, 20)) as (sock,):
        assert 26 < fastest((transfer(sock, bytes(2_500_000)) for _ in itertools.count()), 26) < 44


def test_loss_is_a_stall_and_nothing_is_missing() -> None:
    data = random.Random(2).randbytes(1_000_000)

    def seconds(sock: socket.socket) -> float:
        start = time.perf_counter()
        transfer(sock, data)
        return time.perf_counter() - start

    with through(Link(None, None, 5)) as (sock,):
        clean = min(seconds(sock) for _ in range(3))  # what the machine adds has nothing to do with the link
    with through(Link(None, None, 5, 20)) as (sock,):
        assert seconds(sock) > clean + 0.03


def test_the_end_of_a_stream_arrives_after_its_last_byte() -> None:
    with through(Link(20, 20, 5)) as (sock,):
        sock.sendall(bytes(100_000))
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, 100_000) == bytes(100_000)
        assert sock.recv(1) == b""


def test_nobody_at_the_other_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        upstream = gone.getsockname()
    proxy = Proxy()
    (port,) = proxy.add(Link(), "127.0.0.1", [upstream])
    with proxy, socket.create_connection(("127.0.0.1", port), 10) as sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""
    assert not proxy.alive


def test_a_connection_that_is_cut_takes_no_other_with_it() -> None:
    with through(Link(40, 40, 2), count=2) as (first, second):
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        first.sendall(bytes(500_000))
        first.close()
        assert receive_echo(second) == b"still here"


def receive_echo(sock: socket.socket) -> bytes:
    sock.sendall(b"still here")
    return receive(sock, 10)
