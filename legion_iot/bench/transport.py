"""`legion bench transport`: how fast feature maps travel, beside other ways to send the same bytes.

- Goodput: bytes per second from the first `send` until the peer, another process, says that it holds the last one as
  an array. Small payloads go in bursts, a feature map of 13 MB alone, as the next step would wait for it.
- Round trip: one payload to the peer and the same one back.
- CPU at the agent: user and system time of the whole process for encoding and sending, and for receiving and decoding,
  per gigabyte, beside a plain memory copy of the same bytes; the largest part is named.

- Shaped links, where this is root: see `transport_links`.

All ways take turns within a round; ratios are taken round by round, since what else the machine does then slows all.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from legion_iot.bench import transport_links
from legion_iot.bench.report import BenchReport, Check
from legion_iot.bench.transport_ends import (
    ANSWER,
    TIMEOUT,
    BareEnd,
    End,
    OurEnd,
    PlainEnd,
    TcpEnd,
    payload_bytes,
)
from legion_iot.bench.transport_peer import Child, Spent, child, peer, relay, spent
from legion_iot.bench.transport_tls import can_make_certificates, certificate
from legion_iot.bench.transport_tools import ToolEnd, tools_installed
from legion_iot.errors import BrokerError
from legion_iot.interruption import uninterrupted
from legion_iot.transport.connection import BrokerAddress
from legion_iot_broker.mosquitto import MosquittoProcess, find_mosquitto

NAMES = {1: "1 KB", 2: "64 KB", 3: "1 MB", 4: "13 MB"}
LARGEST = max(NAMES)
FRAGMENT = 2  # one message of 64 KB
BURST_BYTES = 4 << 20
BURST = 32  # payloads
LEAST_ROUNDS = 5
CPU_ROUNDS = {True: 4, False: 10}
CPU_MAPS = 8
SECONDS = {True: {1: 2.0, 2: 2.0, 3: 3.0, 4: 10.0}, False: {1: 10.0, 2: 10.0, 3: 15.0, 4: 60.0}}
RELAY, OURS, BARE = "TCP relay", "legion", "bare"
OVER_TLS = "mosq. TLS"

Progress = Callable[[str, float | None], None]


@dataclass(slots=True)
class _Way:
    """One way to send, at one QoS, with what was measured on it by payload."""

    kind: str
    broker: str
    qos: int
    end: End
    goodput: dict[int, list[float]] = field(default_factory=dict)
    round_trip: dict[int, list[float]] = field(default_factory=dict)

    def measure(self, index: int) -> None:
        """One burst and, where the peer can send it back, one round trip."""
        is_tool = isinstance(self.end, ToolEnd)  # starts a program for every payload
        burst = 1 if is_tool else max(1, min(BURST, BURST_BYTES // payload_bytes(index)))
        start = time.perf_counter()
        for number in range(burst):
            self.end.send(index, "answer" if number == burst - 1 else "none", self.qos)
        self._await(ANSWER)
        rate = burst * payload_bytes(index) / (time.perf_counter() - start)
        self.goodput.setdefault(index, []).append(rate)
        if not is_tool:
            start = time.perf_counter()
            self.end.send(index, "echo", self.qos)
            self._await(index)
            self.round_trip.setdefault(index, []).append(time.perf_counter() - start)

    def _await(self, index: int) -> None:
        arrived = self.end.receive(TIMEOUT)
        if arrived is None or arrived.index != index:
            raise BrokerError(f"{self.kind} on {self.broker}: a payload was lost; run the bench again")


def run(quick: bool, progress: Progress, rootless: bool = False) -> BenchReport:
    """Measure all of it; `quick` takes fewer rounds, `rootless` shapes links in the way that needs no root.

    Raises BrokerError where a broker or process does not serve."""
    with contextlib.ExitStack() as stack:
        progress("starting brokers and the peer", None)
        brokers = stack.enter_context(_brokers())
        other, ways = _ways(brokers, stack)
        for index, name in NAMES.items():
            progress(f"sending payloads of {name}", None)
            _take_turns(ways, index, SECONDS[quick][index])
        progress("CPU of the agent", None)
        ours = [way for way in ways if way.kind == OURS and way.broker != OVER_TLS]
        costs = _costs(ours[-1], other, CPU_ROUNDS[quick])
    rows = [_row(way, index, ways[0]) for index in NAMES for way in ways]
    links, checks = (
        ([], []) if (reason := transport_links.missing()) else transport_links.run(quick, rootless, progress)
    )
    over_tls = "mosquitto (the embedded broker has none)" if OVER_TLS in brokers else "needs mosquitto and cryptography"
    setting = {
        "brokers": ", ".join(brokers),
        "mosquitto_pub": "yes" if tools_installed() else "not installed",
        "TLS": over_tls,
        "shaped links": reason or f"by the {links[0]['shaped_by']}",
    }
    return BenchReport("transport", setting, [*rows, *costs, *links], [*_checks(ways), *checks])


def lines(report: BenchReport) -> Iterator[str]:
    """The figures of the report for people, at most 80 columns wide."""
    yield f"{'PAYLOAD':<8} {'WAY':<14} {'BROKER':<10} {'QOS':<4} {'MB/S':>8} {'OF RELAY':>9} {'ROUND TRIP':>12}"
    for row in report.rows:
        if "way" in row:
            trip = f"{row['round_trip_ms']:.2f} ms" if row["round_trip_ms"] is not None else "-"
            qos = "own" if row["way"] == OURS else row["qos"] if row["broker"] else "-"
            yield (
                f"{row['payload']:<8} {row['way']:<14} {row['broker'] or '-':<10} {qos:<4} "
                f"{row['mb_per_s']:>8.1f} {row['of_relay']:>9.2f} {trip:>12}"
            )
    for row in report.rows:
        if "what" in row:
            by_size = sorted(row["parts_s_per_gb"].items(), key=lambda part: -part[1])
            parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in by_size)
            yield f"{row['what']}: {row['cpu_s_per_gb']:.2f} CPU s/GB, {row['of_copy']:.1f} × a memory copy"
            yield f"  ({parts})"
    for row in report.rows:
        if "mbit" in row:
            yield from transport_links.lines(row)


@contextlib.contextmanager
def _brokers() -> Iterator[dict[str, BrokerAddress]]:
    """The embedded broker, in a process of its own, and Mosquitto where it is installed."""
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", "legion_iot_broker.embedded", "--port", "0"]
        with uninterrupted():
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.terminate)
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said.startswith("listening on "):
            raise BrokerError("the embedded broker did not start; run: python -m legion_iot_broker.embedded --port 0")
        found = {"embedded": BrokerAddress.parse(f"mqtt://{said.split()[-1]}")}
        if find_mosquitto() is not None:
            found["mosquitto"] = stack.enter_context(MosquittoProcess()).address
            if can_make_certificates():
                pair = stack.enter_context(certificate())
                found[OVER_TLS] = stack.enter_context(MosquittoProcess(certificate=pair)).address
        yield found


def _ways(brokers: dict[str, BrokerAddress], stack: contextlib.ExitStack) -> tuple[Child, list[_Way]]:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    other = stack.enter_context(child(peer, listener, brokers, (OurEnd, BareEnd, PlainEnd)))
    port = stack.enter_context(child(relay, "127.0.0.1", listener.getsockname())).first
    tcp = stack.enter_context(contextlib.closing(TcpEnd(socket.create_connection(("127.0.0.1", port)))))
    ways = [_Way(RELAY, "", 0, tcp)]
    for name, address in brokers.items():
        ours = stack.enter_context(contextlib.closing(OurEnd(address, "a", "b")))
        bare = stack.enter_context(contextlib.closing(BareEnd(address, "a", "b")))
        ends: list[tuple[str, End]] = [(BARE, bare)]
        if name != OVER_TLS:
            ends.append(("plain paho", stack.enter_context(contextlib.closing(PlainEnd(address, "a", "b")))))
        if name == "mosquitto" and tools_installed():
            ends.append(("mosquitto_pub", stack.enter_context(contextlib.closing(ToolEnd(address)))))
        ways.append(_Way(OURS, name, 0, ours))
        ways.extend(_Way(kind, name, qos, end) for kind, end in ends for qos in (0, 1))
    return other, ways


def _take_turns(ways: list[_Way], index: int, seconds: float) -> None:
    for way in ways:  # the first payload allocates and opens windows
        way.measure(index)
        way.goodput.pop(index)
        way.round_trip.pop(index, None)
    started, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or time.perf_counter() - started < seconds:
        for way in ways:
            way.measure(index)
        rounds += 1


def _row(way: _Way, index: int, tcp: _Way) -> dict[str, Any]:
    trips = way.round_trip.get(index)
    return {
        "payload": NAMES[index],
        "bytes": payload_bytes(index),
        "way": way.kind,
        "broker": way.broker,
        "qos": way.qos,
        "mb_per_s": statistics.median(way.goodput[index]) / 1e6,
        "of_relay": _ratio(way.goodput[index], tcp.goodput[index]),
        "round_trip_ms": statistics.median(trips) * 1e3 if trips else None,
        "rounds": len(way.goodput[index]),
    }


def _ratio(values: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


def _checks(ways: list[_Way]) -> list[Check]:
    tcp, by_name = ways[0], {(way.kind, way.broker, way.qos): way for way in ways}
    checks = []
    for broker in dict.fromkeys(way.broker for way in ways if way.kind == OURS and way.broker != OVER_TLS):
        ours, plain = by_name[OURS, broker, 0], by_name["plain paho", broker, 1]
        relayed, paho = (_ratio(ours.goodput[LARGEST], other.goodput[LARGEST]) for other in (tcp, plain))
        zero, one = (by_name[BARE, broker, qos].round_trip[FRAGMENT] for qos in (0, 1))
        checks += [
            Check.at_least(f"{broker}: 13 MB, goodput / plain paho", paho, "×", 3.0),
            Check.at_least(f"{broker}: 13 MB, goodput / TCP relay", relayed, "×", 0.6),
            Check.at_most(f"{broker}: 64 KB, round trip QoS 1 / QoS 0", _ratio(one, zero), "×", 2.0),
            Check.at_most(
                f"{broker}: 64 KB, round trip legion / QoS 0", _ratio(ours.round_trip[FRAGMENT], zero), "×", 2.0
            ),
        ]
    return checks


# --- CPU ---


def _costs(way: _Way, other: Child, rounds: int) -> list[dict[str, Any]]:
    """What the largest map costs the agent that sends it and the one that receives it, beside copying it."""
    end = way.end
    assert isinstance(end, OurEnd)
    copies: list[float] = []
    sent: list[Spent] = []
    received: list[Spent] = []
    for _ in range(rounds):
        copies.append(_copy_seconds())
        ours, theirs = spent(0.0), other.ask("spent")
        for _ in range(CPU_MAPS):
            end.send(LARGEST, "answer", way.qos)
            if end.receive(TIMEOUT) is None:
                raise BrokerError(f"a payload was lost on {way.broker}; run the bench again")
        sent.append(_difference(spent(0.0), ours))
        received.append(_difference(other.ask("spent"), theirs))
    copy = statistics.median(copies)
    return [
        _cost_row("encode + send", way, copy, sent),
        _cost_row("receive + decode", way, copy, received),
    ]


def _copy_seconds() -> float:
    """CPU seconds for copying as many bytes as a round sends, between arrays that are there already."""
    source = np.ones(payload_bytes(LARGEST), np.uint8)
    target = source.copy()
    before = time.thread_time()
    for _ in range(CPU_MAPS):
        np.copyto(target, source)
    return time.thread_time() - before


def _difference(after: Spent, before: Spent) -> Spent:
    user, system, coding = (a - b for a, b in zip(after, before, strict=True))
    return user, system, coding


def _cost_row(what: str, way: _Way, copy: float, spans: list[Spent]) -> dict[str, Any]:
    gigabytes = CPU_MAPS * payload_bytes(LARGEST) / 1e9
    user, system, placing = (statistics.median(column) / gigabytes for column in zip(*spans, strict=True))
    # To place fragments in a tensor is plain computing on the process's own memory: all of it counts as user time.
    parts = {"kernel": system, "Python code": max(0.0, user - placing)}
    if placing:
        parts["into the tensor"] = placing
    return {
        "what": what,
        "broker": way.broker,
        "cpu_s_per_gb": user + system,
        "copy_s_per_gb": copy / gigabytes,
        "of_copy": (user + system) / (copy / gigabytes),
        "largest": max(parts, key=lambda name: parts[name]),
        "parts_s_per_gb": {name: round(value, 4) for name, value in parts.items()},
    }
