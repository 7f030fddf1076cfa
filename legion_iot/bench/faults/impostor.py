"""A bad participant: on a broker without access rules, it speaks as another one and repeats what others have said."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from typing import Literal

import numpy as np

from legion_iot.bench.faults.network import NAME, Work
from legion_iot.errors import BrokerError, ProtocolError
from legion_iot.model.blocks import divide
from legion_iot.runtime.exchange import tensor_forms
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import Assignment, Fragment, Parcel
from legion_iot.wire.tensors import INBOX, fragments, open_parcel, pack_parcel, region_of
from legion_iot.wire.topics import ORCHESTRATOR, AssignmentTopic, InboxTopic, Topics

Kind = Literal["duplicate", "late", "nan", "malformed"]
LATE = 1.5  # seconds
MOST_LATE = 500  # messages that wait to be said again
OPEN_TIMEOUT = 15.0


class Impostor:
    """Active inside `with`; `sent` counts its messages.

    `duplicate`: every parcel once more as it is, and once as if it were new. `late`: the same, later. `nan` and
    `malformed`: as soon as `agent` gets an input, what it is to make of it is sent in its name, as NaN, or with twice
    the channels that it has.
    """

    def __init__(self, address: BrokerAddress, topics: Topics, work: Work, agent: str, kind: Kind) -> None:
        self.sent = 0
        self._topics, self._agent, self._kind = topics, agent, kind
        self._forms = tensor_forms(divide(work.graph))
        self._assignment: Assignment | None = None
        self._stream, self._numbers = secrets.randbits(47), dict[str, int]()
        self._said: set[int] = set()
        self._poisoned: set[tuple[str, int]] = set()
        self._late: deque[tuple[float, InboxTopic, bytes]] = deque(maxlen=MOST_LATE)
        self._ending = threading.Event()
        self._connection = PahoConnection(address, f"{topics.base}-impostor", self._on_event)
        self._thread = threading.Thread(target=self._run, name="impostor", daemon=True)

    def __enter__(self) -> Impostor:
        self._connection.open(OPEN_TIMEOUT)
        self._connection.subscribe([
            (self._topics.inbox("+", "+"), 0),
            (self._topics.inbox(ORCHESTRATOR, "+"), 0),
            (self._topics.assignment(self._agent, NAME), 1),
        ])  # fmt: skip
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._ending.wait(0.05):
            while self._late and self._late[0][0] <= time.monotonic():
                _, place, payload = self._late.popleft()
                self._say_again(place, payload)

    def _on_event(self, event: TransportEvent) -> None:
        if not isinstance(event, Message) or not event.payload:
            return
        try:
            match self._topics.parse(event.topic):
                case AssignmentTopic():
                    self._assignment = codec.from_json(Assignment, event.payload)
                case InboxTopic() as place if hash(event.payload) not in self._said:
                    self._heard(place, event.payload)
        except (ProtocolError, BrokerError):
            return  # nothing that could be said again, or too much waits already

    def _heard(self, place: InboxTopic, payload: bytes) -> None:
        if self._kind == "duplicate":
            self._say_again(place, payload)
        elif self._kind == "late":
            self._late.append((time.monotonic() + LATE, place, payload))
        elif place == InboxTopic(self._agent, ORCHESTRATOR):
            self._poison(payload)

    def _say_again(self, place: InboxTopic, payload: bytes) -> None:
        parcel, body = codec.unpack(INBOX, payload)
        topic = self._topics.inbox(place.owner, place.sender)
        self._publish(topic, payload)
        if isinstance(parcel, Parcel):
            bodies = [body for _, body in open_parcel(parcel, body)]
            self._publish(topic, self._parcel(topic, parcel.fragments, bodies))

    def _poison(self, payload: bytes) -> None:
        parcel, _ = codec.unpack(INBOX, payload)
        if not isinstance(parcel, Parcel) or self._assignment is None:
            return
        for given in parcel.fragments:
            if (given.request, given.attempt) not in self._poisoned and given.epoch == self._assignment.epoch:
                self._poisoned.add((given.request, given.attempt))
                self._send_poison(self._assignment, given)

    def _send_poison(self, assignment: Assignment, given: Fragment) -> None:
        for send in assignment.sends:
            form = self._forms[send.tensor]
            if send.peer == self._agent or form.dtype != "float32":
                continue
            region = region_of(send.region)
            channels = form.channels if self._kind == "nan" else 2 * form.channels
            values = np.full((len(region.rows), len(region.columns), channels), np.nan, np.float32)
            header = Fragment(
                given.request, given.attempt, given.epoch, send.step, send.tensor, send.region, channels, "float32"
            )
            topic = self._topics.inbox(send.peer, self._agent)
            for piece in fragments(header, values, region):
                self._publish(topic, self._parcel(topic, (piece.header,), [piece.body]))

    def _parcel(self, topic: str, headers: tuple[Fragment, ...], bodies: list[memoryview]) -> bytes:
        number = self._numbers[topic] = self._numbers.get(topic, -1) + 1
        parcel = Parcel(self._stream, number, number, 0, False, headers)
        return b"".join(pack_parcel(parcel, bodies))

    def _publish(self, topic: str, payload: bytes) -> None:
        self._said.add(hash(payload))
        self._connection.publish(topic, payload, qos=0)
        self.sent += 1
