"""The ways a payload can go from one process to another, each as an `End` that both processes hold.

`OurEnd` is the project's own path, as agents use it: a `ConnectionPair`, fragments, and an `Exchange` that puts them
together. `PlainEnd` is paho as most people write it: whole messages, a 3.1.1 client with its defaults. `TcpEnd` is a
bare socket, through a relay of ours where a broker would stand.

A payload's wish says what the peer does when it has all of it: nothing, a short answer, or the same payload back.
"""

from __future__ import annotations

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
from legion_iot.transport.connection import BrokerAddress, Message, Will
from legion_iot.transport.paho import CallbackAPIVersion, Client, MQTTMessage
from legion_iot.transport.pair import ConnectionPair
from legion_iot.wire import codec
from legion_iot.wire.messages import Fragment, PeerRegion
from legion_iot.wire.tensors import INBOX, Array, bounds, fragment_buffers
from legion_iot.wire.topics import InboxTopic, Topics

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
    """The project's data path; `encoding` and `decoding` add up what fragments cost this thread, in CPU seconds."""

    def __init__(self, address: BrokerAddress, name: str, other: str) -> None:
        self._topics = Topics("bench")
        self._topic = self._topics.inbox(other, name)
        self._payloads = make_payloads()
        self._number = 0
        self.encoding = self.decoding = 0.0
        form = {0: TensorForm(CHANNELS, "float32")}
        self._exchanges = [
            Exchange(1, {step: {0: region}}, [PeerRegion(step, 0, bounds(region), other)], form)
            for step, region in enumerate(REGIONS)
        ]
        will = Will(self._topics.agent(name, "state"), b"gone", retain=False)
        self._links = ConnectionPair(address, f"bench-{name}", will, lambda reason: None)
        self._links.open([], [(self._topics.inbox(name, "+"), 1)])

    def send(self, index: int, wish: Wish, qos: int) -> None:
        """See `End.send`."""
        self._number += 1
        region, values = REGIONS[index], self._payloads[index]
        request = f"{self._number}-{wish}-{qos}"
        header = Fragment(request, 1, 1, index, 0, bounds(region), CHANNELS, "float32")
        before = time.thread_time()
        for payload in fragment_buffers(header, values, region):
            self.encoding += time.thread_time() - before
            self._links.data.publish(self._topic, payload, qos=qos)
            before = time.thread_time()

    def receive(self, timeout: float) -> Arrived | None:
        """See `End.receive`."""
        while (event := self._links.next(timeout)) is not None:
            if isinstance(event, Message) and (arrived := self._take(event)) is not None:
                return arrived
        return None

    def _take(self, message: Message) -> Arrived | None:
        before = time.thread_time()
        place = self._topics.parse(message.topic)
        header, body = codec.unpack(INBOX, message.payload)
        assert isinstance(place, InboxTopic)
        done = self._exchanges[header.step].put_fragment(place.sender, header, body)
        self.decoding += time.thread_time() - before
        if done is None:
            return None
        _, wish, qos = header.request.split("-")
        return Arrived(header.step, _wish(wish), int(qos), done[0])

    def close(self) -> None:
        """See `End.close`."""
        self._links.close()


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
