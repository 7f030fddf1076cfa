"""What programs have in common that ask the orchestrator of a group: a connection, and what is known of its other end.

Theory. Whether an orchestrator is there is retained: who asks in vain is told so at once, and does not wait for an
answer that cannot come.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NoReturn, TypeVar

from legion_iot.errors import BrokerError, RequestError
from legion_iot.transport.connection import (
    BrokerAddress,
    Connected,
    Connection,
    Disconnected,
    EventHandler,
    Message,
    Refused,
    TransportEvent,
)
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import OrchestratorState
from legion_iot.wire.topics import Topics

Progress = Callable[[str, float | None], None]
Connect = Callable[[BrokerAddress, str, EventHandler], Connection]
_Self = TypeVar("_Self", bound="Asking")

OPEN_TIMEOUT = 10.0  # seconds
ABSENT = 3.0  # seconds without an answer, where no orchestrator says that it is there


class Asking:
    """A connection of who asks; use it in `with`. Raises BrokerError where the broker cannot be used.

    `heard` are the topics to listen on, below `base_topic`, beside the orchestrator's state.
    """

    def __init__(
        self,
        address: BrokerAddress,
        base_topic: str,
        client_id: str,
        heard: Callable[[Topics], Sequence[str]],
        connect: Connect = PahoConnection,
    ) -> None:
        self._address, self.topics = address, Topics(base_topic)
        self._events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self._connection = connect(address, client_id, self._events.put)
        self._heard = [self.topics.orchestrator_state(), *heard(self.topics)]
        self._state = OrchestratorState("", "")  # as far as an orchestrator has said it
        self._linked = False

    def __enter__(self: _Self) -> _Self:
        self._connection.open(OPEN_TIMEOUT)
        try:
            self._next(time.monotonic() + OPEN_TIMEOUT)  # Connected
            self._connection.subscribe([(topic, 1) for topic in self._heard])
        except BaseException:
            self._connection.abort()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error, nothing that still waits is worth waiting for.
        self._connection.close() if kind is None else self._connection.abort()

    @property
    def _absent(self) -> bool:
        """Whether no orchestrator says that it is there."""
        return self._state.state in ("", "offline")

    def _next(self, deadline: float) -> TransportEvent | None:
        """The next event, None when it is too late; takes note of what it tells of link and orchestrator."""
        try:
            event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        match event:
            case Refused(error=error):
                raise error
            case Connected() | Disconnected():
                self._linked = isinstance(event, Connected)
            case Message(topic=topic, payload=payload) if topic == self.topics.orchestrator_state():
                none = OrchestratorState("", "")
                self._state = codec.from_json(OrchestratorState, payload) if payload else none
        return event

    def _give_up(self) -> NoReturn:
        """Say why there is no answer; raises BrokerError or RequestError."""
        if not self._linked:
            raise BrokerError(f"the link to {self._address} is cut; look at the broker, then run this again to go on")
        where = f"below {self.topics.base!r} at {self._address}"
        if self._absent:
            raise RequestError(f"no orchestrator is online {where}; start one with: legion orchestrator run")
        raise RequestError(f"the orchestrator {where} is {self._state.state} and does not answer; look at what it logs")
