"""The ways a payload can go from one process to another, each as an `End` that both processes hold.

`OurEnd` is the project's own path, as agents use it: a `ConnectionPair`, fragments, and an `Exchange` that puts them
together. `BareEnd` is the same without acknowledgements of our own. `PlainEnd` is paho as most people write it: whole
messages, a 3.1.1 client with its defaults. `TcpEnd` is a bare socket, through a relay of ours where a broker would
stand.

A payload's wish says what the peer does when it has all of it: nothing, a short answer, or the same payload back.
"""

from __future__ import annotations

import itertools
import queue
import socket
import struct
import time
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from legion_iot.errors import BrokerError
from legion_iot.model.geometry import Interval, Region
from legion_iot.runtime.exchange import Exchange, TensorForm
from legion_iot.transport.connection import BrokerAddress, Will
from legion_iot.transport.fragments import FragmentsArrived, Outgoing
from legion_iot.transport.paho import CallbackAPIVersion, Client, MQTTMessage
from legion_iot.transport.pair import ConnectionPair
from legion_iot.wire.messages import Fragment, Parcel, PeerRegion
from legion_iot.wire.tensors import Array, bounds, fragments, pack_parcel
from legion_iot.wire.topics import Topics
from legion_iot.wire.zeros import CODEC

TIMEOUT = 30.0  # seconds until a payload counts as lost
CHANNELS = 64

# Rows × columns of 64 float32 channels; the last is the first feature map of VGG-16. The answer's stands in front.
REGIONS = tuple(
    Region(Interval(0, rows), Interval(0, columns))
    for rows, columns in ((1, 1), (1, 4), (1, 256), (16, 256), (224, 224))
)
ANSWER = 0

Wish: TypeAlias = Literal["none", "answer", "echo"]
WISHES: tuple[Wish, ...] = ("none", "answer", "echo")


def payload_bytes(index: int) -> int:
    """The bytes of the payload of that number."""
    return REGIONS[index].area * CHANNELS * 4


@dataclass(frozen=True, slots=True)
class Arrived:
    """A whole payload: its number, and what its sender wishes at which QoS."""

    index: int
    wish: Wish
    qos: int
    values: Array


class End(Protocol):
    """One end of a way; used by one thread."""

    def send(self, index: int, wish: Wish, qos: int) -> None:
        """Send the payload of that number, without waiting for it."""

    def receive(self, timeout: float) -> Arrived | None:
        """The next whole payload, or None after `timeout` seconds; raises BrokerError where the way broke."""

    def close(self) -> None:
        """Give back what it holds."""


def make_payloads() -> tuple[Array, ...]:
    """Feature maps of every size, with seeded noise in them."""
    noise = np.random.default_rng(4)
    return tuple(
        noise.standard_normal((len(region.rows), len(region.columns), CHANNELS), np.float32) for region in REGIONS
    )


class OurEnd:
    """The project's data path: regions to another participant, put together in an `Exchange`.

    `decoding` adds up what that costs this thread, in CPU seconds.
    """

    def __init__(self, address: BrokerAddress, name: str, other: str) -> None:
        topics = Topics("bench")
        self._other = other
        self._payloads = make_payloads()
        self._rectified: dict[int, Array] = {}
        self._number = 0
        self.decoding = 0.0
        form = {0: TensorForm(CHANNELS, "float32")}
        self._exchanges = [
            Exchange(1, {step: {0: region}}, [PeerRegion(step, 0, bounds(region), other)], form)
            for step, region in enumerate(REGIONS)
        ]
        will = Will(topics.agent(name, "state"), b"gone", retain=False)
        self.links = ConnectionPair(address, f"bench-{name}", will, topics, name)
        self.links.open([])

    def send(self, index: int, wish: Wish, qos: int) -> None:
        """See `End.send`; delivery is at QoS 0, with acknowledgements of its own."""
        self.links.send([self._outgoing(index, wish, qos)])

    def send_packed(self, index: int) -> None:
        """Send what a ReLU leaves of that payload without its zeros, which are half of it; the wish is an answer."""
        if index not in self._rectified:
            self._rectified[index] = np.maximum(self._payloads[index], 0)
        self.links.send([self._outgoing(index, "answer", 0, self._rectified[index], CODEC)])

    def _outgoing(self, index: int, wish: Wish, qos: int, values: Array | None = None, codec: str = "") -> Outgoing:
        self._number += 1
        region, held = REGIONS[index], self._payloads[index] if values is None else values
        request = f"{self._number}-{wish}-{qos}"
        header = Fragment(request, 1, 1, index, 0, bounds(region), CHANNELS, "float32", "", codec)
        return Outgoing(self._other, header, held, region)

    def receive(self, timeout: float) -> Arrived | None:
        """See `End.receive`."""
        while (event := self.links.next(timeout)) is not None:
            if isinstance(event, FragmentsArrived) and (arrived := self._take(event)) is not None:
                return arrived
        return None

    def _take(self, event: FragmentsArrived) -> Arrived | None:
        before, arrived = time.thread_time(), None
        for header, body in event.fragments:
            done = self._exchanges[header.step].put_fragment(event.sender, header, body)
            if done is not None:
                _, wish, qos = header.request.split("-")
                arrived = Arrived(header.step, _wish(wish), int(qos), done[0])
        self.decoding += time.thread_time() - before
        return arrived

    def close(self) -> None:
        """See `End.close`."""
        self.links.close()


class BareEnd(OurEnd):
    """The same fragments as MQTT messages at the QoS that is asked for, which nobody but MQTT acknowledges."""

    def __init__(self, address: BrokerAddress, name: str, other: str) -> None:
        self._topic = Topics("bench").inbox(f"{other}-bare", f"{name}-bare")
        self._parcels = itertools.count()
        super().__init__(address, f"{name}-bare", f"{other}-bare")

    def send(self, index: int, wish: Wish, qos: int) -> None:
        """See `End.send`."""
        whole = self._outgoing(index, wish, qos)
        for piece in fragments(whole.header, whole.values, whole.origin):
            number = next(self._parcels)
            parcel = Parcel(0, number, number, 0, False, (piece.header,))
            self.links.data.publish(self._topic, pack_parcel(parcel, (piece.body,)), qos=qos)


class PlainEnd:
    """paho as most people write it: the tensor's bytes as one message, everything else left as it is."""

    def __init__(self, address: BrokerAddress, name: str, other: str) -> None:
        self._topic = f"plain/{other}"
        self._payloads = make_payloads()
        self._arrived: queue.SimpleQueue[MQTTMessage] = queue.SimpleQueue()
        self._client = Client(CallbackAPIVersion.VERSION2, f"plain-{name}")
        subscribed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._client.on_message = lambda client, userdata, message: self._arrived.put(message)
        self._client.on_connect = lambda client, *rest: client.subscribe(f"plain/{name}/+/+/+", 1)
        self._client.on_subscribe = lambda *rest: subscribed.put(None)
        self._client.connect(address.host, address.port)
        self._client.loop_start()
        try:
            subscribed.get(timeout=TIMEOUT)
        except queue.Empty:
            raise BrokerError(f"no answer from {address} in {TIMEOUT:g} s; is the machine busy?") from None

    def send(self, index: int, wish: Wish, qos: int) -> None:
        """See `End.send`."""
        self._client.publish(f"{self._topic}/{index}/{wish}/{qos}", self._payloads[index].tobytes(), qos)

    def receive(self, timeout: float) -> Arrived | None:
        """See `End.receive`."""
        try:
            message = self._arrived.get(timeout=timeout)
        except queue.Empty:
            return None
        number, wish, qos = message.topic.split("/")[2:]
        index = int(number)
        values = np.frombuffer(message.payload, np.float32).reshape(self._payloads[index].shape)
        return Arrived(index, _wish(wish), int(qos), values)

    def close(self) -> None:
        """See `End.close`."""
        self._client.disconnect()
        self._client.loop_stop()


MqttEnd: TypeAlias = OurEnd | PlainEnd


class TcpEnd:
    """A socket whose other end a relay holds; every payload is received into a fresh array, as a tensor has to be."""

    HEADER = struct.Struct("<BBB")

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._payloads = make_payloads()

    def send(self, index: int, wish: Wish, qos: int) -> None:
        """See `End.send`."""
        header, body = self.HEADER.pack(index, WISHES.index(wish), qos), self._payloads[index].data.cast("B")
        if len(body) < 65536:
            self._sock.sendall(header + body)
        else:
            self._sock.sendall(header)
            self._sock.sendall(body)

    def receive(self, timeout: float) -> Arrived | None:
        """See `End.receive`."""
        self._sock.settimeout(timeout)
        header = bytearray(self.HEADER.size)
        try:
            self._fill(memoryview(header)[:1])
        except TimeoutError:
            return None
        self._sock.settimeout(TIMEOUT)
        self._fill(memoryview(header)[1:])
        index, wish, qos = self.HEADER.unpack(header)
        values = np.empty_like(self._payloads[index])
        self._fill(values.data.cast("B"))
        return Arrived(index, WISHES[wish], qos, values)

    def _fill(self, view: memoryview) -> None:
        while view:
            size = self._sock.recv_into(view)
            if size == 0:
                raise BrokerError("the relay closed its connection; run the bench again")
            view = view[size:]

    def close(self) -> None:
        """See `End.close`."""
        self._sock.close()


def _wish(text: str) -> Wish:
    return next(wish for wish in WISHES if wish == text)
