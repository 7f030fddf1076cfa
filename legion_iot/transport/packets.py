"""MQTT packets around paho: payloads go out and come in without being copied, everything else is paho's.

The theory. paho joins a packet, slices it for every write, reads what arrives into growing buffers and takes it apart
copy by copy: at 256 KB a piece, most of an agent's time on the wire. So its socket is wrapped. Written is what paho
queues, of which a large PUBLISH is `Parts`: its head and the payload as it is. Read is the broker's stream through
`PacketStream`: a PUBLISH goes to `on_publish`, its payload received straight into the bytes it is handed over as;
the bytes of all other packets go to paho, which does not notice.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

PUBLISH = 3
PINGRESP = b"\xd0\x00"
SCRATCH = 16 << 10  # bytes; small packets arrive several at a time, of a large one that much is copied
MAX_HEAD = 192 << 10  # bytes of topic and properties: two fields of 64 KB and some
# One read's turn: after so many bytes paho may write, acknowledgements above all.
TURN = 1 << 20
# While a payload is under way, wake up for so many bytes: on a slow link every packet would wake us otherwise.
WAKE = 256 << 10
# Of messages that are known to follow, wake up for so many bytes at once, and take in several. But wait for them no
# longer than that: what was announced may be late, and something else be there.
BATCH = 64 << 10
PATIENCE_SECONDS = 0.008
HEARD_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Publish:
    """A message as the broker sent it; `properties` are those of MQTT 5, with their length."""

    topic: bytes
    payload: bytes
    qos: int
    retain: bool
    number: int
    properties: bytes


def publish_head(topic: bytes, payload_size: int, qos: int, retain: bool, dup: bool, number: int) -> bytes:
    """What stands before the payload of an MQTT 5 PUBLISH without properties."""
    variable = struct.pack("!H", len(topic)) + topic + (struct.pack("!H", number) if qos else b"") + b"\0"
    left = len(variable) + payload_size
    length = bytearray()
    while not length or left:
        left, low = left >> 7, left & 0x7F
        length.append(low | 0x80 if left else low)
    return bytes((PUBLISH << 4 | dup << 3 | qos << 1 | retain,)) + length + variable


class Parts(bytearray):
    """Bytes in several buffers, which are not copied; of paho's questions it answers length and rest.

    A bytearray, itself empty, because paho accepts nothing else as a payload. Nobody may write into the buffers.
    """

    __slots__ = ("buffers", "size")

    def __init__(self, *buffers: bytes | bytearray | memoryview) -> None:
        super().__init__()
        self.buffers = buffers
        self.size = sum(map(len, buffers))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, rest: Any) -> Parts:  # type: ignore[override]  # slices are all that paho asks for
        start, left = rest.start or 0, []
        for buffer in self.buffers:
            if start < len(buffer):
                left.append(memoryview(buffer)[start:])
            start = max(0, start - len(buffer))
        return Parts(*left)


class _Filling:
    """A payload that has arrived in part."""

    def __init__(self, size: int, head: Callable[[bytes], Publish]) -> None:
        # Of CPython's ways to make bytes in place, the one that copies neither before nor after.
        self._bytes = io.BytesIO(bytes(size))
        self.rest = self._bytes.getbuffer()
        self._head = head

    def take(self, size: int) -> Publish | None:
        """So many bytes have been written to the front of `rest`; the message when it is complete."""
        rest = self.rest[size:]
        self.rest.release()
        self.rest = rest
        if rest:
            return None
        rest.release()
        return self._head(self._bytes.getvalue())


class PacketStream:
    """A broker's bytes, cut into messages and `control`, the bytes of all other packets.

    Receive into `space()`, then say `filled(size)`. Raises ValueError where the stream is no MQTT.
    """

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray(SCRATCH))
        self._kept = b""
        self._control_left = 0
        self._filling: _Filling | None = None
        self.control = bytearray()

    @property
    def missing(self) -> int:
        """The bytes that the payload under way lacks; 0 between packets."""
        return len(self._filling.rest) if self._filling else 0

    @property
    def may_add(self) -> bool:
        """Whether a packet may be added to `control`: no other one has gone out in part."""
        return not self.control and not self._control_left

    def space(self) -> memoryview:
        """Where the next bytes belong."""
        return self._filling.rest if self._filling else self._scratch

    def filled(self, size: int) -> Iterator[Publish]:
        """That many bytes have been received into `space()`; yields the messages they complete."""
        if self._filling is not None:
            message = self._filling.take(size)
            if message is not None:
                self._filling = None
                yield message
            return
        data, self._kept = self._kept + bytes(self._scratch[:size]), b""
        position = 0
        while position < len(data):
            if self._control_left:
                end = position + self._control_left
                self.control += data[position:end]
                self._control_left = max(0, end - len(data))
                position = end
                continue
            fixed = _fixed_header(data, position)
            if fixed is None:
                self._kept = data[position:]
                return
            start, end = fixed
            if data[position] >> 4 != PUBLISH:
                self._control_left = end - position
                continue
            head = _publish(data, position, start, end)
            if head is None:
                self._kept = data[position:]
                if len(self._kept) > MAX_HEAD:
                    raise ValueError("a message's head is too long")
                return
            message_of, body = head
            if end > len(data):
                self._filling = _Filling(end - body, message_of)
                present = len(data) - body
                self._filling.rest[:present] = data[body:]
                self._filling.take(present)
                return
            yield message_of(data[body:end])
            position = end


def _fixed_header(data: bytes, position: int) -> tuple[int, int] | None:
    """Where what follows the fixed header starts and ends; None where more of it is to come."""
    remaining = shift = 0
    for at in range(position + 1, min(position + 5, len(data))):
        remaining |= (data[at] & 0x7F) << shift
        shift += 7
        if data[at] < 0x80:
            return at + 1, at + 1 + remaining
    if len(data) - position >= 5:
        raise ValueError("a packet's length is unreadable")
    return None


def _publish(data: bytes, position: int, start: int, end: int) -> tuple[Callable[[bytes], Publish], int] | None:
    """What makes a message of the payload, and where that starts; None where more of the head is to come."""
    qos, retain = data[position] >> 1 & 3, bool(data[position] & 1)
    if qos > 1:
        raise ValueError("a message of QoS 2, which nobody subscribed to")
    if start + 2 > len(data):
        if end > len(data):
            return None
        raise _cut_short()
    number_at = start + 2 + int.from_bytes(data[start : start + 2], "big")
    properties_at = number_at + 2 * qos
    if properties_at >= min(end, len(data)):
        if properties_at < end:
            return None
        raise _cut_short()
    # Property lengths are written like a packet's, with the byte before in the place of its type.
    length = _fixed_header(data, properties_at - 1)
    if length is None or length[1] > min(end, len(data)):
        if end > len(data) and (length is None or length[1] <= end):
            return None
        raise _cut_short()
    topic, properties = data[start + 2 : number_at], data[properties_at : length[1]]
    number = int.from_bytes(data[number_at:properties_at], "big")
    return lambda payload: Publish(topic, payload, qos, retain, number, properties), length[1]


def _cut_short() -> ValueError:
    return ValueError("a message is shorter than its own head")


class PacketSocket:
    """The socket that paho is given in place of `sock`; messages go to `on_publish` on the thread that receives.

    `tls_failure` is what ended the link where TLS did: the broker's alert, which paho does not tell of.
    """

    def __init__(self, sock: Any, on_publish: Callable[[Publish], None]) -> None:
        self._sock = sock
        self._on_publish = on_publish
        self._stream = PacketStream()
        self.is_tls = isinstance(sock, ssl.SSLSocket)
        self._wake = 1
        self._heard = 0.0
        self._expected = 0
        self._failure: OSError | None = None
        self.tls_failure: ssl.SSLError | None = None

    def recv(self, size: int) -> bytes:
        """Bytes of packets other than messages; raises BlockingIOError when there are none now, and after a turn."""
        if self._failure is not None:
            raise self._failure
        try:
            self._receive()
        except ssl.SSLError as error:
            self._note(error)
            raise
        finally:
            # However this ends, `select` comes next, and must not wait for more than will come.
            self._wake_for(min(WAKE, self._stream.missing))
        control = self._stream.control
        data = bytes(control[:size])
        del control[:size]
        return data

    def drain(self) -> bool:
        """Receive what is there, of messages at most a turn; whether `recv` has something to say. Not with TLS."""
        turn, stream = TURN, self._stream
        try:
            while turn > 0 and not stream.control:
                space = stream.space()
                room = len(space)
                count = self._sock.recv_into(space)
                if count == 0:
                    return True
                turn -= count
                self._expected = max(0, self._expected - count)
                self._take(count)
                if count < room:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            self._failure = error
            return True
        missing = stream.missing
        self._wake_for(min(WAKE, max(missing, min(BATCH, self._expected))))
        return bool(stream.control)

    def expect(self, size: int) -> None:
        """So many bytes of messages will follow soon."""
        self._expected = max(self._expected, size)

    @property
    def patience(self) -> float | None:
        """Seconds that bytes may be waited for which are only expected; None where nothing is."""
        return PATIENCE_SECONDS if self._wake > max(1, self._stream.missing) else None

    def hurry(self) -> None:
        """What was expected is late: take what is there."""
        self._expected = 0
        self._wake_for(min(WAKE, self._stream.missing))

    def _receive(self) -> None:
        """Receive until there is something for paho, or the link has ended."""
        turn = TURN
        while not self._stream.control:
            if turn <= 0:
                raise BlockingIOError
            count = self._sock.recv_into(self._stream.space())
            if count == 0:
                return
            turn -= count
            self._take(count)

    def _take(self, count: int) -> None:
        try:
            for message in self._stream.filled(count):
                self._on_publish(message)
        except ValueError as error:
            raise ConnectionError(f"the broker sends what is no MQTT: {error}") from None
        # To paho, which does not see the messages, the link is silent; a message is as good as an answer to its ping.
        now = time.monotonic()
        if now - self._heard > HEARD_SECONDS and self._stream.may_add:
            self._heard = now
            self._stream.control += PINGRESP

    def _wake_for(self, size: int) -> None:
        """Let `select` wait until so many bytes are there; not with TLS, whose bytes are not the payload's."""
        size = max(1, size)
        if size != self._wake and not self.is_tls:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._wake = size

    def send(self, data: bytes | Parts) -> int:
        """Write what fits; returns how much that was."""
        if self.is_tls:
            return self._send_encrypted(data.buffers[0] if isinstance(data, Parts) else data)
        if not isinstance(data, Parts):
            return int(self._sock.send(data))
        return int(self._sock.sendmsg(data.buffers))

    def _send_encrypted(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return int(self._sock.send(data))
        except ConnectionError:
            # Before it hung up, the broker may have said why: with TLS 1.3 a client learns only now that its
            # certificate was not accepted.
            try:
                self._sock.recv(1)
            except ssl.SSLError as error:
                self._note(error)
            except OSError:
                pass
            raise

    def _note(self, error: ssl.SSLError) -> None:
        if not isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
            self.tls_failure = error

    def pending(self) -> int:
        """The bytes that can be received although `select` does not say so."""
        return len(self._stream.control) + (self._sock.pending() if self.is_tls else 0)

    def cut(self) -> None:
        """End the link at once, both ways; what TLS has to say is not said."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def fileno(self) -> int:
        """The descriptor for `select`; -1 once it is closed."""
        return int(self._sock.fileno())

    def setblocking(self, flag: bool) -> None:
        """As a socket's."""
        self._sock.setblocking(flag)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """As a socket's."""
        self._sock.setsockopt(level, option, value)

    def close(self) -> None:
        """As a socket's."""
        self._sock.close()
