"""Whether a broker lets a member in, and whether the orchestrator has seen it: asked with the member's own rights."""

from __future__ import annotations

import contextlib
import queue
import secrets
import time
from collections.abc import Callable, Iterator

from legion_iot.errors import ProtocolError
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import OrchestratorState
from legion_iot.wire.topics import Topics

OPEN_TIMEOUT = 10.0  # seconds
RETAINED_SECONDS = 3.0  # within which a retained message has come


class OrchestratorWatch:
    """What the orchestrator says of itself, as it comes."""

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[OrchestratorState] = queue.SimpleQueue()
        self._latest: OrchestratorState | None = None

    def take(self, event: TransportEvent) -> None:
        """On the connection's thread."""
        if isinstance(event, Message) and event.payload:
            with contextlib.suppress(ProtocolError):  # of another version, or nobody's
                self._arrived.put(codec.from_json(OrchestratorState, event.payload))

    def is_online(self) -> bool:
        """Whether an orchestrator has said that it is there."""
        return self._wait(RETAINED_SECONDS, lambda state: True) and self._is_there()

    def has_seen(self, agent: str, seconds: float) -> bool:
        """Wait until the orchestrator says that it sees the agent."""
        return self._wait(seconds, lambda state: state.state != "offline" and agent in state.agents)

    @property
    def detail(self) -> str:
        """The latest word, for people."""
        return "" if self._latest is None else f"{self._latest.state}: {self._latest.detail}"

    def _is_there(self) -> bool:
        return self._latest is not None and self._latest.state != "offline"

    def _wait(self, seconds: float, wanted: Callable[[OrchestratorState], bool]) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            while not self._arrived.empty():
                self._latest = self._arrived.get()
            if self._latest is not None and wanted(self._latest):
                return True
            with contextlib.suppress(queue.Empty):
                self._latest = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
                continue
            return False


@contextlib.contextmanager
def watch(address: BrokerAddress, base_topic: str, name: str) -> Iterator[OrchestratorWatch]:
    """Be in touch with the broker inside `with`; raises BrokerError where it does not let us in."""
    watched = OrchestratorWatch()
    # Beside the member's own connections, which must not be taken over.
    connection = PahoConnection(address, f"legion-{name}-join-{secrets.token_hex(4)}", watched.take)
    connection.open(OPEN_TIMEOUT)
    try:
        connection.subscribe([(Topics(base_topic).orchestrator_state(), 1)])
        yield watched
    finally:
        connection.close()
