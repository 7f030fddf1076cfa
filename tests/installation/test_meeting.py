"""A new agent and its orchestrator, over a real broker; systemd is stood in for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from legion_iot.errors import AgentError, BrokerError
from legion_iot.installation import places, procedures, units
from legion_iot.installation.places import Service
from legion_iot.installation.procedures import Wanted, install
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import OrchestratorState
from legion_iot.wire.topics import Topics
from legion_iot_broker.launch import RunningBroker, local_broker


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with local_broker("embedded") as running:
        yield running


class Orchestrator:
    """Says what it is told to, as one would."""

    def __init__(self, broker: RunningBroker) -> None:
        self.connection = PahoConnection(broker.address, "orchestrator", lambda event: None)
        self.connection.open(10)

    def say(self, state: str, *agents: str) -> None:
        payload = codec.to_json(OrchestratorState(state, "ab" * 16, "2 of 3 agents online", agents))
        self.connection.publish(Topics().orchestrator_state(), payload, retain=True)
        assert self.connection.flush(10)


@pytest.fixture
def orchestrator(broker: RunningBroker) -> Iterator[Orchestrator]:
    made = Orchestrator(broker)
    yield made
    made.say("offline")
    made.connection.close()


class Systemd:
    """Takes the place of `Systemctl`; when the unit starts, `on_start` happens."""

    started = 0
    on_start = staticmethod(lambda: None)

    def __init__(self, service: Service) -> None:
        pass

    def check(self, booted: bool) -> None: ...
    def version(self) -> int:
        return 252

    def reload(self) -> None: ...
    def enable(self) -> None: ...
    def forget_failures(self) -> None: ...
    def restart(self) -> None:
        Systemd.started += 1
        Systemd.on_start()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(places, "ROOT", tmp_path)
    monkeypatch.setattr(procedures, "Systemctl", Systemd)
    monkeypatch.setattr(procedures, "check_rights", lambda service: None)
    monkeypatch.setattr(units, "check_visible", lambda program: None)
    Systemd.started, Systemd.on_start = 0, staticmethod(lambda: None)
    return tmp_path


def joined(here: Path, url: str) -> list[str]:
    said: list[str] = []
    values = {"broker": url, "name": "ant"}
    install(Wanted(Service("agent", here), None, values), said.append)
    return said


def test_it_waits_until_the_orchestrator_has_seen_it(
    here: Path, broker: RunningBroker, orchestrator: Orchestrator
) -> None:
    orchestrator.say("gathering", "bee")
    Systemd.on_start = staticmethod(lambda: orchestrator.say("gathering", "ant", "bee"))
    said = joined(here, str(broker.address))
    assert said[-1] == (
        "legion-agent.service runs, and the orchestrator has seen ant (gathering: 2 of 3 agents online)"
    )
    assert Systemd.started == 1


@pytest.mark.parametrize("state", ["offline", ""])
def test_it_says_when_there_is_no_orchestrator(
    here: Path, broker: RunningBroker, orchestrator: Orchestrator, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legion_iot.installation.meeting.RETAINED_SECONDS", 0.3)
    if state:
        orchestrator.say(state, "ant")
    assert "no orchestrator is online" in joined(here, str(broker.address))[-1]


def test_it_does_not_wait_for_ever(
    here: Path, broker: RunningBroker, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procedures, "SEEN_SECONDS", 0.3)
    orchestrator.say("serving", "bee")
    with pytest.raises(AgentError, match="has not seen ant within"):
        joined(here, str(broker.address))


def test_where_the_broker_is_not_there_nothing_is_written(here: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # taken, and nobody listens
        with pytest.raises(BrokerError):
            joined(here, f"mqtt://127.0.0.1:{reserved.getsockname()[1]}")
    assert [*here.iterdir()] == []
    assert Systemd.started == 0
