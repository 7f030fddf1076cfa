"""The group's devices are where Home Assistant looks for them, and go when they shall: on both brokers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from legion_iot.errors import BrokerError
from legion_iot.orchestrator.home_assistant import JITTER, NOTES, HomeAssistant, read_notes, settle
from legion_iot.orchestrator.serving import EndedRequest
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.retained import read_retained
from legion_iot.wire import codec
from legion_iot.wire.group import AgentMetrics, GroupMetrics, ModelMetrics
from legion_iot.wire.messages import AgentState, Result
from legion_iot_broker.embedded import EmbeddedBroker
from legion_iot_broker.launch import local_broker
from tests.orchestrator.home_assistant import read_device
from tests.transport.conftest import require_mosquitto

PATIENCE = 30.0
DEVICES = "homeassistant/device/legion"
GROUP, ANT, BEE = (f"{DEVICES}/{name}/config" for name in ("group", "agent-ant", "agent-bee"))


def group(*agents: str) -> GroupMetrics:
    return GroupMetrics("s", 1.0, 0, tuple(AgentMetrics(agent, "online") for agent in agents), ())


class Home:
    """A client that reads all, and plays Home Assistant and agents; and a clock that runs fast."""

    def __init__(self, address: BrokerAddress, directory: Path) -> None:
        self.address, self.directory = address, directory
        self.heard: list[str] = []  # topics of devices, as they are published
        self._time = 0.0
        self.connection = PahoConnection(address, "home", self._take)
        self.connection.open(PATIENCE)
        self.connection.subscribe([(f"{DEVICES}/+/config", 1)])

    def _take(self, event: TransportEvent) -> None:
        if isinstance(event, Message) and event.payload:
            self.heard.append(event.topic)

    def _clock(self) -> float:
        self._time += 2 * JITTER
        return self._time

    def watcher(self, prefix: str = "homeassistant") -> HomeAssistant:
        made = HomeAssistant(self.address, "legion", prefix, self.directory, self._clock)
        made.start()
        return made

    def say(self, topic: str, payload: bytes, retain: bool = True) -> None:
        self.connection.publish(topic, payload, retain=retain)
        assert self.connection.flush(PATIENCE)

    def agent(self, name: str, state: str) -> None:
        """An agent says how it is; an empty state clears it, as removing the agent does."""
        self.say(f"legion/agents/{name}/state", codec.to_json(AgentState(state, "s")) if state else b"")

    def devices(self, prefix: str = "homeassistant") -> list[str]:
        """Topics of all devices that are retained, each of them sound."""
        retained = read_retained(self.address, "reader", [f"{prefix}/device/legion/+/config"])
        for message in retained:
            read_device(message.payload)
        return sorted(message.topic for message in retained)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(params=["embedded", "mosquitto"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    if request.param == "mosquitto":
        require_mosquitto()
    with local_broker(request.param) as running:
        made = Home(running.address, tmp_path)
        yield made
        made.connection.close()


def test_devices_are_announced_and_said_again_when_home_assistant_is_born(home: Home) -> None:
    watcher = home.watcher()
    watcher.metrics(group("ant", "bee"))
    until(lambda: home.devices() == sorted([GROUP, ANT, BEE]))
    until(lambda: len(home.heard) == 3)

    def are_said_again() -> bool:
        watcher.metrics(group("ant", "bee"))
        return sorted(home.heard[3:6]) == sorted([GROUP, ANT, BEE])

    home.say("homeassistant/status", b"offline", retain=False)
    home.say("homeassistant/status", b"online", retain=False)
    until(are_said_again)
    watcher.close()
    assert home.devices() == sorted([GROUP, ANT, BEE])  # which are not available now


def test_an_agent_that_is_removed_goes_and_one_that_comes_back_is_there_again(home: Home) -> None:
    for agent in ("ant", "bee"):
        home.agent(agent, "online")
    watcher = home.watcher()

    def are(*expected: str) -> Callable[[], bool]:
        def found() -> bool:
            watcher.metrics(group("ant", "bee"))  # the orchestrator itself forgets no agent while it runs
            return home.devices() == sorted(expected)

        return found

    until(are(GROUP, ANT, BEE))
    home.agent("bee", "offline")
    home.agent("bee", "")
    until(are(GROUP, ANT))
    home.agent("bee", "online")
    until(are(GROUP, ANT, BEE))
    watcher.close()
    home.agent("ant", "")  # while nobody looks
    again = home.watcher()
    until(lambda: home.devices() == sorted([GROUP, BEE]))
    again.close()


def test_a_model_that_answers_with_a_picture_gets_a_place_for_it(home: Home) -> None:
    served = ModelMetrics("edges", "0" * 64, "serving", "", 1, "auto", "latency", "float32")
    watcher = home.watcher()
    for kind in ("classes", "image"):
        watcher.ended(EndedRequest(Result("r", True, "edges", 1, 5.0, kind=kind), None, ()))
        watcher.metrics(GroupMetrics("s", 1.0, 0, (), (served,)))
        watcher._connection.flush(PATIENCE)
        (message,) = read_retained(home.address, "reader", [GROUP])
        assert ("model-edges-picture" in read_device(message.payload)["components"]) == (kind == "image")
    watcher.close()


def test_what_is_not_wanted_any_more_is_taken_back(home: Home) -> None:
    other = BrokerAddress("elsewhere.invalid", 1883)
    with pytest.raises(BrokerError):
        HomeAssistant(other, "legion", "homeassistant", home.directory).start()
    assert len(read_notes(home.directory).places) == 1
    for prefix, before in (("homeassistant", ""), ("ha", "homeassistant")):
        home.agent("ant", "online")
        watcher = home.watcher(prefix)
        assert before == "" or home.devices(before) == []
        watcher.metrics(group("ant"))
        watcher.close()
        assert len(home.devices(prefix)) == 2
    home.say("homeassistant/device/other/group/config", b"{}")
    assert settle(home.directory, home.address, "other", None) == 0
    assert settle(home.directory, home.address, "legion", None) == 2
    assert home.devices("ha") == []
    assert settle(home.directory, home.address, "legion", None) == 0
    assert [place.broker for place in read_notes(home.directory).places] == [other.endpoint]
    assert len(read_retained(home.address, "reader", ["homeassistant/device/other/group/config"])) == 1


def test_notes_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    (tmp_path / NOTES).write_text("{", encoding="utf-8")
    assert settle(tmp_path, BrokerAddress("elsewhere.invalid", 1883), "legion", None) == 0


def test_a_broker_that_has_lost_all_is_told_again(tmp_path: Path) -> None:
    broker = EmbeddedBroker(port=0)
    broker.start()
    watcher = HomeAssistant(broker.address, "legion", "homeassistant", tmp_path)
    watcher.start()
    watcher.metrics(group("ant"))
    port = broker.address.port
    broker.stop()
    broker = EmbeddedBroker(port=port)
    broker.start()

    def announced() -> bool:
        watcher.metrics(group("ant"))
        return len(read_retained(broker.address, "reader", [f"{DEVICES}/+/config"])) == 2

    until(announced)
    watcher.close()
    broker.stop()
