"""Tells Home Assistant of the group, where that is wanted, and takes it back where it is not wanted any more.

Theory. Which messages are retained, the broker knows best: they are read at the start, so that what an orchestrator
before this one has said is not forgotten. Only where it was said, the state directory has to know: once the setting is
gone, nobody else does. An agent is removed when what it had retained is cleared, not when it is merely offline. Home
Assistant's birth may reach many programs at once, so each answers a moment later, at random.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from legion_iot.errors import BrokerError, ProtocolError
from legion_iot.files import replace_file
from legion_iot.orchestrator.home_assistant_devices import Discovery
from legion_iot.orchestrator.serving import EndedRequest
from legion_iot.transport.connection import BrokerAddress, Connected, Disconnected, Message, Refused, TransportEvent
from legion_iot.transport.matching import matches
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.retained import read_retained
from legion_iot.wire import codec
from legion_iot.wire.group import GroupMetrics, PlanInfo
from legion_iot.wire.home_assistant import BIRTH, DiscoveryTopics
from legion_iot.wire.messages import AgentState
from legion_iot.wire.topics import AgentTopic, Topics

log = logging.getLogger("legion-orchestrator")

OPEN_TIMEOUT = 10.0  # seconds
FLUSH_TIMEOUT = 10.0
JITTER = 2.0  # seconds after Home Assistant's birth, at most, beside the time until the next metrics
MOST_EVENTS = 4096  # that wait to be looked at
NOTES = "home-assistant.json"  # in the state directory


@dataclass(frozen=True, slots=True)
class Place:
    """Where devices were announced: a broker's endpoint, a group's base topic, a discovery prefix."""

    broker: str
    base_topic: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Notes:
    """All places where devices may be announced still."""

    places: tuple[Place, ...] = ()


class HomeAssistant:
    """A `Watcher` that announces the group's devices below a discovery prefix, over a connection of its own."""

    def __init__(
        self,
        address: BrokerAddress,
        base_topic: str,
        prefix: str,
        directory: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address, self._directory, self._clock = address, directory, clock
        self._topics, self._places = Topics(base_topic), DiscoveryTopics(base_topic, prefix)
        self._discovery = Discovery(self._topics, self._places)
        self._events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self._connection = PahoConnection(address, _client_id(base_topic), self._on_event)
        self._again_at: float | None = None  # when all of it is said once more
        self._was_cut = self._is_refused = False

    def start(self) -> None:
        """Find what is announced already, and begin to listen; raises BrokerError, InputError."""
        base = self._topics.base
        settle(self._directory, self._address, base, self._places.prefix)
        announced, states = self._places.device("+"), self._topics.agent("+", "state")
        retained = read_retained(self._address, _client_id(base), [announced, states])
        messages = {each.topic: each.payload for each in retained if matches(announced, each.topic)}
        agents = {agent for each in retained if (agent := self._agent(each.topic))}
        stale = self._discovery.found(messages, agents)
        self._connection.open(OPEN_TIMEOUT)
        self._connection.subscribe([(self._places.status(), 1), (states, 1)])
        for topic in stale:
            self._publish(topic, b"")

    def metrics(self, metrics: GroupMetrics) -> None:
        """Announce what is new, and all of it where somebody may have missed it."""
        while not self._events.empty():
            self._take(self._events.get())
        for topic, payload in self._discovery.changes(metrics):
            self._publish(topic, payload)
        if self._again_at is not None and self._clock() >= self._again_at:
            self._again_at = None
            for topic, payload in self._discovery.everything():
                self._publish(topic, payload)

    def planned(self, plan: PlanInfo) -> None:
        """Nothing is announced of plans."""

    def ended(self, ended: EndedRequest) -> None:
        """Home Assistant reads results as anybody does; that a model answers with pictures, it is told."""
        if ended.result.kind == "image":
            self._discovery.pictured(ended.result.model)

    def close(self) -> None:
        """End the connection; devices stay, and are shown as not available."""
        self._connection.close()

    def _on_event(self, event: TransportEvent) -> None:
        if self._events.qsize() < MOST_EVENTS:  # between two metrics; more is a flood
            self._events.put(event)

    def _take(self, event: TransportEvent) -> None:
        match event:
            case Disconnected():
                self._was_cut = True
            case Connected() if self._was_cut:  # a broker that was restarted may have lost it
                self._again_at = self._clock()
            case Refused(error=error):
                self._is_refused = True
                log.warning("Home Assistant is told no more: %s", error)
            case Message(topic=topic, payload=payload) if topic == self._places.status():
                if payload == BIRTH:
                    self._again_at = self._clock() + random.uniform(0, JITTER)
            case Message(topic=topic, payload=payload) if agent := self._agent(topic):
                self._see(agent, payload)

    def _see(self, agent: str, payload: bytes) -> None:
        """What an agent retains of its state, on the one connection, so that its coming and going keep their order."""
        if not payload:
            if (topic := self._discovery.removed(agent)) is not None:
                self._publish(topic, b"")
            return
        with contextlib.suppress(ProtocolError):  # which the orchestrator itself will log
            if codec.from_json(AgentState, payload).is_present:
                self._discovery.returned(agent)

    def _agent(self, topic: str) -> str:
        """The agent whose topic it is, or an empty text."""
        with contextlib.suppress(ProtocolError):
            parsed = self._topics.parse(topic)
            if isinstance(parsed, AgentTopic):
                return parsed.agent
        return ""

    def _publish(self, topic: str, payload: bytes) -> None:
        """Retain it; what cannot be sent now is new again the next time."""
        if self._is_refused:
            return
        try:
            self._connection.publish(topic, payload, retain=True)
        except BrokerError as error:
            log.warning("Home Assistant is not told of %s: %s", topic, error)
            return
        self._discovery.said(topic, payload)


def settle(directory: Path, address: BrokerAddress, base_topic: str, prefix: str | None) -> int:
    """Take back what is announced of this group below other prefixes than this one, if any; how many devices.

    Raises BrokerError, and then does so the next time.
    """
    notes = read_notes(directory)
    place = None if prefix is None else Place(address.endpoint, base_topic, prefix)
    former = [
        each
        for each in notes.places
        if (each.broker, each.base_topic) == (address.endpoint, base_topic) and each != place
    ]
    count = sum(withdraw(address, DiscoveryTopics(base_topic, each.prefix)) for each in former)
    kept = tuple(each for each in notes.places if each not in former)
    if place is not None and place not in kept:
        kept = (*kept, place)
    if kept != notes.places:
        with contextlib.suppress(OSError):  # a disk that is full: what is announced stays, once the setting is gone
            directory.mkdir(parents=True, exist_ok=True)
            replace_file(directory / NOTES, codec.to_json(Notes(kept)))
    return count


def read_notes(directory: Path) -> Notes:
    """Where devices may be announced, as far as that can be read."""
    with contextlib.suppress(OSError, ProtocolError):
        return codec.from_json(Notes, (directory / NOTES).read_bytes())
    return Notes()


def withdraw(address: BrokerAddress, places: DiscoveryTopics) -> int:
    """Clear all devices that are announced of a group; how many. Raises BrokerError."""
    client_id = _client_id(places.base)
    announced = read_retained(address, client_id, [places.device("+")])
    if announced:
        connection = PahoConnection(address, client_id, lambda event: None)
        connection.open(OPEN_TIMEOUT)
        try:
            for message in announced:
                connection.publish(message.topic, b"", retain=True)
            if not connection.flush(FLUSH_TIMEOUT):
                raise BrokerError(f"{address.endpoint} did not take back what Home Assistant was told")
        finally:
            connection.close()
    return len(announced)


def _client_id(base_topic: str) -> str:
    return f"legion-orchestrator-{base_topic.replace('/', '-')}-home-assistant-{secrets.token_hex(4)}"
