"""The transport bench on shaped links: two devices and Mosquitto in networks of their own, as in a lab.

One device sends to the other, through the broker and through a TCP relay at the broker's place, in turns. A heartbeat
is a message of 100 bytes at QoS 0 over the sender's control connection, to the broker's place, while a map of 13 MB
is under way on either; its time is measured from before `publish` until the receiver's thread has it. What a ReLU
leaves of a map of 1 MB goes packed, too.

Without root, devices reach broker and relay through the proxies that a lab has in place of networks, each in a process
of its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from legion_iot.bench.report import Check
from legion_iot.bench.transport_ends import ANSWER, TIMEOUT, OurEnd, TcpEnd, payload_bytes
from legion_iot.bench.transport_peer import child, emulated_link, peer, relay
from legion_iot.errors import BrokerError
from legion_iot.lab.namespaces import Network, missing_tools, remove_network, within
from legion_iot.lab.spec import Link
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot_broker.mosquitto import MosquittoProcess, find_mosquitto

LEAST_OF_RELAY = {100: 0.95, 1000: 0.90}  # by Mbit/s
# A proxy that wakes up late lets through what 10 ms would have carried: at 1000 Mbit/s, that is a whole map of 1 MB.
LEAST_BY_PROXY = {100: 0.95}
MAPS = {3: "1 MB", 4: "13 MB"}
HALO, PACKED, LARGEST = 1, 3, 4
HALO_MS, HEARTBEAT_MS = 1.5, 10.0
SLOW_MBIT, PACKED_FASTER = 100, 1.4  # up to there, and by so much
LOOPBACK = "127.0.0.1"
HEARTBEAT_SECONDS = 0.02
ROUNDS = {True: {1: 60, 3: 10, 4: 3}, False: {1: 300, 3: 40, 4: 10}}

Progress = Callable[[str, float | None], None]


@dataclass(slots=True)
class _Figures:
    """Seconds by way and payload; a pair of values for each round."""

    mbit: int
    shaped_by: str
    seconds: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    beside: list[float] = field(default_factory=list)  # a halo's round trip while a map is under way
    heartbeats: dict[str, list[float]] = field(default_factory=lambda: {"ours": [], "relay": []})

    def ratio(self, index: int) -> float:
        """Our goodput as a part of the relay's."""
        pairs = zip(self.seconds["relay", index], self.seconds["ours", index], strict=True)
        return statistics.median(relayed / ours for relayed, ours in pairs)

    def packed_ratio(self) -> float:
        """How much sooner the packed map arrives than one that travels as it is."""
        pairs = zip(self.seconds["ours", PACKED], self.seconds["packed", PACKED], strict=True)
        return statistics.median(plain / packed for plain, packed in pairs)

    def halo_ms(self) -> float:
        """What a halo costs more than on the relay, one way."""
        pairs = zip(self.seconds["relay", HALO], self.seconds["ours", HALO], strict=True)
        return statistics.median(ours - relayed for relayed, ours in pairs) / 2 * 1e3

    def heartbeat_ms(self) -> float:
        """The time that 95 of 100 heartbeats keep to."""
        return statistics.quantiles(self.heartbeats["ours"], n=20)[-1] * 1e3


def missing() -> str:
    """Why there can be no shaped links here, or nothing."""
    return "needs mosquitto" if find_mosquitto() is None else ""


def run(quick: bool, rootless: bool, progress: Progress) -> tuple[list[dict[str, Any]], list[Check]]:
    """Rows and checks for every rate. Raises UsageError or BrokerError where networks or processes cannot be had."""
    by_proxy = rootless or bool(os.geteuid()) or bool(missing_tools())
    rows, checks = [], []
    for mbit, least in (LEAST_BY_PROXY if by_proxy else LEAST_OF_RELAY).items():
        progress(f"sending over links of {mbit} Mbit/s", None)
        with (_proxied if by_proxy else _shaped)(mbit) as (ours, relayed, broker, place):
            figures = _Figures(mbit, "proxy" if by_proxy else "kernel")
            _measure(figures, ours, relayed, broker, place, ROUNDS[quick])
        rows.append(_row(figures))
        checks += _checks(figures, least)
    return rows, checks


@contextlib.contextmanager
def _shaped(mbit: int) -> Iterator[tuple[OurEnd, TcpEnd, BrokerAddress, str]]:
    """Both ends at the first device, the broker's address, and the namespace of its place."""
    lab = secrets.token_hex(3)
    network = Network(lab)
    with contextlib.ExitStack() as stack:
        stack.callback(remove_network, lab)
        network.make()
        near, far = (network.add(Link(mbit, mbit)) for _ in range(2))
        with within(network.hub):
            mosquitto = stack.enter_context(MosquittoProcess(host=network.hub_address, anonymous=True))
        with within(far):
            listener = stack.enter_context(socket.create_server((network.address_of(2), 0)))
            stack.enter_context(child(peer, listener, {"mosquitto": mosquitto.address}, (OurEnd,)))
        with within(network.hub):
            relayed = stack.enter_context(child(relay, network.hub_address, listener.getsockname()))
        with within(near):
            sock = socket.create_connection((network.hub_address, relayed.first))
            tcp = stack.enter_context(contextlib.closing(TcpEnd(sock)))
            ours = stack.enter_context(contextlib.closing(OurEnd(mosquitto.address, "a", "b")))
            yield ours, tcp, mosquitto.address, network.hub


@contextlib.contextmanager
def _proxied(mbit: int) -> Iterator[tuple[OurEnd, TcpEnd, BrokerAddress, str]]:
    """The same with links by proxies of ours; the place is this machine's own network."""
    with contextlib.ExitStack() as stack:
        mosquitto = stack.enter_context(MosquittoProcess(anonymous=True)).address
        at_broker = (mosquitto.host, mosquitto.port)
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0)))
        ends = (at_broker, listener.getsockname())
        far_broker, far = stack.enter_context(child(emulated_link, LOOPBACK, mbit, ends)).first
        theirs = BrokerAddress(LOOPBACK, far_broker)
        stack.enter_context(child(peer, listener, {"mosquitto": theirs}, (OurEnd,)))
        relayed = stack.enter_context(child(relay, LOOPBACK, (LOOPBACK, far))).first
        ends = (at_broker, (LOOPBACK, relayed))
        near_broker, near = stack.enter_context(child(emulated_link, LOOPBACK, mbit, ends)).first
        tcp = stack.enter_context(contextlib.closing(TcpEnd(socket.create_connection((LOOPBACK, near)))))
        ours = stack.enter_context(contextlib.closing(OurEnd(BrokerAddress(LOOPBACK, near_broker), "a", "b")))
        yield ours, tcp, mosquitto, ""


def _measure(
    figures: _Figures, ours: OurEnd, relayed: TcpEnd, broker: BrokerAddress, place: str, rounds: dict[int, int]
) -> None:
    for index, number in rounds.items():
        for _ in range(number + 1):  # the first round opens windows, and is left out
            for name, end in (("relay", relayed), ("ours", ours)):
                seconds = _once(end, index, "echo" if index == HALO else "answer")
                figures.seconds.setdefault((name, index), []).append(seconds)
            if index == PACKED:
                start = time.perf_counter()
                ours.send_packed(index)
                _await(ours, ANSWER)
                figures.seconds.setdefault(("packed", index), []).append(time.perf_counter() - start)
        for times in (times for (_, measured), times in figures.seconds.items() if measured == index):
            del times[0]
    for name, end in (("relay", relayed), ("ours", ours)):
        with _heartbeats(ours, broker, place, figures.heartbeats[name]):
            for _ in range(rounds[LARGEST]):
                _once(end, LARGEST, "answer")
    for _ in range(rounds[LARGEST]):
        ours.send(LARGEST, "none", 0)
        figures.beside.append(_once(ours, HALO, "echo"))


def _once(end: OurEnd | TcpEnd, index: int, wish: str) -> float:
    start = time.perf_counter()
    end.send(index, "echo" if wish == "echo" else "answer", 0)
    _await(end, index if wish == "echo" else ANSWER)
    return time.perf_counter() - start


def _await(end: OurEnd | TcpEnd, index: int) -> None:
    arrived = end.receive(TIMEOUT)
    if arrived is None or arrived.index != index:
        raise BrokerError("a payload was lost on a shaped link; run the bench again")


@contextlib.contextmanager
def _heartbeats(ours: OurEnd, broker: BrokerAddress, place: str, times: list[float]) -> Iterator[None]:
    """Inside `with`, a heartbeat every now and then; the seconds each took are added to `times`."""

    def arrived(event: TransportEvent) -> None:
        if isinstance(event, Message):
            times.append(time.monotonic() - float(event.payload))

    with within(place) if place else contextlib.nullcontext():
        receiver = PahoConnection(broker, "bench-place", arrived)
        receiver.open(TIMEOUT)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            ours.links.control.publish("bench/heartbeat", f"{time.monotonic():<100}".encode(), qos=0)

    thread = threading.Thread(target=beat)
    try:
        receiver.subscribe([("bench/heartbeat", 0)])
        thread.start()
        yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()
        receiver.close()


def _row(figures: _Figures) -> dict[str, Any]:
    return {
        "mbit": figures.mbit,
        "shaped_by": figures.shaped_by,
        **{
            f"{name} {title}": payload_bytes(index) / statistics.median(figures.seconds[name, index]) / 1e6
            for index, title in MAPS.items()
            for name in ("relay", "ours")
        },
        f"packed {MAPS[PACKED]}": payload_bytes(PACKED) / statistics.median(figures.seconds["packed", PACKED]) / 1e6,
        "halo_ms": statistics.median(figures.seconds["ours", HALO]) / 2 * 1e3,
        "halo_relay_ms": statistics.median(figures.seconds["relay", HALO]) / 2 * 1e3,
        "halo_beside_map_ms": statistics.median(figures.beside) * 1e3,
        **{
            f"heartbeat_{name}_{part}_ms": value * 1e3
            for name, times in figures.heartbeats.items()
            for part, value in (("median", statistics.median(times)), ("95", statistics.quantiles(times, n=20)[-1]))
        },
    }


def lines(row: dict[str, Any]) -> Iterator[str]:
    """The figures of one rate for people, at most 80 columns wide."""
    maps = ", ".join(f"{title} {row[f'ours {title}']:.2f} of {row[f'relay {title}']:.2f}" for title in MAPS.values())
    packed = row[f"packed {MAPS[PACKED]}"]
    yield f"{row['mbit']} Mbit/s: {maps} MB/s on the TCP relay"
    yield f"  by the {row['shaped_by']}; {MAPS[PACKED]} of a ReLU without its zeros {packed:.2f} MB/s"
    yield f"  1 KB {row['halo_ms']:.2f} ms one way, {row['halo_relay_ms']:.2f} on the relay"
    yield f"  1 KB there and back behind 13 MB {row['halo_beside_map_ms']:.0f} ms"
    for name, title in (("ours", "13 MB of ours"), ("relay", "13 MB on the relay")):
        median, most = row[f"heartbeat_{name}_median_ms"], row[f"heartbeat_{name}_95_ms"]
        yield f"  heartbeat beside {title}: median {median:.1f} ms, 95 % within {most:.1f} ms"


def _checks(figures: _Figures, least: float) -> list[Check]:
    name = f"{figures.mbit} Mbit/s"
    packed = f"{name}: {MAPS[PACKED]} of a ReLU, packed / as it is"
    return [
        *(
            Check.at_least(f"{name}: {title}, goodput / TCP relay", figures.ratio(index), "×", least)
            for index, title in MAPS.items()
        ),
        Check.at_most(f"{name}: 1 KB, more than TCP relay", figures.halo_ms(), "ms", HALO_MS),
        Check.at_most(f"{name}: heartbeat beside 13 MB, 95 %", figures.heartbeat_ms(), "ms", HEARTBEAT_MS),
        *([Check.at_least(packed, figures.packed_ratio(), "×", PACKED_FASTER)] if figures.mbit <= SLOW_MBIT else []),
    ]
