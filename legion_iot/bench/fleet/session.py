"""One network on one running lab: plans found and put in force one after the other, and requests sent through them.

The orchestrator is in this process; agents and broker are processes of the lab; requests are published, and answers
heard, by a client as any other would be.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from legion_iot.bench.fleet import closed_loop
from legion_iot.bench.fleet.account import Account, Accountant, without_links
from legion_iot.bench.fleet.subject import Subject
from legion_iot.errors import AgentError, LegionError, RequestError
from legion_iot.lab.report import compare
from legion_iot.lab.running import LabAgent
from legion_iot.lab.state import LabState
from legion_iot.model.blocks import Network
from legion_iot.orchestrator.options import ModelFile, OrchestratorOptions
from legion_iot.orchestrator.service import OrchestratorService
from legion_iot.orchestrator.serving import EndedRequest, ServedModel
from legion_iot.planning.bound import lower_bound
from legion_iot.planning.costs import Predictor
from legion_iot.planning.estimate import Estimate, Estimator
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Group, Objective, Planner, Planning, Problem
from legion_iot.planning.routing import Router
from legion_iot.planning.whole import whole_plan
from legion_iot.runtime.campaign import Effort
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import Result
from legion_iot.wire.topics import Topics

PLAN_TIMEOUT = 2400.0  # seconds for a plan to be found; `fss` runs every block
SWITCH_TIMEOUT = 120.0  # seconds for a plan to be loaded
REQUEST_TIMEOUT = 150.0
REPORT_TIMEOUT = 2.0  # of what agents tell of a request that has been answered
_POLL = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A planner's plan, what it was found by, and what finding it has cost: effort, and seconds from begin to end."""

    plan: Plan
    problem: Problem
    predictor: Predictor
    effort: Effort
    seconds: float

    @property
    def estimate(self) -> Estimate:
        """What was predicted when the plan was found."""
        return self._estimate(self.problem.group)

    def _estimate(self, group: Group) -> Estimate:
        problem = self.problem
        return Estimator(problem.network, group, self.predictor, problem.wire).estimate(self.plan)

    @property
    def tile_seconds(self) -> Mapping[str, float]:
        """Seconds that each device computes in the plan's first turn, without what messages take meanwhile."""
        found: dict[str, float] = {}
        for bar in self._estimate(without_links(self.problem.group)).bars:
            if bar.kind == "compute" and bar.replica == 0:
                found[bar.participant] = found.get(bar.participant, 0.0) + bar.end - bar.start
        return found


@dataclass(slots=True)
class Exactness:
    """How far outputs were from the whole model's, over all requests that were compared."""

    requests: int = 0
    exact: int = 0
    worst: float = 0.0  # relative to the largest magnitude of an output


@dataclass(slots=True, eq=False)
class Session:
    """A served network; methods may be called from one thread. `exactness` counts what was compared."""

    subject: Subject
    wire: str
    agents: Sequence[LabAgent]
    _service: OrchestratorService
    _client: PahoConnection
    _topics: Topics
    _answers: queue.SimpleQueue[tuple[float, bytes]]
    _ended: queue.SimpleQueue[EndedRequest]
    _failure: list[LegionError]
    exactness: Exactness = field(default_factory=Exactness)

    @property
    def network(self) -> Network:
        return self._model.network

    @property
    def _model(self) -> ServedModel:
        return self._service.models.by_name[self.subject.name]

    def plan(self, planner: Planner) -> Planned:
        """Have a planner find its plan, and put it in force. Raises AgentError where it finds none, or not in time."""
        problems: list[Problem] = []

        def watched(problem: Problem) -> Planning:
            problems.append(problem)
            return (yield from planner(problem))

        selection = self._model.state.selection
        before = selection.outcome
        self._service.plan_by(self.subject.name, watched)
        self._wait(lambda: selection.campaign is None and selection.outcome is not before, PLAN_TIMEOUT, "plan")
        outcome = selection.outcome
        assert outcome is not None
        if outcome.reason:
            raise AgentError(f"{self.subject.name}: no plan was found ({outcome.reason})")
        predictor = selection.predictor()
        self._wait(self._in_force, SWITCH_TIMEOUT, "plan in force")
        plan = self._model.state.plan
        assert plan is not None
        return Planned(plan, problems[-1], predictor, outcome.effort, outcome.seconds)

    def use(self, plan: Plan) -> None:
        """Put a plan in force; raises AgentError where that takes too long."""
        if self._model.state.plan != plan:
            self.plan(_fixed(plan))

    def wait_served(self) -> None:
        """Until a first plan is in force."""
        self._wait(lambda: self._model.state.phase == "serving", PLAN_TIMEOUT, "plan in force")

    def _in_force(self) -> bool:
        state = self._model.state
        return state.epochs.building is None and state.plan is not None and state.plan == state.selection.wanted(0.0)

    def bound(self, group: Group) -> float:
        """Seconds that no plan's latency can be below, by all that is known now."""
        return lower_bound(self.network, group, self._model.state.selection.predictor(), self.wire)

    def accounts(self, group: Group, seconds: Sequence[float]) -> list[Account]:
        """Where the latency of the last requests went, which took their client so many seconds.

        Those of which an agent's report was lost are left out.
        """
        routing = self._model.state.routing
        assert routing is not None  # requests were answered
        accountant = Accountant(self.network, group, routing, self.wire)
        found = []
        for name, each in zip(self._model.traces.names[-len(seconds) :], seconds, strict=True):
            self._wait_traced(name)
            if (kept := self._model.traces.timeline(name)) is not None:
                account = accountant.measured(*kept, each)
                found += [] if account is None else [account]
        return found

    def _wait_traced(self, request: str) -> None:
        """Reports come beside the answer; one that is lost is not waited for any longer."""
        deadline = time.monotonic() + REPORT_TIMEOUT
        while time.monotonic() < deadline:
            kept = self._model.traces.timeline(request)
            if kept is None or not kept[0].missing(kept[1]):
                return
            time.sleep(_POLL)

    def expected(self, planned: Planned) -> Account:
        """Where the latency goes that was predicted of a plan."""
        routing = Router(self.network).route(planned.plan)
        return Accountant(self.network, planned.problem.group, routing, self.wire).predicted(planned.estimate)

    def ask(self, requests: int) -> list[float]:
        """Seconds from publish to answer of so many requests, one after the other, compared with the whole model.

        Raises RequestError where one fails, AgentError where an agent ends.
        """
        epoch = self._epoch()

        def answer() -> float:
            stop = self._answer()
            self._compare(epoch)
            return stop

        return closed_loop.latencies(self._send, answer, requests)

    def answers_per_second(self, window: int, requests: int) -> float:
        """As `closed_loop.answers_per_second`; raises as `ask` does."""
        epoch = self._epoch()
        found = closed_loop.answers_per_second(self._send, self._answer, window, requests)
        for _ in range(requests + 2 * window):
            self._compare(epoch)
        return found

    def _send(self) -> None:
        self._client.publish(self._topics.infer(self.subject.name), self.subject.payload)

    def _answer(self) -> float:
        """When the next answer has come, on the clock of `time.perf_counter`."""
        deadline = time.monotonic() + REQUEST_TIMEOUT
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                stop, content = self._answers.get(timeout=0.5)
                result = codec.from_json(Result, content)
                if not result.ok:
                    raise RequestError(f"{self.subject.name}: a request ended with {result.error}: {result.reason}")
                return stop
            self._check()
        raise RequestError(f"{self.subject.name}: no answer within {REQUEST_TIMEOUT:g} s")

    def _epoch(self) -> int:
        """That of the plan in force; raises AgentError where there is none."""
        force = self._model.state.epochs.force
        if force is None:
            raise AgentError(f"{self.subject.name}: no plan is in force; {self._model.state.detail}")
        return force.number

    def _compare(self, epoch: int) -> None:
        """Raises RequestError where the request was not run by the plan that is measured."""
        ended = self._ended.get(timeout=5.0)
        if ended.result.epoch != epoch:
            raise RequestError(f"{self.subject.name}: a device was late, so another plan was run; is the machine busy?")
        exact, _, worst = compare([ended.outputs], list(self.subject.outputs))
        known = self.exactness
        known.requests, known.exact = known.requests + 1, known.exact + exact
        known.worst = max(known.worst, worst)

    def _wait(self, what: Callable[[], bool], timeout: float, name: str) -> None:
        deadline = time.monotonic() + timeout
        while not what():
            self._check()
            if time.monotonic() > deadline:
                raise AgentError(f"{self.subject.name}: no {name} within {timeout:g} s")
            time.sleep(_POLL)

    def _check(self) -> None:
        if self._failure:
            raise self._failure[0]
        for agent in self.agents:
            agent.check()
        if left_out := [name for name, each in self._model.state.agents.items() if each.excluded]:
            raise AgentError(f"{left_out[0]} was left out: {self._model.state.agents[left_out[0]].excluded}")


@contextlib.contextmanager
def open_session(
    lab: LabState, subject: Subject, wire: str, objective: Objective, state_directory: Path
) -> Iterator[Session]:
    """Serve a network to the devices of a lab inside `with`, for now by its first device alone.

    What is measured is kept in the state directory, as by any orchestrator. Raises LegionError.
    """
    address, topics = BrokerAddress.parse(lab.broker), Topics(lab.base_topic)
    agents = [LabAgent(each) for each in lab.devices]
    answers: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
    ended: queue.SimpleQueue[EndedRequest] = queue.SimpleQueue()
    failure: list[LegionError] = []
    service = OrchestratorService(
        OrchestratorOptions(
            address, (ModelFile(subject.name, subject.path),), topics.base, len(agents), wire,
            planner=_first_alone, objective=objective, state_directory=state_directory,
        ),
        on_ended=ended.put,
    )  # fmt: skip

    def on_event(event: TransportEvent) -> None:
        if isinstance(event, Message):
            answers.put((time.perf_counter(), event.payload))

    client = PahoConnection(address, f"{topics.base}-client", on_event)
    thread = threading.Thread(target=_run, args=(service, failure), name="orchestrator", daemon=True)
    session = Session(subject, wire, agents, service, client, topics, answers, ended, failure)
    client.open(15.0)
    try:
        client.subscribe([(topics.result(subject.name), 1)])
        thread.start()
        session.wait_served()
        yield session
    finally:
        client.close()
        service.stop()
        if thread.ident is not None:
            thread.join(10.0)


def _run(service: OrchestratorService, failure: list[LegionError]) -> None:
    try:
        service.run()
    except LegionError as error:
        failure.append(error)


def _first_alone(problem: Problem) -> Planning:
    yield from ()
    return whole_plan("single", problem.network, problem.group.names[0])


def _fixed(plan: Plan) -> Planner:
    def planner(problem: Problem) -> Planning:
        yield from ()
        return plan

    return planner
