"""What a client sends, decoded, and what the broker answers, encoded: MQTT 3.1.1 and 5.0.

QoS 2, topic aliases, shared subscriptions and subscription identifiers are declared absent in CONNACK, so a client that
uses them breaks the protocol and is told so. Everything here is pure: a packet in, a value out, or `PacketError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from legion_iot.transport.matching import is_topic_filter, is_topic_name
from legion_iot_broker.wire_format import PROTOCOL_ERROR, Cursor, PacketError, packet, string, u16, varint

V311 = 4
V5 = 5

# MQTT 5 reason codes (section 2.4); 3.1.1 has other numbers for a refused CONNECT.
SUCCESS = 0x00
WITH_WILL = 0x04
NO_MATCHING_SUBSCRIBERS = 0x10
UNSPECIFIED = 0x80
UNSUPPORTED_VERSION = 0x84
BAD_CLIENT_ID = 0x85
NOT_AUTHORIZED = 0x87
SERVER_BUSY = 0x89
SERVER_SHUTTING_DOWN = 0x8B
BAD_AUTHENTICATION_METHOD = 0x8C
KEEP_ALIVE_TIMEOUT = 0x8D
SESSION_TAKEN_OVER = 0x8E
TOPIC_ALIAS_INVALID = 0x94
PACKET_TOO_LARGE = 0x95
QUOTA_EXCEEDED = 0x97
QOS_NOT_SUPPORTED = 0x9B
SHARED_NOT_SUPPORTED = 0x9E
IDENTIFIERS_NOT_SUPPORTED = 0xA1
_OLD_CODES = {UNSUPPORTED_VERSION: 1, BAD_CLIENT_ID: 2, SERVER_BUSY: 3, NOT_AUTHORIZED: 5}

_PUBLISH_PROPERTIES = frozenset((0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26))
_WILL_PROPERTIES = frozenset((0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26))
_CONNECT_PROPERTIES = frozenset((0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27))
_TOPIC_ALIAS = 0x23


@dataclass(frozen=True, slots=True)
class Publish:
    """One message on its way in; `properties` is the raw MQTT 5 block, handed on as it is."""

    topic: str
    payload: memoryview
    qos: int = 0
    retain: bool = False
    number: int = 0
    properties: bytes = b""


@dataclass(frozen=True, slots=True)
class Connect:
    """A client's first packet."""

    version: int
    client_id: str
    clean: bool
    keep_alive: int
    user: str | None
    password: bytes
    will: Publish | None
    receive_maximum: int = 65_535
    largest_packet: int | None = None
    wants_authentication: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """One filter with its MQTT 5 options (section 3.8.3.1)."""

    pattern: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A request for one or more filters."""

    number: int
    subscriptions: tuple[Subscription, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Filters that are no longer wanted."""

    number: int
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PubAck:
    """A QoS 1 message reached the client."""

    number: int


@dataclass(frozen=True, slots=True)
class PingReq:
    """A sign of life."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """A clean end; `with_will` is MQTT 5's wish to have the will published all the same."""

    with_will: bool = False


Packet: TypeAlias = Connect | Publish | Subscribe | Unsubscribe | PubAck | PingReq | Disconnect


def decode(first: int, body: memoryview, version: int) -> Packet:
    """One packet of a client that spoke `version` in its CONNECT (any value before it); raises `PacketError`."""
    kind, flags = first >> 4, first & 0x0F
    if kind == 3:
        return _publish(flags, Cursor(body), version)
    if flags != (2 if kind in (6, 8, 10) else 0):
        raise PacketError(f"packet type {kind} has flags {flags:#x}")
    cursor = Cursor(body)
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise PacketError(f"a client may not send packet type {kind}", PROTOCOL_ERROR)
    return decoder(cursor, version)


def _number(cursor: Cursor) -> int:
    number = cursor.u16()
    if number == 0:
        raise PacketError("packet number 0 is not allowed", PROTOCOL_ERROR)
    return number


def _publish(flags: int, cursor: Cursor, version: int) -> Publish:
    qos = flags >> 1 & 3
    if qos == 2:
        raise PacketError("QoS 2 is not supported", QOS_NOT_SUPPORTED)
    if qos == 3 or (qos == 0 and flags & 8):
        raise PacketError("a PUBLISH has impossible flags")
    topic = cursor.text()
    number = _number(cursor) if qos else 0
    raw = b""
    if version == V5:
        values, raw = cursor.properties(_PUBLISH_PROPERTIES)
        if _TOPIC_ALIAS in values:
            raise PacketError("topic aliases are not supported", TOPIC_ALIAS_INVALID)
    if not is_topic_name(topic):
        raise PacketError("a PUBLISH has no valid topic", 0x90)
    return Publish(topic, cursor.rest(), qos, bool(flags & 1), number, raw)


def _connect(cursor: Cursor, _: int) -> Connect:
    name, version = cursor.text(), cursor.u8()
    if name != "MQTT" or version not in (V311, V5):
        raise PacketError(f"protocol {name!r} version {version} is not spoken here", UNSUPPORTED_VERSION)
    flags, keep_alive = cursor.u8(), cursor.u16()
    has_will, will_qos, will_retain = bool(flags & 4), flags >> 3 & 3, bool(flags & 0x20)
    if flags & 1 or will_qos == 3 or (not has_will and (will_qos or will_retain)):
        raise PacketError("a CONNECT has impossible flags")
    values = cursor.properties(_CONNECT_PROPERTIES)[0] if version == V5 else {}
    client_id = cursor.text()
    will = None
    if has_will:
        raw = b""
        if version == V5:
            raw = _without_delay(cursor)
        topic, payload = cursor.text(), cursor.binary()
        if not is_topic_name(topic):
            raise PacketError("a will has no valid topic", 0x90)
        if will_qos == 2:
            raise PacketError("a will of QoS 2 is not supported", QOS_NOT_SUPPORTED)
        will = Publish(topic, memoryview(payload), will_qos, will_retain, properties=raw)
    if version == V311 and flags & 0x40 and not flags & 0x80:
        raise PacketError("a CONNECT has a password without a user")
    user = cursor.text() if flags & 0x80 else None
    password = cursor.binary() if flags & 0x40 else b""
    cursor.end()
    receive_maximum, largest = values.get(0x21, 65_535), values.get(0x27)
    if receive_maximum == 0 or largest == 0:
        raise PacketError("a limit in CONNECT is 0", PROTOCOL_ERROR)
    return Connect(
        version,
        client_id,
        bool(flags & 2),
        keep_alive,
        user,
        password,
        will,
        receive_maximum if isinstance(receive_maximum, int) else 65_535,
        largest if isinstance(largest, int) else None,
        wants_authentication=0x15 in values,
    )


def _without_delay(cursor: Cursor) -> bytes:
    """A will's properties as a PUBLISH may carry them: its delay is none, since no session outlives its link here."""
    values, raw = cursor.properties(_WILL_PROPERTIES)
    if 0x18 not in values:
        return raw
    # The block is well formed; walk it once more and leave the five bytes of the delay out.
    kept, inner = bytearray(), Cursor(memoryview(raw))
    while inner.left:
        start = len(raw) - inner.left
        identifier = inner.u8()
        if identifier == 0x01:
            inner.u8()
        elif identifier in (0x02, 0x18):
            inner.u32()
        else:
            inner.binary()
            if identifier == 0x26:
                inner.binary()
        if identifier != 0x18:
            kept += raw[start : len(raw) - inner.left]
    return bytes(kept)


def _subscribe(cursor: Cursor, version: int) -> Subscribe:
    number = _number(cursor)
    if version == V5 and 0x0B in cursor.properties((0x0B, 0x26))[0]:
        raise PacketError("subscription identifiers are not supported", IDENTIFIERS_NOT_SUPPORTED)
    wanted: list[Subscription] = []
    while cursor.left:
        pattern, options = cursor.text(), cursor.u8()
        if options & (0xC0 if version == V5 else 0xFC) or options & 3 == 3 or options >> 4 & 3 == 3:
            raise PacketError("a SUBSCRIBE has impossible options")
        if not is_topic_filter(pattern):
            raise PacketError("a SUBSCRIBE has no valid filter", 0x8F)
        wanted.append(Subscription(pattern, options & 3, bool(options & 4), bool(options & 8), options >> 4 & 3))
    if not wanted:
        raise PacketError("a SUBSCRIBE is empty", PROTOCOL_ERROR)
    return Subscribe(number, tuple(wanted))


def _unsubscribe(cursor: Cursor, version: int) -> Unsubscribe:
    number = _number(cursor)
    if version == V5:
        cursor.properties((0x26,))
    patterns: list[str] = []
    while cursor.left:
        patterns.append(cursor.text())
    if not patterns:
        raise PacketError("an UNSUBSCRIBE is empty", PROTOCOL_ERROR)
    return Unsubscribe(number, tuple(patterns))


def _puback(cursor: Cursor, _: int) -> PubAck:
    return PubAck(_number(cursor))  # What MQTT 5 adds, a reason and properties, changes nothing for us.


def _pingreq(cursor: Cursor, _: int) -> PingReq:
    cursor.end()
    return PingReq()


def _disconnect(cursor: Cursor, version: int) -> Disconnect:
    if version != V5:
        cursor.end()
    return Disconnect(with_will=bool(cursor.left) and cursor.u8() == WITH_WILL)


_DECODERS: dict[int, Callable[[Cursor, int], Packet]] = {
    1: _connect,
    4: _puback,
    8: _subscribe,
    10: _unsubscribe,
    12: _pingreq,
    14: _disconnect,
}


# -- answers ----------------------------------------------------------------------------------------------------------


def connack(version: int, reason: int, *, largest_packet: int = 0, assigned_id: str = "") -> bytes:
    """The answer to CONNECT; in version 5 it declares what this broker does not do."""
    if version != V5:
        return packet(0x20, bytes((0, _OLD_CODES.get(reason, 3) if reason else 0)))
    properties = b""
    if reason == SUCCESS:
        # No session after the link, QoS 1 at most, no identifiers, no shared subscriptions.
        properties = b"\x11\0\0\0\0" + b"\x24\x01" + b"\x29\0" + b"\x2a\0"
        properties += b"\x27" + largest_packet.to_bytes(4, "big")
        if assigned_id:
            properties += b"\x12" + string(assigned_id)
    return packet(0x20, bytes((0, reason)) + varint(len(properties)) + properties)


def puback(version: int, number: int, reason: int) -> bytes:
    """The answer to a QoS 1 PUBLISH; version 3.1.1 cannot say more than that it came."""
    return packet(0x40, u16(number) + (bytes((reason,)) if version == V5 and reason else b""))


def suback(version: int, number: int, reasons: list[int]) -> bytes:
    """The answer to SUBSCRIBE: a granted QoS or a failure for each filter."""
    codes = bytes(reasons) if version == V5 else bytes(min(code, 0x80) for code in reasons)
    return packet(0x90, u16(number) + (b"\0" if version == V5 else b"") + codes)


def unsuback(version: int, number: int, reasons: list[int]) -> bytes:
    """The answer to UNSUBSCRIBE."""
    return packet(0xB0, u16(number) + (b"\0" + bytes(reasons) if version == V5 else b""))


def pingresp() -> bytes:
    """The answer to PINGREQ."""
    return b"\xd0\0"


def disconnect(reason: int) -> bytes:
    """The broker's own DISCONNECT, which only version 5 has."""
    return packet(0xE0, bytes((reason,)))


def publish_header(version: int, message: Publish, qos: int, retain: bool, number: int) -> bytes:
    """All of a PUBLISH but its payload, which is sent from where it lies."""
    variable = string(message.topic) + (u16(number) if qos else b"")
    if version == V5:
        variable += varint(len(message.properties)) + message.properties
    return bytes((0x30 | qos << 1 | retain,)) + varint(len(variable) + len(message.payload)) + variable
