"""paho's client with its private parts replaced where they cost most; nothing else imports paho but `transport.paho`.

Five of its methods are overridden, which its version is pinned for: `_create_socket`, `_loop`, `_send_publish`,
`_handle_pubackcomp` and `_packet_write`. `tests/transport/test_contract.py` holds what they must keep, on all brokers.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from legion_iot.transport.connection import Message, StatedLimits
from legion_iot.transport.packets import PacketSocket, Parts, Publish, publish_head

_SUCCESS = ReasonCode(PacketTypes.PUBACK)
_NO_PROPERTIES = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]  # paho leaves it untyped
# From here on a payload is worth a second buffer in the write.
LARGE = 4 << 10
# Between two looks at what keeps the link alive, which goes by whole seconds.
LOOK_SECONDS = 0.5


class LeanClient(Client):
    """paho with its socket wrapped, large messages queued in parts, QoS 0 messages written by whoever sends them."""

    def __init__(
        self, client_id: str, on_publish: Callable[[LeanClient, Publish], None], on_round: Callable[[], None]
    ) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
        self._on_publish_packet = on_publish
        self._on_round = on_round
        self._latest: PacketSocket | None = None
        self._handshake_failure: ssl.SSLError | None = None
        # Held while bytes go to the socket, so that no packet gets into the middle of another.
        self._writing = threading.Lock()
        self._poll: _Poll | None = None
        self._looked = 0.0

    @property
    def tls_failure(self) -> ssl.SSLError | None:
        """What TLS had against the latest attempt to connect, or against the link that followed."""
        return self._handshake_failure or (self._latest.tls_failure if self._latest else None)

    def give_up(self) -> None:
        """Do not connect again; what `disconnect` says alone, paho forgets where a link broke off."""
        self._reconnect_on_failure = False
        self.disconnect()

    def _create_socket(self) -> Any:
        self._latest = self._handshake_failure = None
        try:
            sock = super()._create_socket()
        except ssl.SSLError as error:
            self._handshake_failure = error
            raise
        self._latest = PacketSocket(sock, lambda packet: self._on_publish_packet(self, packet))
        return self._latest

    def _loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        try:
            return self._one_round(timeout)
        finally:
            self._on_round()

    def _one_round(self, timeout: float) -> MQTTErrorCode:
        """Wait, and read and write what can be; what paho's own loop does, in fewer steps."""
        sock, waker = cast("PacketSocket | None", self._sock), self._sockpairR
        if sock is None or sock.is_tls or waker is None or not hasattr(select, "poll"):
            return super()._loop(timeout)
        try:
            if self._poll is None or self._poll.sock is not sock or self._poll.waker is not waker:
                self._poll = _Poll(sock, waker)
            readable, writable = self._poll.wait(bool(self._out_packet), timeout)
        except (OSError, ValueError):  # closed meanwhile, which paho notices as well
            return super()._loop(0.0)
        if readable and sock.drain():
            rc = self.loop_read()
            if rc or self._sock is None:
                return rc
        if writable and self._out_packet:
            rc = self.loop_write()
            if rc or self._sock is None:
                return rc
        if (now := time.monotonic()) - self._looked < LOOK_SECONDS:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self._looked = now
        return self.loop_misc()

    def expect(self, size: int) -> None:
        """Messages of so many bytes will follow soon; for the network thread."""
        if (sock := cast("PacketSocket | None", self._sock)) is not None:
            sock.expect(size)

    def _send_publish(
        self,
        mid: int,
        topic: bytes,
        payload: bytes | bytearray = b"",
        qos: int = 0,
        retain: bool = False,
        dup: bool = False,
        info: MQTTMessageInfo | None = None,
        properties: Properties | None = None,
    ) -> MQTTErrorCode:
        buffers = payload.buffers if isinstance(payload, Parts) else (payload,)
        if len(payload) < LARGE or properties is not None or self._sock is None:
            return super()._send_publish(mid, topic, b"".join(buffers), qos, retain, dup, info, properties)
        packet = Parts(publish_head(topic, len(payload), qos, retain, dup, mid), *buffers)
        return self._packet_queue(PacketTypes.PUBLISH << 4, packet, mid, qos, info)

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != 2:
            return super()._handle_pubackcomp(cmd)
        # Nothing but the number means success; paho builds tables of properties to learn that.
        number = int.from_bytes(packet, "big")
        with self._out_message_mutex:
            if number in self._out_messages:
                return self._do_on_publish(number, _SUCCESS, _NO_PROPERTIES)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _packet_write(self) -> MQTTErrorCode:
        with self._writing:
            return super()._packet_write()

    def write_now(self, topic: bytes, payload: bytes | bytearray, retain: bool) -> int | None:
        """Write a QoS 0 message on this thread, without waiting: 0 when all of it is written.

        The network thread writes what does not fit; then the packet number is returned under which `on_publish` tells
        of it. None where the message has to be queued, and nothing was written.
        """
        sock = cast("PacketSocket | None", self._sock)
        # OpenSSL does not let one thread read and another write.
        if sock is None or sock.is_tls or not self._writing.acquire(blocking=False):
            return None
        try:
            if self._out_packet:
                return None
            buffers = payload.buffers if isinstance(payload, Parts) else (payload,)
            packet = Parts(publish_head(topic, len(payload), 0, retain, False, 0), *buffers)
            try:
                written = sock.send(packet)
            except OSError:  # full, or broken, which paho will notice
                return None
            if written == len(packet):
                return 0
            number = self._mid_generate()
            self._out_packet.appendleft({
                "command": PacketTypes.PUBLISH << 4, "mid": number, "qos": 0, "pos": written,
                "to_process": len(packet) - written, "packet": packet, "info": MQTTMessageInfo(number),
            })  # fmt: skip
        finally:
            self._writing.release()
        with contextlib.suppress(OSError, AttributeError):  # full, then it is awake; or closed meanwhile
            cast(socket.socket, self._sockpairW).send(b"0")
        return number


class _Poll:
    """Waits for a socket, and for whoever wakes its thread up through `waker` to have something written."""

    def __init__(self, sock: PacketSocket, waker: socket.socket) -> None:
        self.sock, self.waker = sock, waker
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._poll.register(waker.fileno(), select.POLLIN)
        self._writes = False

    def wait(self, writes: bool, timeout: float) -> tuple[bool, bool]:
        """Whether something can be read, and whether to write, which is waited for where `writes`; in seconds."""
        if writes != self._writes:
            self._poll.modify(self.sock.fileno(), select.POLLIN | (select.POLLOUT if writes else 0))
            self._writes = writes
        patience = self.sock.patience
        # Of packets that came together, paho may have left some for the next round.
        readable, writable = self.sock.pending() > 0, False
        ready = self._poll.poll(0 if readable else (timeout if patience is None else patience) * 1000)
        if not (ready or readable) and patience is not None:
            self.sock.hurry()
        for descriptor, event in ready:
            if descriptor == self.waker.fileno():
                with contextlib.suppress(BlockingIOError):
                    self.waker.recv(10_000)
                writable = True
            else:
                readable = readable or bool(event & ~select.POLLOUT)
                writable = writable or bool(event & select.POLLOUT)
        return readable, writable


def message_of(packet: Publish) -> Message:
    """The message in a packet; raises whatever paho's reading of its properties raises."""
    topic = packet.topic.decode()
    if len(packet.properties) < 2:  # their length alone
        return Message(topic, packet.payload, packet.retain)
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.unpack(packet.properties)  # type: ignore[no-untyped-call]
    response, correlation = getattr(properties, "ResponseTopic", ""), getattr(properties, "CorrelationData", b"")
    expiry = getattr(properties, "MessageExpiryInterval", 0)
    return Message(topic, packet.payload, packet.retain, response, correlation, expiry)


def properties_of(correlation: bytes, response_topic: str, expiry: int) -> Properties | None:
    """The properties of a message with so much attached."""
    if not (correlation or response_topic or expiry):
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    if correlation:
        properties.CorrelationData = correlation
    if response_topic:
        properties.ResponseTopic = response_topic
    if expiry:
        properties.MessageExpiryInterval = expiry
    return properties


def connect_properties(receive_maximum: int, session_seconds: int) -> Properties:
    """What we tell a broker of ourselves: how much it may have under way, how long it is to keep our session."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.ReceiveMaximum = receive_maximum
    if session_seconds:
        properties.SessionExpiryInterval = session_seconds
    return properties


def limits_of(properties: Properties | None) -> StatedLimits:
    """What a broker says of itself as it lets us in."""
    usual = StatedLimits()
    return StatedLimits(
        getattr(properties, "MaximumPacketSize", usual.packet),
        getattr(properties, "ReceiveMaximum", usual.window),
        bool(getattr(properties, "RetainAvailable", usual.retains)),
        getattr(properties, "MaximumQoS", usual.most_qos),
    )
