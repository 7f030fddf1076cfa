"""Where a demonstration's agents, orchestrator and client meet: at a broker of their own, of a lab, or a given one.

Whatever is started here ends with the `ExitStack` it was put on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from legion_iot.errors import BrokerError, ProtocolError, UsageError
from legion_iot.lab.identities import Identities
from legion_iot.lab.processes import Agent, AgentStart, agent_processes
from legion_iot.lab.running import LabAgent, running_lab
from legion_iot.lab.spec import LabSpec
from legion_iot.lab.state import LabState
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.retained import read_retained
from legion_iot.wire import codec
from legion_iot.wire.messages import AgentState, OrchestratorState
from legion_iot.wire.topics import AGENT_KINDS, AgentTopic, Topics
from legion_iot_broker.launch import RunningBroker, local_broker

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Meeting:
    """The broker as the orchestrator and as the client see it, how to call it on a screen, and the agents there."""

    orchestrator: BrokerAddress
    client: BrokerAddress
    title: str
    agents: Sequence[Agent]
    lab: LabState | None = None


def plain_agents(
    broker: str, count: int, model: str, topics: Topics, stack: contextlib.ExitStack, progress: Progress
) -> Meeting:
    """Agent processes at a broker without access rules: a URL's, or one of our own of that kind."""
    names = [f"agent-{number}" for number in range(1, count + 1)]
    address, title = _broker(broker, stack, progress)
    _check_reachable(address, topics)
    left = [topics.agent(name, kind) for name in names for kind in AGENT_KINDS]
    stack.callback(_clear_retained, address, topics, [*left, *_of_orchestrator(topics, names, model)])
    progress(f"starting {count} agent{'s' if count > 1 else ''}")
    starts = [AgentStart(name, str(address)) for name in names]
    return Meeting(address, address, title, stack.enter_context(agent_processes(starts, topics.base)))


def lab_devices(spec: LabSpec, topics: Topics, stack: contextlib.ExitStack, progress: Progress) -> Meeting:
    """The devices of a lab, at its broker."""
    lab = stack.enter_context(running_lab(replace(spec, base_topic=topics.base), "demo", progress))
    address = BrokerAddress.parse(lab.broker)
    return Meeting(address, address, lab.broker_kind, [LabAgent(each) for each in lab.devices], lab)


def identified_agents(
    identities: Identities, broker: str, model: str, topics: Topics, stack: contextlib.ExitStack, progress: Progress
) -> Meeting:
    """Agent processes at a broker with access rules, each with its own bundle; nobody else of the group may be there.

    `broker` is a URL in place of the bundles', or empty.
    """
    orchestrator, client = identities.orchestrator.address(broker), identities.client.address(broker)
    agents = [(bundle, bundle.address(broker)) for bundle in identities.agents]
    names = [bundle.name for bundle, _ in agents]
    _check_reachable(orchestrator, topics)
    _check_idle(orchestrator, client, topics)
    stack.callback(_clear_retained, orchestrator, topics, _of_orchestrator(topics, names, model))
    for bundle, address in agents:
        own = [topics.agent(bundle.name, kind) for kind in AGENT_KINDS if kind != "command"]
        stack.callback(_clear_retained, address, topics, own)
    progress(f"starting {len(names)} agent{'s' if len(names) > 1 else ''}")
    starts = [AgentStart(bundle.name, _url(address), ("--credentials", str(bundle.path))) for bundle, address in agents]
    processes = stack.enter_context(agent_processes(starts, topics.base))
    return Meeting(orchestrator, client, _url(orchestrator).removeprefix("mqtt://"), processes)


def _of_orchestrator(topics: Topics, agents: Sequence[str], model: str) -> list[str]:
    """What an orchestrator retains."""
    return [*(topics.assignment(name, model) for name in agents), topics.orchestrator_state(), topics.model(model)]


def _url(address: BrokerAddress) -> str:
    return str(BrokerAddress(address.host, address.port, tls=address.tls))


def _broker(wanted: str, stack: contextlib.ExitStack, progress: Progress) -> tuple[BrokerAddress, str]:
    """The broker's address, and how to call it on the screen."""
    kinds: dict[str, Literal["auto", "mosquitto", "embedded"]] = {
        "auto": "auto",
        "mosquitto": "mosquitto",
        "embedded": "embedded",
    }
    if wanted not in kinds:
        return BrokerAddress.parse(wanted), wanted.rpartition("@")[2].removeprefix("mqtt://")
    progress("starting a broker")
    running: RunningBroker = stack.enter_context(local_broker(kinds[wanted]))
    return running.address, f"{running.kind} {running.version}"


def _check_reachable(address: BrokerAddress, topics: Topics) -> None:
    """Raises BrokerError where the broker cannot be used, before agents are started only to find out the same."""
    connection = PahoConnection(address, f"{topics.base}-check", lambda event: None)
    connection.open(10.0)
    connection.close()


def _check_idle(orchestrator: BrokerAddress, client: BrokerAddress, topics: Topics) -> None:
    """Raises UsageError where the group is at work: the demonstration's orchestrator would push out the one there."""
    at_work: list[str] = []
    for message in read_retained(orchestrator, f"{topics.base}-check", [topics.agent("+", "state")]):
        place = topics.parse(message.topic)
        if isinstance(place, AgentTopic) and codec.from_json(AgentState, message.payload).is_present:
            at_work.append(place.agent)
    at_work.sort()
    for message in read_retained(client, f"{topics.base}-check", [topics.orchestrator_state()]):
        if codec.from_json(OrchestratorState, message.payload).state != "offline":
            at_work.append("the orchestrator")
    if at_work:
        raise UsageError(
            f"the group {topics.base!r} is at work ({', '.join(at_work)}): stop it, or make bundles of another group"
        )


def _clear_retained(address: BrokerAddress, topics: Topics, retained: Sequence[str]) -> None:
    """Leave nothing of the demo's group on a broker that goes on; called when all who retain are gone."""
    with contextlib.suppress(BrokerError, ProtocolError):  # the answer is had, or a better reason is on its way up
        connection = PahoConnection(address, f"{topics.base}-check", lambda event: None)
        connection.open(5.0)
        for topic in retained:
            connection.publish(topic, b"", retain=True)
        connection.close()
