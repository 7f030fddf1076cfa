"""One real orchestrator machine and many real agent machines in virtual time, over a broker that delays and repeats.

Everything said travels as bytes through `wire`. Invariants are checked after every step.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np

from legion_iot.model.blocks import Network
from legion_iot.planning.planners.balanced import balanced
from legion_iot.planning.problem import Objective, Planner
from legion_iot.planning.samples import Samples
from legion_iot.runtime import agent, orchestrator
from legion_iot.runtime.shared import Shared
from legion_iot.runtime.simulation.agenda import Agenda
from legion_iot.runtime.simulation.agent_process import AgentProcess, AgentStep, Kept
from legion_iot.runtime.simulation.behaviour import Behaviour
from legion_iot.runtime.simulation.broker import Broker, Line
from legion_iot.runtime.simulation.invariants import Requests, broken, hold
from legion_iot.runtime.simulation.oracle import Noise, Oracle, Worker
from legion_iot.runtime.simulation.orchestrator_process import OrchestratorProcess, OrchestratorStep, Said
from legion_iot.runtime.simulation.participant import TOPICS
from legion_iot.wire import codec
from legion_iot.wire.messages import Assignment, ModelReference
from legion_iot.wire.tensors import Array, as_map

FIRST_EPOCH = 100
GLANCE = 0.05  # seconds between two looks at what is waited for


class Group:
    """The orchestrator, its agents and their broker. `line` is what every participant's line is like at first.

    Agents compute with the oracle unless they are given another worker; answers are then those of `noise`.
    """

    def __init__(
        self,
        network: Network,
        *,
        seed: int = 0,
        content: bytes = bytes(range(256)) * 3000,
        model: ModelReference | None = None,
        line: Line | None = None,
        least_agents: int = 1,
        make_plan: orchestrator.MakePlan = balanced,
        planner: Planner | None = None,
        objective: Objective = "latency",
        samples: Samples | None = None,
        orchestrator_step: OrchestratorStep = orchestrator.step,
        agent_step: AgentStep = agent.step,
    ) -> None:
        self.network, self.content = network, content
        self.model = model or ModelReference("small", "ab" * 32, len(content))
        self.agenda = Agenda(seed)
        self.usual = line or Line()
        self.broker = Broker(self.agenda, self.usual)
        self.noise = Noise(network)
        self.requests, self.said, self.kept = Requests(), Said(), Kept()
        self.agents: dict[str, AgentProcess] = {}  # the newest of each name
        self.replaced: list[AgentProcess] = []
        self._agent_step = agent_step
        self._sessions, self._numbers = itertools.count(1), itertools.count(1)
        self._foreign: set[str] = set()  # requests whose answers the oracle does not know
        self._content, self._planner, self._orchestrator_step = content, planner, orchestrator_step
        self._new_state = functools.partial(
            orchestrator.State, network, self.model, least_agents, make_plan, objective=objective
        )
        shared = Shared(FIRST_EPOCH)
        shared.samples = samples or Samples()
        self.orchestrator = self._new_orchestrator(shared)

    def _new_orchestrator(self, shared: Shared) -> OrchestratorProcess:
        return OrchestratorProcess(
            self.agenda, self.broker, f"session-{next(self._sessions)}", self._new_state(shared=shared), self._content,
            self._planner, self.requests, self.said, self._ended, self._orchestrator_step,
        )  # fmt: skip

    def stop_orchestrator(self) -> None:
        """It is killed."""
        self.orchestrator.kill(will_after=0.0)

    def start_orchestrator(self) -> None:
        """Unless it runs: a new process, which answers what its journal says was open, and knows what was measured."""
        if self.orchestrator.alive:
            return
        for request in list(self.requests.open):
            reason = "the orchestrator was restarted before it had an answer; send the request again"
            restarted = orchestrator.RequestEnded(request, 0, 0.0, error="restarted", reason=reason)
            self.requests.end(restarted)
            self._ended(restarted)
        shared = Shared(1 + max(self.said.epochs, default=FIRST_EPOCH))
        shared.samples, shared.own_link = self.state.shared.samples, self.state.shared.own_link
        self.orchestrator = self._new_orchestrator(shared)

    @property
    def state(self) -> orchestrator.State:
        """All that the orchestrator remembers."""
        return self.orchestrator.state

    @property
    def ended(self) -> dict[str, orchestrator.RequestEnded]:
        """How each request has ended."""
        return self.requests.ended

    def start(self, name: str, behaviour: Behaviour | None = None, worker: Worker | None = None) -> AgentProcess:
        """A new process of an agent; of two that run under one name, one ends when it sees the other."""
        if (old := self.agents.get(name)) is not None:
            behaviour = behaviour or old.behaviour
            self.replaced.append(old)
        behaviour = behaviour or Behaviour()
        self.broker.line(name).cut = False
        self.agents[name] = AgentProcess(
            self.agenda, self.broker, self.kept, name, f"session-{next(self._sessions)}", self.model,
            behaviour, worker or Oracle(self.noise, behaviour), self._agent_step,
        )  # fmt: skip
        return self.agents[name]

    @property
    def processes(self) -> list[AgentProcess]:
        """All of agents that have not ended."""
        return [process for process in (*self.replaced, *self.agents.values()) if process.alive]

    def ask(self, inputs: tuple[Array, ...] | None = None) -> str:
        """Send a request, of the oracle's noise unless inputs are given; its name, empty where nobody takes it."""
        if not self.orchestrator.alive:
            return ""
        request = f"request-{next(self._numbers)}"
        if inputs is None:
            inputs = self.noise.input_arrays(request)
        else:
            self._foreign.add(request)
        self.requests.ask(request, self.agenda.now)
        self.orchestrator.request(request, inputs)
        return request

    def replan(self, *forgotten: str, own_link: bool = False) -> None:
        """Have the plan found anew, without what was measured on these agents, if the orchestrator is there."""
        if self.orchestrator.alive:
            self.orchestrator.replan(frozenset(forgotten), own_link=own_link)

    def run(self, seconds: float) -> None:
        """Let so much time go by."""
        self.agenda.run(self.agenda.now + seconds)

    def run_until(self, phase: str, limit: float = 60.0) -> None:
        """Go on until the phase is reached; raises BrokenInvariant after `limit` virtual seconds."""
        self.run_while(lambda: self.state.phase != phase, limit)

    def run_while(self, condition: Callable[[], bool], limit: float) -> None:
        """Go on as long as that holds; raises BrokenInvariant after `limit` virtual seconds."""
        end = self.agenda.now + limit
        while condition():
            if self.agenda.now >= end:
                raise broken("serves-again", f"still {self.state.phase} ({self.state.detail:.500}) after {limit:g} s")
            self.run(GLANCE)

    def check_answer(self, request: str) -> None:
        """Raises BrokenInvariant unless the request has been answered; that it is rightly is checked anyway."""
        hold(request in self.ended, "ends-in-time", f"{request} has not ended")
        ended = self.ended[request]
        hold(not ended.error, "right-answer", f"{request} has no answer: {ended.error}: {ended.reason}")

    def check_settled(self) -> None:
        """What has to hold when the group serves, and nothing happens to it."""
        for name, count in Counter(process.name for process in self.processes).items():
            hold(count == 1, "one-name", f"{count} agents are {name}")
        at_work = set(self.state.plan.agents) if self.state.plan is not None else set()
        for name in self.agents:
            payload = self.broker.retained.get(TOPICS.assignment(name, self.model.name))
            if payload is None or name in at_work:
                continue
            steps = codec.from_json(Assignment, payload).steps
            hold(not steps, "no-orphans", f"{name} is outside the plan, and is told to do {len(steps)} steps")

    def _ended(self, ended: orchestrator.RequestEnded) -> None:
        if not ended.error and ended.request not in self._foreign:
            self._check_answer(ended)
        self.noise.forget(ended.request)

    def _check_answer(self, ended: orchestrator.RequestEnded) -> None:
        graph, request = self.network.graph, ended.request
        way = self.said.ways.get(request, (0, 0))
        hold(len(ended.outputs) == len(graph.outputs), "right-answer", f"{request} has {len(ended.outputs)} outputs")
        for tensor, values in zip(graph.outputs, ended.outputs, strict=True):
            is_right = values.shape == graph.tensors[tensor].shape and (
                np.array_equal(as_map(values), self.noise.tensor(request, tensor, way))
                or (self.state.nan_allowed and bool(np.isnan(values).all()))
            )
            hold(is_right, "right-answer", f"{request}: output {tensor} is not that of epoch and attempt {way}")
