"""What the group sees of an agent: its state, under a name that is its own, and its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from legion_iot.errors import NameTakenError
from legion_iot.runtime.name_claim import NameClaim, Next
from legion_iot.transport.pair import ConnectionPair
from legion_iot.wire import codec
from legion_iot.wire.messages import AgentState, Metrics
from legion_iot.wire.topics import Topics
from legion_iot_agent.condition import Degradation, Device

METRICS_SECONDS = 2.0


@dataclass(slots=True)
class Work:
    """What the agent has done in this session."""

    tiles: int = 0
    computing: float = 0.0  # seconds
    dropped: int = 0  # messages


def last_words(session: str) -> bytes:
    """What is to be retained when the agent is gone."""
    return codec.to_json(AgentState("offline", session))


class Presence:
    """Tells the group of one session of an agent, on the loop's thread.

    `announce_more` publishes what else is retained of the agent. Whatever takes in an event of the control connection
    raises NameTakenError when another agent has taken the name.
    """

    def __init__(
        self,
        links: ConnectionPair,
        topics: Topics,
        name: str,
        session: str,
        device: Device,
        announce_more: Callable[[], None],
    ) -> None:
        self._links, self._name, self._session, self._device = links, name, session, device
        self._topic, self._metrics_topic = topics.agent(name, "state"), topics.agent(name, "metrics")
        self._announce_more = announce_more
        self._claim = NameClaim(session)
        self._degradation = Degradation()
        self._began = self._told = time.monotonic()
        self.drains = False  # set by any thread
        self._drain_told = False

    def connected(self) -> None:
        """The control connection is up."""
        self._do(self._claim.connected())

    def disconnected(self) -> None:
        """The control connection is down."""
        self._claim.disconnected()

    def seen(self, payload: bytes, retained: bool) -> None:
        """What somebody, ourselves perhaps, retains as the state of the agent of this name; empty where it is cleared.

        Raises ProtocolError where it cannot be read.
        """
        if payload:
            state = codec.from_json(AgentState, payload)
            self._do(self._claim.seen(state.session, state.is_present, retained))

    def leave(self) -> None:
        """Say goodbye, unless the name is somebody else's; raises BrokerError where that cannot be sent."""
        if self._claim.held:
            self._links.control.publish(self._topic, last_words(self._session), retain=True)

    def turn(self, work: Work, memory_limit: int) -> None:
        """Publish the metrics, when it is time, and the state, where that has changed."""
        if self.drains and not self._drain_told and self._claim.held:
            self._announce_state()
        now = time.monotonic()
        if now - self._told < METRICS_SECONDS:
            return
        self._told = now
        readings = self._device.read()
        if self._degradation.take(readings.problems) and self._claim.held:
            self._announce_state()
        sent, received = self._links.traffic
        metrics = Metrics(
            session=self._session,
            uptime=round(now - self._began, 3),
            load=readings.load,
            temperature=readings.temperature,
            throttled=readings.throttled,
            memory_resident=readings.memory_resident,
            memory_limit=memory_limit,
            tiles=work.tiles,
            computing=round(work.computing, 6),
            bytes_sent=sent,
            bytes_received=received,
            dropped=work.dropped,
        )
        self._links.control.publish(self._metrics_topic, codec.to_json(metrics), qos=0)

    def _do(self, what: Next) -> None:
        match what:
            case Next.ANNOUNCE:
                self._announce_more()
                self._announce_state()
            case Next.GIVE_UP:
                raise NameTakenError(
                    f"another agent took the name {self._name!r}, so this one ends; give each a --name of its own"
                )

    def _announce_state(self) -> None:
        detail = self._degradation.detail
        self._drain_told = self.drains
        kind = "draining" if self.drains else "degraded" if detail else "online"
        state = AgentState(kind, self._session, detail)
        self._links.control.publish(self._topic, codec.to_json(state), retain=True)
        self._claim.announced()
