"""What may be wrong with a broker: whether it lets us in, what it carries, and how fast.

What it says of its limits is not all: Mosquitto cuts off who sends a message above its `message_size_limit`, without
having said that there is one. So a large message is sent to ourselves. And small ones: where the broker's socket waits
to fill a packet (Nagle) while ours waits to acknowledge one, they take 40 ms longer than the network does.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from legion_iot.doctor.findings import Finding, Level
from legion_iot.errors import BrokerError, CertificateExpiredError, LegionError, PasswordRefusedError
from legion_iot.transport.connection import BrokerAddress, Disconnected, Message, StatedLimits, TransportEvent
from legion_iot.transport.credentials import Bundle
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.tls import authority_validity, broker_validity
from legion_iot.wire.topics import Topics
from legion_iot_broker.authority import valid_until

OPEN_TIMEOUT = 10.0  # seconds
ECHO_TIMEOUT = 10.0
LARGE = 512 << 10  # bytes: as large as a fragment of a feature map
LARGEST_INPUT = 32 << 20  # bytes that an input may have
LEAST_WINDOW = 10  # messages at once: half of what Mosquitto takes
SMALL, SMALL_MESSAGES = 64, 15  # bytes of each
SLOWER = 0.025  # seconds by which messages may be slower than the network
SOON, DAY = 30, 86_400.0  # days before a certificate's end; seconds


@dataclass(frozen=True, slots=True)
class Visit:
    """Where we go, as whom; `named` says that somebody wants this broker, and not just whichever is here."""

    address: BrokerAddress
    topics: Topics
    bundle: Bundle | None = None
    named: bool = True


def examine(visit: Visit) -> Iterator[Finding]:
    """Everything about the broker; ends after the first check where it does not let us in."""
    try:
        with _Echo(visit) as echo:
            yield _finding("broker", "ok", f"{visit.address} lets {_who(visit)} in")
            yield from _certificates(visit)
            yield limits(echo.connection.broker_limits)
            yield from _carries(visit, echo)
    except LegionError as error:
        yield _unreachable(visit, error)
        if isinstance(error, CertificateExpiredError):
            yield from _certificates(visit)


def _who(visit: Visit) -> str:
    if visit.bundle is None:
        return f"{visit.address.user!r} without a password" if visit.address.user else "anybody"
    role = f" ({visit.bundle.role})" if visit.bundle.role else ""
    return f"{visit.bundle.name!r}{role} of {visit.bundle.path}"


def _unreachable(visit: Visit, error: LegionError) -> Finding:
    if not visit.named:
        found = f"there is none on this machine ({error})"
        return _finding("broker", "warning", found, "give one (--broker), or start one: legion broker run")
    match error:
        case PasswordRefusedError():
            cure = "ask for a new bundle: legion broker add-device"
        case CertificateExpiredError():
            cure = "set this machine's clock, or renew the certificate: legion broker init, legion broker add-device"
        case _:
            cure = "look whether it runs, and at its address (--broker), its port and firewalls in between"
    return _finding("broker", "failure", str(error), cure)


# --- certificates ---


def _certificates(visit: Visit) -> Iterator[Finding]:
    """How long those last that we can see."""
    address, now = visit.address, time.time()
    if not address.tls:
        return
    with contextlib.suppress(LegionError):
        if (shown := broker_validity(address, OPEN_TIMEOUT)) is not None:
            yield certificate("the broker's", shown.ends, now, "legion broker init, in a new directory")
        if (authority := authority_validity(address)) is not None:
            yield certificate("the authority's", authority.ends, now, "legion broker init, and new bundles for all")
        if address.certificate is not None:
            ends = valid_until(address.certificate.read_bytes()).timestamp()
            yield certificate("ours", ends, now, "legion broker add-device, for a new bundle")


def certificate(whose: str, ends: float, now: float, cure: str) -> Finding:
    """How long a certificate lasts; times are in seconds since 1970."""
    days = int((ends - now) // DAY)
    until = time.strftime("%Y-%m-%d", time.gmtime(ends))
    if ends <= now:
        return _finding("certificate", "failure", f"{whose} ended on {until}, or this machine's clock is wrong", cure)
    found = f"{whose} lasts for {days} days, until {until}"
    return _finding("certificate", "warning", found, cure) if days < SOON else _finding("certificate", "ok", found)


# --- what it carries ---


def limits(said: StatedLimits) -> Finding:
    """What the broker says of itself."""
    size = "any size" if said.packet is None else f"{said.packet} bytes"
    keeps = "retains" if said.retains else "retains nothing"
    found = f"takes packets of {size}, {said.window} at once, up to QoS {said.most_qos}, and {keeps}"
    if not said.retains:
        return _finding("limits", "failure", found, "let it retain messages (Mosquitto: retain_available true)")
    if said.most_qos < 1:
        return _finding("limits", "failure", found, "let it take messages of QoS 1 (Mosquitto: max_qos)")
    if said.packet is not None and said.packet < 2 * LARGE:
        return _finding("limits", "failure", found, "let it take packets of 1 MB and more (Mosquitto: max_packet_size)")
    if said.packet is not None and said.packet < LARGEST_INPUT:
        cure = f"pictures above that cannot be sent; up to {LARGEST_INPUT >> 20} MB are allowed (max_packet_size)"
        return _finding("limits", "warning", found, cure)
    if said.window < LEAST_WINDOW:
        cure = f"let it take {LEAST_WINDOW} messages at once, or more (Mosquitto: max_inflight_messages)"
        return _finding("limits", "warning", found, cure)
    return _finding("limits", "ok", found)


class _Echo:
    """A connection that hears what it says, on a topic that is only ours."""

    def __init__(self, visit: Visit) -> None:
        name = visit.bundle.name if visit.bundle is not None else f"doctor-{secrets.token_hex(4)}"
        self._topic = visit.topics.echo(name)
        self._events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self.connection = PahoConnection(visit.address, f"legion-doctor-{secrets.token_hex(4)}", self._events.put)

    def __enter__(self) -> _Echo:
        self.connection.open(OPEN_TIMEOUT)
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.abort()

    def listen(self) -> None:
        """Raises BrokerError where we may not."""
        self.connection.subscribe([(self._topic, 1)])

    def several(self, count: int) -> Iterator[float | None]:
        """How long small ones take, one after the other, up to the first that does not come back."""
        for _ in range(count):
            taken = self.seconds(SMALL)
            yield taken
            if taken is None:
                return

    def seconds(self, size: int) -> float | None:
        """How long a message of so many bytes takes to come back; None where it does not. Raises BrokerError."""
        payload = secrets.token_bytes(16) + bytes(size - 16)
        start = time.perf_counter()
        self.connection.publish(self._topic, payload)
        deadline = start + ECHO_TIMEOUT
        while (left := deadline - time.perf_counter()) > 0:
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=left)
                if isinstance(event, Disconnected):
                    return None
                if isinstance(event, Message) and event.payload[:16] == payload[:16]:
                    return time.perf_counter() - start
        return None


def _carries(visit: Visit, echo: _Echo) -> Iterator[Finding]:
    try:
        echo.listen()
        small = [seconds for seconds in echo.several(SMALL_MESSAGES) if seconds is not None]
        refused = "" if small else "what we send to ourselves does not come back"
    except BrokerError as error:
        small, refused = [], str(error)
    if refused and visit.address.user is not None:
        cure = "its access rules may be older than this version: start legion broker run with this one"
        yield _finding("small messages", "warning", refused, cure)
        return
    yield _small(visit.address, small)
    if small:
        yield _large(echo)


def _small(address: BrokerAddress, back: list[float]) -> Finding:
    network = network_seconds(address)
    if len(back) < SMALL_MESSAGES or network is None:
        cure = "look at the network between here and the broker, and at what the broker logs"
        found = f"of {SMALL_MESSAGES}, only {len(back)} came back before one was lost"
        return _finding("small messages", "failure", found, cure)
    return delays(statistics.median(back), network)


def _large(echo: _Echo) -> Finding:
    cure = "let it take larger messages (Mosquitto: no message_size_limit, or one of 33554432)"
    try:
        taken = echo.seconds(LARGE)
    except BrokerError as error:
        return _finding("large messages", "failure", str(error), cure)
    if taken is None:
        found = f"one of {LARGE >> 10} KB does not come back: feature maps and models will not, either"
        return _finding("large messages", "failure", found, cure)
    return _finding("large messages", "ok", f"{LARGE >> 10} KB there and back in {1e3 * taken:.0f} ms")


def delays(message: float, network: float) -> Finding:
    """Seconds for a small message to the broker and back, and for a packet of the network."""
    found = f"there and back in {1e3 * message:.1f} ms, where the network takes {1e3 * network:.1f} ms"
    if message - network >= SLOWER:
        cure = "have it send at once (Mosquitto: set_tcp_nodelay true), and look at what else it has to do"
        return _finding("small messages", "warning", found, cure)
    return _finding("small messages", "ok", found)


def network_seconds(address: BrokerAddress) -> float | None:
    """How long the network takes there and back, by the time that a TCP connection takes; None without one."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        try:
            with socket.create_connection((address.host, address.port), OPEN_TIMEOUT):
                taken.append(time.perf_counter() - start)
        except OSError:
            return None
    return min(taken)


def _finding(check: str, level: Level, found: str, cure: str = "") -> Finding:
    return Finding("broker", check, level, found, cure)
