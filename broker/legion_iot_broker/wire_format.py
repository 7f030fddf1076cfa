"""The smallest pieces of MQTT: numbers, strings and properties, read with bounds and written (MQTT 5.0, 1.5)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from legion_iot.errors import ProtocolError

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82

PropertyValue: TypeAlias = "int | bytes | str"

# Identifier -> form (MQTT 5.0, table 2-4): a byte, two, four, a variable number, a string, binary data, a pair.
_FORMS: dict[int, str] = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), "u8"),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), "u16"),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), "u32"),
    0x0B: "varint",
    **dict.fromkeys((0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F), "text"),
    **dict.fromkeys((0x09, 0x16), "binary"),
    0x26: "pair",
}
_USER_PROPERTY = 0x26


class PacketError(ProtocolError):
    """A packet that breaks MQTT's rules; `reason` is the MQTT 5 code its sender is told."""

    def __init__(self, message: str, reason: int = MALFORMED) -> None:
        super().__init__(message)
        self.reason = reason


class Cursor:
    """Reads one packet from front to back; every read raises `PacketError` at the end."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._body) - self._at

    def take(self, size: int) -> memoryview:
        """The next bytes, as a view."""
        if size > self.left:
            raise PacketError("a packet ends in the middle of a field")
        start, self._at = self._at, self._at + size
        return self._body[start : self._at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def varint(self) -> int:
        """A variable byte integer, four bytes at most."""
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise PacketError("a variable number has more than four bytes")

    def binary(self) -> bytes:
        return bytes(self.take(self.u16()))

    def text(self) -> str:
        """A UTF-8 string; surrogates and NUL are malformed (MQTT-1.5.4-1, MQTT-1.5.4-2)."""
        try:
            text = str(self.take(self.u16()), "utf-8")
        except UnicodeDecodeError as error:
            raise PacketError("a string is not UTF-8") from error
        if "\0" in text:
            raise PacketError("a string contains NUL")
        return text

    def rest(self) -> memoryview:
        return self.take(self.left)

    def end(self) -> None:
        """Refuse a packet with bytes that no field explains."""
        if self.left:
            raise PacketError("a packet is longer than its fields")

    def properties(self, allowed: Collection[int]) -> tuple[dict[int, PropertyValue], bytes]:
        """A property block: the values by identifier, without user properties, and the block as it was sent."""
        raw = self.take(self.varint())
        inner = Cursor(raw)
        values: dict[int, PropertyValue] = {}
        while inner.left:
            identifier = inner.varint()
            if identifier not in allowed:
                raise PacketError(f"property {identifier:#04x} does not belong there")
            if identifier == _USER_PROPERTY:
                inner.text()
                inner.text()
                continue
            if identifier in values:
                raise PacketError(f"property {identifier:#04x} comes twice", PROTOCOL_ERROR)
            values[identifier] = _read(inner, _FORMS[identifier])
        return values, bytes(raw)


def _read(cursor: Cursor, form: str) -> PropertyValue:
    match form:
        case "u8":
            return cursor.u8()
        case "u16":
            return cursor.u16()
        case "u32":
            return cursor.u32()
        case "varint":
            return cursor.varint()
        case "text":
            return cursor.text()
        case _:
            return cursor.binary()


def varint(value: int) -> bytes:
    """A variable byte integer."""
    out = bytearray()
    while True:
        value, digit = value >> 7, value & 0x7F
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def u16(value: int) -> bytes:
    """Two bytes, the higher one first."""
    return value.to_bytes(2, "big")


def string(text: str) -> bytes:
    """A UTF-8 string with its length."""
    data = text.encode()
    return u16(len(data)) + data


def packet(first: int, body: bytes) -> bytes:
    """One whole packet."""
    return bytes((first,)) + varint(len(body)) + body
