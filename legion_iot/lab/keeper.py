"""The process that holds a lab: broker, devices, their links; when it ends, all of it ends.

    python -m legion_iot.lab.keeper DIRECTORY

`request.json` in the directory says what is wanted, `state.json` what there is. It ends on SIGTERM, and, when it is
tied to whoever started it, with its standard input. If it is killed, its agents end by themselves with the pipe they
read from, and `legion_iot.lab.remains` removes the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import select
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from legion_iot.errors import AgentError, InputError, LegionError, ProtocolError, UsageError
from legion_iot.interruption import Interrupted, end_on_signals
from legion_iot.lab import cgroups, namespaces
from legion_iot.lab.processes import AgentProcess, AgentStart, agent_processes
from legion_iot.lab.proxy import Proxy
from legion_iot.lab.spec import Device, LabSpec, Link
from legion_iot.lab.state import DeviceState, LabState, Process, write_state
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import AgentState
from legion_iot.wire.topics import AgentTopic, Topics
from legion_iot_broker.launch import local_broker

REQUEST = "request.json"
ONLINE_TIMEOUT = 90.0  # seconds from the agents' start until all have said that they are there
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Request:
    """What a keeper is told: the lab, whether to do without root, and whether to end with its standard input."""

    kind: str
    spec: LabSpec
    rootless: bool
    tied: bool


def write_request(directory: Path, request: Request) -> None:
    """Raises OSError."""
    (directory / REQUEST).write_text(json.dumps(dataclasses.asdict(request)), encoding="utf-8")


def read_request(directory: Path) -> Request:
    """Raises InputError."""
    try:
        table = json.loads((directory / REQUEST).read_text(encoding="utf-8"))
        spec = table["spec"]
        devices = tuple(Device(**{**each, "link": Link(**each["link"])}) for each in spec["devices"])
        return Request(**{**table, "spec": LabSpec(**{**spec, "devices": devices})})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{directory / REQUEST}: missing or damaged ({error}); start the lab again") from None


class Keeper:
    """One lab from its making to its end."""

    def __init__(self, directory: Path, request: Request) -> None:
        self._directory = directory
        self._spec = request.spec
        self._rootless = request.rootless
        self._state = LabState(
            directory.name, request.kind, request.spec.name, request.spec.base_topic, Process.of(os.getpid())
        )
        self._proxy = Proxy()

    def tell(self, **changes: Any) -> None:
        """Change what is written down."""
        self._state = replace(self._state, **changes)
        with contextlib.suppress(FileNotFoundError):  # somebody cleans up after us already
            write_state(self._directory, self._state)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Make all of it; `stack` takes what has to be undone. Raises LegionError."""
        self.tell(detail="making the networks")
        network, groups = self._network(stack), self._groups(stack)
        host = network.hub_address if network else _LOOPBACK
        if network:
            stack.enter_context(network.at_hub())
        self.tell(detail="starting a broker")
        broker = stack.enter_context(local_broker(self._spec.broker, host=host, anonymous=True))
        meter = (host, _free_port(host))
        devices = [
            self._device(number, device, broker.address, meter, network, groups)
            for number, device in enumerate(self._spec.devices)
        ]
        self.tell(
            detail=f"starting {len(devices)} device{'s' if len(devices) > 1 else ''}",
            broker=str(broker.address),
            broker_kind=f"{broker.kind} {broker.version}",
            hub=network.hub if network else "",
            meter=_shown(meter),
        )
        stack.enter_context(self._proxy)
        starts = [_agent_start(each) for each in devices]
        agents = stack.enter_context(agent_processes(starts, self._spec.base_topic))
        for each, agent in zip(devices, agents, strict=True):
            cgroups.place(each.cgroups, agent.pid)
        states = tuple(
            replace(each, process=Process.of(agent.pid), log=str(agent.log))
            for each, agent in zip(devices, agents, strict=True)
        )
        self.tell(devices=states)
        self._wait_online(broker.address, agents)
        # How long a board takes to start Python is not emulated: the quota comes into force now.
        for each in devices:
            if each.cgroups:
                cgroups.limit_processor(each.cgroups, each.device.cpu_share)
        self.tell(phase="running", detail="")

    def hold(self, tied: bool) -> None:
        """Until standard input ends, if we are tied to it, or a signal comes; raises AgentError if the links fail."""
        while self._proxy.alive:
            readable, _, _ = select.select([0] if tied else [], [], [], 1.0)
            if readable and not os.read(0, 4096):
                return
        raise AgentError("the emulated links have failed; see the lab's log")

    def _network(self, stack: contextlib.ExitStack) -> namespaces.Network | None:
        reason = "" if os.geteuid() == 0 else "not root"
        if self._rootless or reason or (reason := namespaces.missing_tools()):
            self._without("links", reason or "asked to do without root")
            return None
        network = namespaces.Network(self._state.id)
        stack.callback(namespaces.remove_network, self._state.id)
        try:
            network.make()
        except UsageError as error:
            namespaces.remove_network(self._state.id)
            self._without("links", str(error))
            return None
        return network

    def _groups(self, stack: contextlib.ExitStack) -> cgroups.Hierarchies | None:
        if self._rootless or os.geteuid() != 0:
            self._without("processors", "asked to do without root" if self._rootless else "not root")
            return None
        stack.callback(cgroups.remove_groups, self._state.id)
        try:
            found = cgroups.find_hierarchies()
            cgroups.make_groups(found, self._state.id)
        except UsageError as error:
            self._without("processors", str(error))
            return None
        return found

    def _without(self, what: str, reason: str) -> None:
        self.tell(reasons=(*self._state.reasons, f"{what} not by the kernel: {reason}"))

    def _device(
        self,
        number: int,
        device: Device,
        broker: BrokerAddress,
        meter: tuple[str, int],
        network: namespaces.Network | None,
        groups: cgroups.Hierarchies | None,
    ) -> DeviceState:
        namespace = network.add(device.link) if network else ""
        rest, link_by = _left_to_proxy(device.link, network)
        ends = [(broker.host, broker.port), meter]
        if rest is not None:
            ends = [(meter[0], port) for port in self._proxy.add(rest, meter[0], ends, seed=number)]
        paths: tuple[str, ...] = ()
        if groups:
            paths = cgroups.make_device_group(groups, self._state.id, device.name, device.memory_mb)
        return DeviceState(
            device,
            str(BrokerAddress(*ends[0])),
            _shown(ends[1]),
            cpu_by=groups.name if groups else "throttle",
            link_by=link_by,
            memory_by="" if device.memory_mb is None else groups.name if groups else "not held",
            namespace=namespace,
            cgroups=paths,
        )

    def _wait_online(self, broker: BrokerAddress, agents: Sequence[AgentProcess]) -> None:
        """Until every agent has said that it is there; raises AgentError."""
        wanted = {agent.name for agent in agents}
        topics = Topics(self._spec.base_topic)
        said: queue.SimpleQueue[str] = queue.SimpleQueue()
        connection = PahoConnection(broker, f"legion-lab-{self._state.id}", lambda event: _online(topics, event, said))
        connection.open(15.0)
        try:
            connection.subscribe([(topics.agent("+", "state"), 1)])
            deadline = time.monotonic() + ONLINE_TIMEOUT
            while wanted:
                with contextlib.suppress(queue.Empty):
                    wanted.discard(said.get(timeout=0.1))
                for agent in agents:
                    agent.check()
                if time.monotonic() > deadline:
                    raise AgentError(f"{', '.join(sorted(wanted))} not online within {ONLINE_TIMEOUT:g} s; see its log")
        finally:
            connection.close()


def _online(topics: Topics, event: TransportEvent, said: queue.SimpleQueue[str]) -> None:
    if not isinstance(event, Message):
        return
    with contextlib.suppress(ProtocolError):
        topic, state = topics.parse(event.topic), codec.from_json(AgentState, event.payload)
        if isinstance(topic, AgentTopic) and state.is_present:
            said.put(topic.agent)


def _left_to_proxy(link: Link, network: namespaces.Network | None) -> tuple[Link | None, str]:
    """What of a link the kernel does not do, and who does what."""
    if network is None:
        return link, "proxy"
    if not (link.delay_ms or link.loss_percent):
        return None, "tc"
    if network.netem:
        return None, "tc with netem"
    return replace(link, up_mbit=None, down_mbit=None), "tc, delay and loss by proxy" if link.loss_percent else (
        "tc, delay by proxy"
    )


def _agent_start(state: DeviceState) -> AgentStart:
    device = state.device
    # In a network namespace, control groups cannot be seen: the agent is told of its quota.
    held = "--cpu-share" if state.cpu_by == "throttle" else "--cpu-quota"
    arguments = ["--threads", str(device.threads), "--board", device.board, held, str(device.cpu_share)]
    if device.memory_mb is not None:
        arguments += ["--memory-mb", str(device.memory_mb)]
    if not device.xnnpack:
        arguments.append("--no-xnnpack")
    return AgentStart(device.name, state.broker, tuple(arguments), namespaces.inside(state.namespace))


def _shown(endpoint: tuple[str, int]) -> str:
    return f"{endpoint[0]}:{endpoint[1]}"


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Hold the lab whose directory is the first argument."""
    end_on_signals()
    directory = Path(sys.argv[1])
    request = read_request(directory)
    keeper = Keeper(directory, request)
    try:
        with contextlib.ExitStack() as stack:
            keeper.start(stack)
            keeper.hold(request.tied)
    except LegionError as error:
        keeper.tell(phase="failed", detail=str(error), exit_code=error.exit_code)
        sys.exit(error.exit_code)
    except Interrupted:
        pass
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
