"""A connection over paho-mqtt: the only module that imports it.

MQTT 5, because only version 5 says three things we act upon: that another client took our id over (with 3.1.1 the two
push each other out for ever), that a publish was denied, and where an answer is wanted. Mosquitto and the embedded
broker both speak it; paho sends no properties unless asked, so it costs nothing per message. Mosquitto 2.0.11 closes a
link that was taken over without saying so: then all we see is a link that ends soon after each connection, and each
time we wait twice as long before the next one.

What paho leaves open is settled here (each one measured, see docs/embedded-broker.md and the design findings):
Nagle's wait, an outgoing queue without a limit for QoS 0, a resend after a reconnect that exceeds the window, and
`on_disconnect` firing twice.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from paho.mqtt.client import (
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from legion_iot.errors import (
    BrokerError,
    CertificateExpiredError,
    CertificateRevokedError,
    ForeignCertificateError,
    PasswordRefusedError,
)
from legion_iot.transport.client import LeanClient, connect_properties, limits_of, message_of, properties_of
from legion_iot.transport.connection import (
    CLOSE_TIMEOUT,
    DEFAULT_KEEP_ALIVE,
    SUBSCRIBE_TIMEOUT,
    BrokerAddress,
    Connected,
    Disconnected,
    EventHandler,
    Payload,
    QueueLimits,
    Refused,
    StatedLimits,
    TransportEvent,
    Will,
)
from legion_iot.transport.matching import check_filters, check_message
from legion_iot.transport.outbox import Outbox, Outgoing
from legion_iot.transport.packets import PacketSocket, Parts, Publish
from legion_iot.transport.sockets import Flapping, acknowledge_now, prefer, readable_errors, tune
from legion_iot.transport.tls import client_context, explain

# paho's own names are for the transport bench, which measures plain paho beside us; nobody else imports paho.
__all__ = ["TAKEN_OVER", "CallbackAPIVersion", "Client", "MQTTMessage", "PahoConnection"]

logger = logging.getLogger(__name__)

# paho waits this long before the first attempt to reconnect and doubles it up to the second number; whole seconds.
RECONNECT_SECONDS = (1, 8)
# One attempt to reach the broker, at most; paho cannot change it between the first attempt and the later ones.
CONNECT_SECONDS = 5.0
# What a PUBLISH packet needs beside topic and payload, at most: header, packet number, property lengths.
PACKET_OVERHEAD = 32
SESSION_TAKEN_OVER = 0x8E
TAKEN_OVER = "another client connected with the same id"
# Asked again, the broker would say the same.
_FINAL = (CertificateRevokedError, CertificateExpiredError, ForeignCertificateError, PasswordRefusedError)


class PahoConnection:
    """`Connection` to a real broker.

    Nothing of ours stays there except what is retained, unless `session_seconds` ask for more: for so long after the
    link has ended, the broker keeps what comes at QoS 1 for our subscriptions, for whoever connects with our id. What
    `is_urgent` leaves this machine before what other connections have waiting there. `on_round` is called on the event
    handler's thread after each message, or once after several that came together.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        on_event: EventHandler,
        will: Will | None = None,
        *,
        keep_alive: float = DEFAULT_KEEP_ALIVE,
        limits: QueueLimits | None = None,
        session_seconds: int = 0,
        is_urgent: bool = False,
        on_round: Callable[[], None] | None = None,
    ) -> None:
        self._address = address
        self._client_id = client_id
        self._secret = f"-{address.client_secret}" if address.client_secret else ""
        self._on_event = on_event
        self._will = will
        self._keep_alive = max(1, math.ceil(keep_alive))
        self._limits = limits or QueueLimits()
        self._session_seconds = session_seconds
        self._is_urgent = is_urgent
        self._on_round = on_round
        self._received = False  # anything since the last round
        self.bytes_sent = self.bytes_received = 0  # of payloads
        self._changed = threading.Condition()
        # All below is guarded by _changed; paho is never called with it held, since paho calls back with its own lock.
        self._client: LeanClient | None = None
        self._outbox = Outbox(self._limits)
        self._filters: dict[str, int] = {}
        self._answers: dict[int, list[ReasonCode]] = {}
        self._unawaited: set[int] = set()
        self._resubscription: int | None = None
        self.broker_limits = StatedLimits()
        self._linked = False
        self._announced = False
        self._ended: str | None = "the connection is not open"
        self._refusal: BrokerError | None = None
        self._network_thread = 0
        self._linked_at = 0.0
        self._flapping = Flapping()

    # -- what the owner calls ------------------------------------------------------------------------------------

    def open(self, timeout: float) -> None:
        """See `Connection.open`."""
        deadline = time.monotonic() + timeout
        client = self._new_client(timeout)
        with self._changed:
            if self._client is not None:
                raise BrokerError(f"{self._where} is connected already; close it before opening it again")
            self._client, self._ended, self._refusal = client, None, None
            self._outbox = Outbox(self._limits)
            self._linked_at = 0.0
        try:
            with readable_errors(self._address):
                client.connect(
                    self._address.host,
                    self._address.port,
                    self._keep_alive,
                    clean_start=not self._session_seconds,
                    properties=connect_properties(self._limits.receive_maximum, self._session_seconds),
                )
            client.loop_start()
            with self._changed:
                self._changed.wait_for(lambda: self._announced or self._refusal or self._ended, _left(deadline))
                problem = None if self._announced else self._refusal or self._ended or f"no answer in {timeout:g} s"
            if isinstance(problem, BrokerError):
                raise problem
            if problem:
                raise BrokerError(f"{self._where} did not accept {self._client_id}: {problem}")
        except BaseException:
            self._tear_down(client, "the connection is not open", CLOSE_TIMEOUT)
            raise

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """See `Connection.subscribe`."""
        check_filters(filters)
        with self._changed:
            self._filters.update(filters)
            client = self._client if self._linked else None
            waits = threading.get_ident() != self._network_thread
        if client is None or not filters:
            return
        code, number = client.subscribe(list(filters))
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or number is None:
            return  # The link went down just now; the next connection subscribes.
        if not waits:
            self._unawaited.add(number)
            return
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers or not self._linked, SUBSCRIBE_TIMEOUT)
            answer = self._answers.pop(number, None)
            if answer is None:
                if not self._linked:
                    return
                raise BrokerError(
                    f"{self._where} left a subscription unanswered for {SUBSCRIBE_TIMEOUT:g} s; is it alive?"
                )
            refused = [(p, str(c)) for (p, _), c in zip(filters, answer, strict=False) if c.is_failure]
            for pattern, _ in refused:
                self._filters.pop(pattern, None)
        if refused:
            raise BrokerError(f"{self._where} refused the subscription to {refused[0][0]}: {refused[0][1]}")

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
        """See `Connection.publish`."""
        check_message(topic, qos)
        # bytes stay as they are, and so do the buffers of a tuple, which were given to us; anything else that can
        # change is copied, since its owner may go on writing into it.
        held = Parts(*payload) if isinstance(payload, tuple) else bytes(payload)
        expires_at = time.monotonic() + expiry if expiry else math.inf
        message = Outgoing(topic, held, qos, retain, correlation, response_topic, expires_at, on_acknowledged)
        with self._changed:
            if self._ended is not None:
                if isinstance(self._refusal, _FINAL):  # its kind is the exit code
                    raise self._refusal
                raise BrokerError(f"cannot publish on {topic}: {self._ended}")
            size = len(message.payload) + len(topic) + len(correlation) + len(response_topic) + PACKET_OVERHEAD
            largest = self.broker_limits.packet
            if largest is not None and size > largest:
                raise BrokerError(
                    f"{self._where} takes packets of {largest} bytes and {topic} needs {size}: "
                    "publish smaller pieces or raise the broker's limit"
                )
            if not self._outbox.has_room(len(message.payload)):
                raise BrokerError(
                    f"{len(self._outbox)} messages wait for {self._where}: it is away or slow; publish less, or later"
                )
            self.bytes_sent += len(message.payload)
            if qos == 0 and not (correlation or response_topic or expiry) and self._write_at_once(message):
                return
            self._outbox.put(message)
        self._pump()

    def _write_at_once(self, message: Outgoing) -> bool:
        """Whether the message went out, at least in part, on this thread and without waiting; _changed is held."""
        if not self._linked or self._client is None or not self._outbox.is_clear:
            return False
        number = self._client.write_now(message.topic.encode(), message.payload, message.retain)
        if number:
            self._outbox.written_in_part(number, message)
        return number is not None

    def expect(self, size: int) -> None:
        """Messages of so many bytes will come soon, and may be taken in together; for the event handler's thread."""
        if (client := self._client) is not None:
            client.expect(size)

    def flush(self, timeout: float) -> bool:
        """See `Connection.flush`."""
        with self._changed:
            self._changed.wait_for(lambda: not len(self._outbox) or self._ended is not None, timeout)
            return not len(self._outbox)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """See `Connection.close`."""
        deadline = time.monotonic() + timeout
        with self._changed:
            client = self._client
            in_callback = threading.get_ident() == self._network_thread
            linked = self._linked
        if client is None:
            return
        if linked and not in_callback:
            self.flush(_left(deadline))
        with self._changed:
            self._ended = "the connection is closed"
        client.disconnect()
        if not in_callback:
            with self._changed:
                self._changed.wait_for(lambda: not self._linked, _left(deadline))
        self._tear_down(client, "the connection is closed", 0 if in_callback else max(_left(deadline), 1.0))

    def abort(self) -> None:
        """See `Connection.abort`."""
        with self._changed:
            client = self._client
            in_callback = threading.get_ident() == self._network_thread
        if client is not None:
            self._tear_down(client, "the connection was aborted", 0 if in_callback else CLOSE_TIMEOUT)

    # -- paho's side -----------------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return f"the broker at {self._address.endpoint}"

    def _new_client(self, timeout: float) -> LeanClient:
        client = LeanClient(self._client_id + self._secret, self._on_message, self._end_round)
        client.max_inflight_messages = self._limits.window_messages
        client.connect_timeout = min(max(0.1, timeout), CONNECT_SECONDS)
        client.reconnect_delay_set(*RECONNECT_SECONDS)
        if self._address.user is not None:
            client.username_pw_set(self._address.user, self._address.password)
        if self._address.tls:
            client.tls_set_context(client_context(self._address))
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, self._will.qos, self._will.retain)
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        return client

    def _tear_down(self, client: Client, ended: str, timeout: float) -> None:
        """Cut what is left of the link and wait for paho's thread, which may sit in a blocking connect of its own."""
        with self._changed:
            self._ended = ended
        # Told to stop first and cut then: the other way round, paho may have begun its wait for the next attempt.
        stopper = threading.Thread(target=client.loop_stop, name=f"{self._client_id}-stop", daemon=True)
        stopper.start()
        if (sock := client.socket()) is not None:
            cast(PacketSocket, sock).cut()
        # After the cut, so that it reaches paho only.
        client.disconnect()
        if timeout > 0:
            stopper.join(timeout)
        with self._changed:
            self._linked = self._announced = False
            self._client = None
            self._outbox.link_down()
            self._changed.notify_all()

    def _on_socket_open(self, client: Client, userdata: Any, sock: Any) -> None:
        tune(sock, self._keep_alive)
        if self._is_urgent:
            prefer(sock)

    def _on_connect(
        self, client: Client, userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._on_refusal(client, self._explain(reason))
            return
        with self._changed:
            if self._ended is not None:
                ended = True
            else:
                ended = False
                self._network_thread = threading.get_ident()
                self._linked, self._linked_at = True, time.monotonic()
                self._answers.clear()
                self._unawaited.clear()
                self.broker_limits = limits_of(properties)
                self._outbox.link_up(self.broker_limits.window)
                filters = list(self._filters.items())
        if ended:  # close() came while paho was connecting again.
            client.disconnect()
            return
        if filters:
            _, self._resubscription = client.subscribe(filters)
        else:
            self._announce()
        self._pump()

    def _on_connect_fail(self, client: Client, userdata: Any) -> None:
        if self._ended is not None:
            client.disconnect()
        else:
            self._check_tls(client)

    def _check_tls(self, client: Client) -> None:
        failure = cast(LeanClient, client).tls_failure
        if failure is not None:
            self._on_refusal(client, explain(failure, self._address))

    def _on_refusal(self, client: Client, error: BrokerError) -> None:
        """The first time open() reports it; a broker that knew us already is asked again, unless that is in vain."""
        with self._changed:
            self._refusal = error
            self._changed.notify_all()
            first, final = self._linked_at == 0.0, isinstance(error, _FINAL)
            tell = final and not first and self._ended is None
            if tell:
                self._ended = str(error)
        if not first:
            logger.warning("%s", error)
        if first or final:
            cast(LeanClient, client).give_up()
        if tell:
            self._emit(Refused(error))

    def _on_subscribe(
        self, client: Client, userdata: Any, number: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        if number == self._resubscription or number in self._unawaited:
            self._unawaited.discard(number)
            for reason in reasons:
                if reason.is_failure:
                    logger.warning("%s refused a subscription of %s: %s", self._where, self._client_id, reason)
            if number == self._resubscription:
                self._resubscription = None
                self._announce()
            return
        with self._changed:
            self._answers[number] = reasons
            self._changed.notify_all()

    def _on_disconnect(
        self,
        client: Client,
        userdata: Any,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        taken_over = flags.is_disconnect_packet_from_server and reason.value == SESSION_TAKEN_OVER
        with self._changed:
            tell = self._announced and self._ended is None
            if self._linked:
                self._flapping.link_lasted(time.monotonic() - self._linked_at)
            self._linked = self._announced = False
            self._resubscription = None
            self._outbox.link_down()
            if taken_over and self._ended is None:
                self._ended = TAKEN_OVER
            ended = self._ended is not None
            self._changed.notify_all()
        if ended:
            # Keeps paho from connecting again: after a take-over that would only push the other one out.
            client.disconnect()
        else:
            client.reconnect_delay_set(*self._flapping.wait_range(*RECONNECT_SECONDS))
            if (times := self._flapping.count) > 1:
                logger.warning("%s cut %s off %d times; is its id used twice?", self._where, self._client_id, times)
        if tell:
            self._emit(Disconnected(TAKEN_OVER if taken_over else str(reason)))
        if not ended:
            self._check_tls(client)

    def _on_publish(
        self, client: Client, userdata: Any, number: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        with self._changed:
            message = self._outbox.done(number)
            self._changed.notify_all()
        if reason.is_failure:
            logger.warning("%s refused %s on %s: %s", self._where, self._client_id, message and message.topic, reason)
        _acknowledge(message)
        self._pump()

    def _end_round(self) -> None:
        if self._received:
            self._received = False
            if (client := self._client) is not None:
                acknowledge_now(client.socket())
            if self._on_round is not None:
                self._on_round()

    def _on_message(self, client: LeanClient, packet: Publish) -> None:
        self._received = True
        self.bytes_received += len(packet.payload)
        try:
            event = message_of(packet)
        except Exception as error:  # of whatever kind paho's reading of properties raises
            logger.warning("%s sent a message that cannot be read; dropped: %r", self._where, error)
        else:
            self._emit(event)
        if packet.qos:
            client.ack(packet.number, packet.qos)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        with self._changed:
            if self._announced or self._ended is not None:
                return
            self._announced = True
        # Emitted before open() returns, so that its caller finds the event in the queue.
        self._emit(Connected())
        with self._changed:
            self._changed.notify_all()

    def _explain(self, reason: ReasonCode) -> BrokerError:
        told = f"{self._where} did not accept {self._address.user or self._client_id}: {reason}"
        if reason.value in (0x86, 0x87):
            return PasswordRefusedError(f"{told}; check user and password, or give a newer bundle (--credentials)")
        return BrokerError(f"{told}; it must speak MQTT 5" if reason.value == 0x84 else told)

    def _emit(self, event: TransportEvent) -> None:
        if self._ended is not None and not isinstance(event, (Disconnected, Refused)):
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("the event handler of %s failed on %s", self._client_id, type(event).__name__)

    def _pump(self) -> None:
        """Hand queued messages to paho while its window has room; one thread at a time, in order."""
        while True:
            with self._changed:
                message = self._outbox.take()
                client = self._client
                if message is None or client is None:
                    return
            number = self._hand_over(client, message)
            with self._changed:
                done = self._outbox.handed(number)
                self._changed.notify_all()
            _acknowledge(done)

    def _hand_over(self, client: LeanClient, message: Outgoing) -> int | None:
        """Give a message to paho: its packet number, or None where it is lost at once, or not wanted any more."""
        left = message.expires_at - time.monotonic()
        if left <= 0:
            logger.warning("a message on %s waited for too long and is not sent", message.topic)
            return None
        expiry = 0 if left == math.inf else math.ceil(left)
        properties = properties_of(message.correlation, message.response_topic, expiry)
        try:
            info = client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        except ValueError:  # longer than the 256 MiB that MQTT can say
            logger.exception("a message on %s cannot be sent", message.topic)
            return None
        # Without a link paho keeps QoS 1 for the next connection, and forgets QoS 0.
        lost = info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS and (
            message.qos == 0 or info.rc != MQTTErrorCode.MQTT_ERR_NO_CONN
        )
        return None if lost else info.mid


def _acknowledge(message: Outgoing | None) -> None:
    """The broker has the message: tell whoever wants to know."""
    if message is not None and message.on_acknowledged is not None:
        try:
            message.on_acknowledged()
        except Exception:
            logger.exception("what follows the acknowledgement of a message on %s failed", message.topic)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
