"""A group that things are done to: broker, orchestrator and agents as processes, one agent's link through a proxy."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from legion_iot.bench.faults.brokers import Broker, broker_here
from legion_iot.bench.faults.client import Client
from legion_iot.bench.faults.network import Work
from legion_iot.bench.faults.programs import Figures, Program, figures
from legion_iot.errors import AgentError
from legion_iot.interruption import uninterrupted
from legion_iot.lab.proxy import Proxy
from legion_iot.lab.spec import Link
from legion_iot.transport.connection import BrokerAddress, Message
from legion_iot.transport.retained import read_retained
from legion_iot.wire import codec
from legion_iot.wire.messages import Assignment
from legion_iot.wire.topics import AssignmentTopic, Topics

AGENTS = ("ant", "bee", "cat")
GUEST = "dog"  # who comes later
FAR = AGENTS[-1]  # whose link goes through the proxy
# Slower than the machine, so that all together leave it something, and a request takes a while.
CPU_SHARE = 0.03
READY_TIMEOUT = 90.0  # seconds


@dataclass(slots=True)
class Group:
    """What a fault can be done to."""

    title: str
    directory: Path
    topics: Topics
    work: Work
    broker: Broker
    proxy: Proxy
    port: int  # of the proxy
    orchestrator: Program
    agents: dict[str, Program]
    client: Client
    new_agent: Callable[[str, Path], Program]

    @property
    def processes(self) -> dict[str, int]:
        """Process ids by name."""
        programs = [self.orchestrator, *self.agents.values()]
        return {"broker": self.broker.pid, **{each.name: each.pid for each in programs}}

    def figures(self) -> dict[str, Figures]:
        return {name: figures(pid) for name, pid in self.processes.items()}

    def serves(self, agents: set[str]) -> bool:
        """Whether a plan for just these agents is in force."""
        state, model = self.client.state, self.client.model
        return state is not None and model is not None and state.state == "serving" and set(model.agents) == agents

    def wait_until_whole(self) -> None:
        """Until a plan for all agents is in force; raises AgentError."""
        names = set(self.agents)
        if not self.client.wait_for(lambda: self.serves(names), READY_TIMEOUT):
            for program in (self.orchestrator, *self.agents.values()):
                program.check()
            state = self.client.state
            said = f"{state.state}: {state.detail}" if state else "the orchestrator says nothing"
            raise AgentError(f"the group did not come together within {READY_TIMEOUT:g} s ({said})")

    def retained(self) -> list[Message]:
        """All that the broker retains of the group."""
        address = self.broker.address
        return read_retained(address, f"{self.topics.base}-check-{secrets.token_hex(2)}", [f"{self.topics.base}/#"])

    def orphans(self) -> list[str]:
        """Topics of retained assignments that are of no plan in force."""
        epoch = self.client.model.epoch if self.client.model else 0
        found = []
        for message in self.retained():
            with contextlib.suppress(Exception):
                place = self.topics.parse(message.topic)
                if isinstance(place, AssignmentTopic):
                    assignment = codec.from_json(Assignment, message.payload)
                    if assignment.steps and assignment.epoch != epoch:
                        found.append(message.topic)
        return found


@contextlib.contextmanager
def running_group(work: Work, directory: Path, persistent: bool) -> Iterator[Group]:
    """A group that serves, inside `with`; raises BrokerError or AgentError."""
    topics = Topics(f"legion-faults-{secrets.token_hex(4)}")
    with contextlib.ExitStack() as stack:
        # That our own connections are cut again and again is what we are here for.
        transport = logging.getLogger("legion_iot.transport")
        stack.callback(transport.setLevel, transport.level)
        transport.setLevel(logging.CRITICAL)
        broker, title = broker_here(persistent)
        stack.enter_context(broker)
        proxy = Proxy()
        (port,) = proxy.add(Link(), "127.0.0.1", [(broker.address.host, broker.address.port)])
        stack.enter_context(proxy)
        lifeline, held = os.pipe()
        stack.callback(os.close, lifeline)
        os.set_inheritable(held, False)

        def new_agent(name: str, place: Path) -> Program:
            address = BrokerAddress("127.0.0.1", port) if name == FAR else broker.address
            arguments = [
                "legion_iot_agent.main", "--name", name, "--base-topic", topics.base, "--broker", str(address),
                "--state-dir", str(place), "--config", os.devnull, "--cpu-share", str(CPU_SHARE), "--verbose",
                "--until-stdin-closes",
            ]  # fmt: skip
            return Program(name, arguments, directory / f"{name}.log", lifeline)

        agents = {name: new_agent(name, directory / name) for name in AGENTS}
        state = directory / "orchestrator"
        state.mkdir()
        orchestrator = Program("orchestrator", [
            "legion_iot.cli", "orchestrator", "run", str(work.model), "--broker", str(broker.address),
            "--agents", str(len(agents)), "--base-topic", topics.base, "--planner", "balanced",
            "--state-dir", str(state), "--config", os.devnull,
        ], directory / "orchestrator.log", lifeline)  # fmt: skip
        client = stack.enter_context(Client(broker.address, topics, work))
        group = Group(
            title, directory, topics, work, broker, proxy, port, orchestrator, agents, client, new_agent
        )  # fmt: skip
        stack.callback(_end, group, held)
        with uninterrupted() as interruptible:
            for program in (orchestrator, *agents.values()):
                program.start()
            with interruptible():
                group.wait_until_whole()
                yield group


def _end(group: Group, held: int) -> None:
    """By force, what has not been ended in order."""
    os.close(held)
    for program in (group.orchestrator, *group.agents.values()):
        program.kill()


def settle(group: Group, seconds: float) -> None:
    """Wait, as long as everybody lives; raises AgentError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for program in (group.orchestrator, *group.agents.values()):
            program.check()
        time.sleep(0.1)
