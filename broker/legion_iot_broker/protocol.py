"""One client's side of the embedded broker: what each packet does, from CONNECT to DISCONNECT."""

from __future__ import annotations

import logging
import secrets

from legion_iot_broker.access import Users
from legion_iot_broker.hub import Hub, Session
from legion_iot_broker.packets import (
    BAD_AUTHENTICATION_METHOD,
    BAD_CLIENT_ID,
    NOT_AUTHORIZED,
    UNSUPPORTED_VERSION,
    V5,
    V311,
    Connect,
    Disconnect,
    PingReq,
    PubAck,
    Publish,
    Subscribe,
    Unsubscribe,
    connack,
    decode,
    disconnect,
    pingresp,
    puback,
    suback,
    unsuback,
)
from legion_iot_broker.wire_format import PROTOCOL_ERROR, PacketError

logger = logging.getLogger(__name__)


class Ended(Exception):
    """The link shall be closed, after some last bytes, with or without the client's will."""

    def __init__(self, farewell: bytes = b"", *, with_will: bool = False) -> None:
        super().__init__("the client's link ends")
        self.farewell = farewell
        self.with_will = with_will


class Conversation:
    """A client before and after it said who it is."""

    def __init__(self, hub: Hub, users: Users | None, *, anonymous: bool) -> None:
        self._hub = hub
        self._users = users
        self._anonymous = anonymous
        self._version = V311
        self.session: Session | None = None
        self.keep_alive = 0

    @property
    def name(self) -> str:
        """What to call the client in a log."""
        return self.session.client_id if self.session else "a client before its CONNECT"

    def farewell(self, reason: int) -> bytes:
        """The last bytes for a link that is cut: why, where the protocol has a word for it."""
        if self.session is None:
            return connack(self._version, reason) if reason == UNSUPPORTED_VERSION else b""
        return disconnect(reason) if self._version == V5 else b""

    def handle(self, first: int, body: memoryview) -> None:
        """Act on one packet; raises `PacketError` or `Ended`."""
        packet = decode(first, body, self._version)
        session = self.session
        if session is None:
            if not isinstance(packet, Connect):
                raise PacketError("the first packet is no CONNECT", PROTOCOL_ERROR)
            self._connect(packet)
            return
        match packet:
            case Publish():
                reason = self._hub.publish(session, packet)
                if packet.qos:
                    session.send(puback(self._version, packet.number, reason))
            case PubAck(number):
                session.acknowledge(number)
            case Subscribe():
                codes, due = self._hub.subscribe(session, packet)
                session.send(suback(self._version, packet.number, codes))
                for subscription in due:
                    self._hub.deliver_retained(session, subscription)
            case Unsubscribe(number, patterns):
                codes = self._hub.unsubscribe(session, patterns)
                session.send(unsuback(self._version, number, codes))
            case PingReq():
                session.send(pingresp())
            case Disconnect(with_will):
                raise Ended(with_will=with_will)
            case Connect():
                raise PacketError("a second CONNECT", PROTOCOL_ERROR)

    def _connect(self, packet: Connect) -> None:
        self._version = packet.version
        if packet.wants_authentication:
            raise Ended(connack(packet.version, BAD_AUTHENTICATION_METHOD))
        if not self._accepts(packet):
            logger.warning("refused %r: wrong user or password", packet.client_id)
            raise Ended(connack(packet.version, NOT_AUTHORIZED))
        assigned = ""
        if not packet.client_id:
            if packet.version == V311 and not packet.clean:
                raise Ended(connack(packet.version, BAD_CLIENT_ID))
            assigned = f"auto-{secrets.token_hex(8)}"
        self.keep_alive = packet.keep_alive
        session = Session(packet, packet.client_id or assigned, self._hub)
        self._hub.attach(session)
        self.session = session
        session.send(connack(packet.version, 0, largest_packet=self._hub.limits.packet_bytes, assigned_id=assigned))

    def _accepts(self, packet: Connect) -> bool:
        if packet.user is None:
            return self._anonymous
        if self._users is None:
            return self._anonymous
        return self._users.accepts(packet.user, packet.password)
