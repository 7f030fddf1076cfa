"""A byte stream, cut into MQTT packets, without copying large ones and without trusting their length.

Small packets are copied out of a buffer that all clients share. When a packet is longer than what has arrived, a buffer
of exactly its size is made, and the socket writes straight into it: a large payload is touched once.
"""

from __future__ import annotations

from collections.abc import Iterator

from legion_iot_broker.packets import PACKET_TOO_LARGE
from legion_iot_broker.wire_format import PacketError

# A fixed header: the type and at most four bytes of length.
_HEADER_BYTES = 5


class Framer:
    """One client's stream; `limit` bounds a packet and with it the memory a client can claim."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._head = b""
        self._first = 0
        self._body: bytearray | None = None
        self._filled = 0

    def space(self) -> memoryview | None:
        """Where the socket shall write next, or None for a buffer of the caller's, to be given to `feed`."""
        return None if self._body is None else memoryview(self._body)[self._filled :]

    def filled(self, size: int) -> tuple[int, memoryview] | None:
        """Note that `size` bytes went into `space`; returns the packet that is complete by that."""
        if self._body is None:
            raise ValueError("no packet is under way")
        self._filled += size
        if self._filled < len(self._body):
            return None
        body, self._body = self._body, None
        return self._first, memoryview(body)

    def feed(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Every packet (first byte, body) that ends in `data`; the bodies are copies. Raises `PacketError`."""
        at = 0
        if self._head and len(data):
            # A header was torn apart: put it together, with no more bytes than it can need.
            missing = _HEADER_BYTES - len(self._head)
            joined = self._head + bytes(data[:missing])
            header = self._header(joined)
            if header is None:
                self._head = joined
                return
            at = header[0] - len(self._head)
            self._head = b""
            yield from self._cut(data, at, joined[0], header[1])
            at += header[1]
        while at < len(data):
            header = self._header(data[at : at + _HEADER_BYTES])
            if header is None:
                self._head = bytes(data[at:])
                return
            start = at + header[0]
            yield from self._cut(data, start, data[at], header[1])
            at = start + header[1]

    def _cut(self, data: memoryview, start: int, first: int, size: int) -> Iterator[tuple[int, memoryview]]:
        have = data[start : start + size]
        if len(have) == size:
            yield first, memoryview(bytes(have))
            return
        self._first, self._body, self._filled = first, bytearray(size), len(have)
        self._body[: len(have)] = have

    def _header(self, head: bytes | memoryview) -> tuple[int, int] | None:
        """(bytes of the fixed header, bytes of the body), or None when the header is not complete."""
        size = 0
        for index in range(1, _HEADER_BYTES):
            if index >= len(head):
                return None
            size |= (head[index] & 0x7F) << 7 * (index - 1)
            if not head[index] & 0x80:
                if size > self.limit:
                    raise PacketError(f"a packet of {size} bytes exceeds {self.limit}", PACKET_TOO_LARGE)
                return index + 1, size
        raise PacketError("a packet length has more than four bytes")
