"""What a connection to a broker is: its address, its events and its contract.

Promises, held by `tests/transport/test_contract.py` for every implementation:

- When `Connected` is emitted, every remembered subscription is in force.
- `Connected` and `Disconnected` alternate, beginning with `Connected`; a retained or eager message may come first.
- Messages of one publisher on one topic at one QoS arrive in the order of `publish`, as long as the link holds.
- QoS 1 messages survive a lost link (at least once); QoS 0 messages published without a link are dropped.
- A broker that refuses our credentials is not asked again: `open` raises, or, after a lost link, `Refused` is the last
  event.
- After `close` or `abort` has begun, nothing more is emitted, not even `Disconnected`.
- What a publisher attaches (response topic, correlation data, expiry) arrives with the message.
- A message with an expiry that has waited here for longer is not sent any more.
- Whoever published is told once the broker has a message of QoS 1: also when it refused it, never when it was lost.

Not promised: exactly once, order across a lost link, order between two topics, QoS 2, a single copy where two filters
of one connection match (Mosquitto sends two), a session that outlives its link (the embedded broker has none).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias
from urllib.parse import unquote, urlsplit

from legion_iot.errors import BrokerError, UsageError

DEFAULT_PORT = 1883
DEFAULT_TLS_PORT = 8883
DEFAULT_KEEP_ALIVE = 10.0
SUBSCRIBE_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0

# A tuple is sent as its buffers one after the other, uncopied: whoever hands it over may not write into them any more.
Payload: TypeAlias = "bytes | bytearray | memoryview | tuple[bytes | memoryview, ...]"


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait in one connection for the broker's acknowledgement, and how much of it may be under way.

    A single message larger than `bytes` is accepted when nothing else waits, so that the limit never forbids a size.
    """

    messages: int = 4096
    bytes: int = 64 << 20
    window_messages: int = 64
    window_bytes: int = 16 << 20
    receive_maximum: int = 64  # messages of QoS 1 that the broker may have under way to us


@dataclass(frozen=True, slots=True)
class StatedLimits:
    """What a broker says of itself when it lets us in; what it does not say is as MQTT 5 has it by default.

    `packet` are bytes, None without a limit; `window` counts messages of QoS 1 that it takes at once.
    """

    packet: int | None = None
    window: int = 65_535
    retains: bool = True
    most_qos: int = 2


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker listens, and who we are there. `str()` and `repr()` never show a secret.

    With TLS, `authorities` are the certificates (PEM) to trust instead of the system's, `certificate` is a PEM file
    with a certificate and its key. `client_secret` becomes a part of client ids, so that nobody else can take our link
    over.
    """

    host: str
    port: int = DEFAULT_PORT
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    authorities: str | None = field(default=None, repr=False)
    certificate: Path | None = None
    client_secret: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> BrokerAddress:
        """Read `mqtt://[user@]host[:port]` or `mqtts://…`; raises `UsageError`, for a password too.

        All users of a machine can see the arguments of a process: secrets come from files (`transport.credentials`).
        """
        # The message leaves out what stands before the @: it may hold a password.
        shown = url.rpartition("@")[2]
        wanted = f"broker address {shown!r} is not mqtt://[user@]host[:port]"
        if any(c.isspace() or not c.isprintable() for c in url):
            raise UsageError(f"{wanted}: it contains blanks or control characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{wanted}: the port or the host cannot be read") from error
        if parts.scheme not in ("mqtt", "mqtts"):
            raise UsageError(f"{wanted}: it must begin with mqtt:// or mqtts://")
        if not parts.hostname:
            raise UsageError(f"{wanted}: the host is missing")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise UsageError(f"{wanted}: nothing may follow the port")
        if port == 0:
            raise UsageError(f"{wanted}: port 0 is no port")
        if parts.username == "" or (parts.username is None and parts.password is not None):
            raise UsageError(f"{wanted}: the user name before @ is missing")
        if parts.password is not None:
            raise UsageError(f"{wanted}: a password belongs into a file that only you can read (--credentials)")
        tls = parts.scheme == "mqtts"
        return cls(
            host=parts.hostname,
            port=port or (DEFAULT_TLS_PORT if tls else DEFAULT_PORT),
            user=None if parts.username is None else unquote(parts.username),
            tls=tls,
        )

    @property
    def endpoint(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user is not None else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{self.endpoint}"


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach that address."""
    if host == "localhost":
        return True
    import ipaddress  # noqa: PLC0415 — what names no address starts at once

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when the connection ends without `close`."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted us, first or again, and every remembered subscription is in force."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The link is gone; the connection tries again by itself unless the reason says that another client took over."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker, which had accepted us before, does so no more: the connection does not try again."""

    error: BrokerError


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `retain` is true when the broker had kept it from before the subscription.

    `response_topic` and `correlation` are what an MQTT 5 requester attached, else empty; `expiry` are the seconds that
    it had left when it came here, 0 where its sender gave it none.
    """

    topic: str
    payload: bytes
    retain: bool = False
    response_topic: str = ""
    correlation: bytes = b""
    expiry: int = 0


TransportEvent: TypeAlias = Connected | Disconnected | Refused | Message
EventHandler: TypeAlias = Callable[[TransportEvent], None]


class Connection(Protocol):
    """One connection to one broker; the event handler runs on the network thread and must only enqueue."""

    def open(self, timeout: float) -> None:
        """Connect and block until the broker accepted, at most `timeout` seconds; raises `BrokerError`."""

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Remember (filter, QoS) pairs, for later connections too; when connected, wait for the broker's answer.

        On the event handler's thread it does not wait. Raises `BrokerError` when refused or not answered in time.
        """

    def publish(
        self,
        topic: str,
        payload: Payload,
        *,
        qos: int = 1,
        retain: bool = False,
        correlation: bytes = b"",
        response_topic: str = "",
        expiry: int = 0,
        on_acknowledged: Callable[[], None] | None = None,
    ) -> None:
        """Queue one message, from any thread, without waiting for the network; raises `BrokerError` when full.

        `response_topic` asks for an answer there, with the same `correlation`. A message whose `expiry` (seconds, 0 for
        none) has passed is for nobody any more. `on_acknowledged` is called, on any thread, once the broker has the
        message (QoS 1), and must not wait.
        """

    def flush(self, timeout: float) -> bool:
        """Wait until all that was queued is acknowledged (QoS 1) or written (QoS 0); false when time ran out."""

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Flush, then end the connection in order: the will is not published. Idempotent."""

    def abort(self) -> None:
        """Cut the link, so that the broker publishes the will; for tests and emergencies. Idempotent."""
