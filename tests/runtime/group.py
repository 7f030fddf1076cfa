"""One real orchestrator machine and many real agent machines in virtual time, over a broker that delays and repeats.

Everything said travels as bytes through `wire`. What a broker promises is kept: order within one topic, retained
messages, a will for a link that breaks; what it does not promise is broken from a seed: delays differ, QoS 1 messages
come twice, QoS 0 messages get lost, and so does all that was sent to a client without a link. An agent is one thread,
as in life: while it computes, its messages wait. Steps are computed by a `Worker`: the real executor, or the oracle,
which also checks every input.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from legion_iot.errors import LegionError
from legion_iot.model.blocks import Network
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners.balanced import balanced, by_speed
from legion_iot.planning.problem import Link, Objective, Planner, Planning
from legion_iot.planning.samples import Samples
from legion_iot.runtime import agent, orchestrator
from legion_iot.runtime.requests import QUEUE
from legion_iot.runtime.shared import Shared
from legion_iot.runtime.trial import PREFIX, RUNS
from legion_iot.wire import codec, delivery
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Assignment,
    Chunk,
    ChunkRequest,
    Command,
    Failed,
    Fragment,
    Measured,
    ModelReference,
    Parcel,
    PartTime,
    Profile,
    ProfilePart,
    Ready,
    Receipt,
    TileTiming,
)
from legion_iot.wire.tensors import INBOX, Array, as_map, fragments, region_of
from legion_iot.wire.topics import AgentTopic, AssignmentTopic, InboxTopic, ReportTopic, Topics
from tests.planning.plans import AGENTS
from tests.runtime.oracle import Oracle, Worker
from tests.runtime.virtual import Broker, VirtualLink

TOPICS = Topics("group")
REPORTS: Mapping[str, type[Any]] = {"ready": Ready, "failed": Failed, "timing": TileTiming, "measured": Measured}
SLICE = 0.02  # seconds of measuring between two looks at what has arrived
LINK = Link(0.001, 1e7, 1e7)
TICK = 0.5
HUNG = 1e9  # seconds of work that never ends


@dataclass(slots=True)
class Temper:
    """How an agent behaves; each may change during a run."""

    speed: float = 1.0
    holds_model: bool = True
    profile_hangs: bool = False
    load_fails: bool = False
    load_hangs: bool = False
    failing_tiles: float = 0.0
    wrong_model: bool = False  # what it fetches does not match its hash
    lies: float | None = None  # the time that it reports for everything
    board: str = "board"


def at_least(blocks: int) -> orchestrator.MakePlan:
    """The balanced plan, of so many blocks at least."""
    return lambda network, speeds: balanced(network, speeds, blocks)


class Agent:
    """One process of an agent, from start to end; a restart is another `Agent`."""

    def __init__(self, group: Group, name: str, temper: Temper, worker: Worker) -> None:
        self.name, self.temper, self.worker = name, temper, worker
        self._group, self._broker = group, group.broker
        self.session = f"session-{next(group.sessions)}"
        self.state = agent.State(name, {group.model.sha256} if temper.holds_model else set())
        self.alive, self._linked, self._working = True, False, False
        self._outbox: list[tuple[str, bytes, bool]] = []
        self._events: deque[agent.Event] = deque()
        self.fragments = VirtualLink(
            self._broker, self._broker.random.getrandbits(48), self._publish_fragments, self._fragment, self._given_up
        )
        self._measuring: deque[Command] = deque()
        self.measured_while_asked = 0
        self.link()
        self._broker.at(TICK, self._tick)

    # --- the link ---

    def link(self) -> None:
        """Connect, or connect again: QoS 1 messages that waited are sent, retained ones come anew."""
        if not self.alive:
            return
        self._linked = True
        own, command = f"{TOPICS.base}/agents/{self.name}/", self._topic("command")
        told = (f"{own}inbox/", f"{own}assignment/")
        self._broker.connect(self.name, lambda topic: topic.startswith(told) or topic == command, self._take)
        for topic, payload, retain in self._outbox:
            self._broker.publish(topic, payload, retain=retain)
        self._outbox.clear()
        self.fragments.link_up()
        self._publish_info()
        self._publish_profile()
        self._publish(self._topic("state"), AgentState("online", self.session), retain=True)

    def break_link(self, will_after: float) -> None:
        """The broker notices after a while, and publishes the will."""
        self._linked = False
        self._broker.disconnect(self.name)
        will = codec.to_json(AgentState("offline", self.session))
        self._broker.at(will_after, lambda: self._broker.publish(self._topic("state"), will, retain=True))

    def kill(self, will_after: float) -> None:
        if self.alive:
            self.alive = False
            self.break_link(will_after)

    def leave(self) -> None:
        """Say goodbye."""
        if self.alive:
            self._publish(self._topic("state"), AgentState("offline", self.session), retain=True)
            self.alive = self._linked = False
            self._broker.disconnect(self.name)

    # --- one thread ---

    def _tick(self) -> None:
        if self.alive:
            self._add(agent.Tick())
            self._broker.at(TICK, self._tick)

    def _take(self, topic: str, payload: bytes) -> None:
        match TOPICS.parse(topic):
            case AssignmentTopic():
                self._add(agent.AssignmentArrived(codec.from_json(Assignment, payload)))
            case AgentTopic(kind="command"):
                self._add(agent.CommandArrived(codec.from_json(Command, payload)))
            case InboxTopic(sender=sender):
                content, body = codec.unpack(INBOX, payload)
                if isinstance(content, (Parcel, Receipt)):
                    self.fragments.take(sender, content, body)
                else:
                    assert isinstance(content, Chunk)
                    self._add(agent.ChunkArrived(content, body))

    def _fragment(self, sender: str, header: Fragment, elements: memoryview) -> None:
        self._add(agent.FragmentArrived(sender, header, elements))

    def _given_up(self, effect: delivery.GiveUp) -> None:
        for epoch, request in effect.requests:
            self._add(agent.StepFailed(epoch, request, effect.reason))

    def _publish_fragments(self, target: str, payload: bytes) -> None:
        if self.alive and self._linked:
            self._broker.publish(TOPICS.inbox(target, self.name), payload, qos=0)

    def _add(self, event: agent.Event) -> None:
        self._events.append(event)
        if not self._working:
            self._working = True
            self._resume(self._live())

    def _live(self) -> Iterator[float]:
        """Work through the events; yields the seconds that work takes."""
        while self._events or self.state.ready or self._measuring:
            if not self._events and not self.state.ready:
                yield from self._measure()
                continue
            event = self._events.popleft() if self._events else agent.Idle()
            for effect in agent.step(self.state, event, self._broker.now):
                yield from self._carry_out(effect)

    def _measure(self) -> Iterator[float]:
        """A slice of measuring, or a pause where somebody waits for what the agent computes; then the answer."""
        if not agent.may_measure(self.state, self._broker.now):
            yield SLICE
            return
        self.measured_while_asked += any(c.operation == "profile" for c in self._measuring) and bool(
            any(held.exchange for held in self.state.epochs)
        )
        yield HUNG if self.temper.profile_hangs else SLICE
        if self._broker.random.random() < 0.2:
            self._answer(self._measuring.popleft())

    def _answer(self, command: Command) -> None:
        if command.operation == "probe":
            self._group.probes += 1
            self._group.profiles[self.name] = Profile(self._info().board_class, LINK, ())
            self._publish_profile()
            self._publish(TOPICS.report(self.name, "measured"), Measured(command.number, (), LINK))
            return
        done = command.parts[: self._broker.random.randrange(1, 20)]
        seconds = 0.1 / self.temper.speed if self.temper.lies is None else self.temper.lies
        self._group.measured.update((self.temper.board, part) for part in done)
        times = tuple(PartTime(seconds, 0.0, 3) for _ in done)
        self._publish(TOPICS.report(self.name, "measured"), Measured(command.number, times))

    def _resume(self, life: Iterator[float]) -> None:
        if not self.alive:
            return
        seconds = next(life, None)
        if seconds is None:
            self._working = False
        elif seconds < HUNG:
            self._broker.at(seconds, lambda: self._resume(life))

    def _carry_out(self, effect: agent.Effect) -> Iterator[float]:
        temper, draw = self.temper, self._broker.random
        match effect:
            case agent.SendRegion(target=target, header=header, values=values, origin=origin):
                assert target != self.name
                self.fragments.send(target, list(fragments(header, values, region_of(origin))))
            case agent.Compute():
                yield draw.uniform(0.005, 0.05) / temper.speed
                self._compute(effect)
            case agent.Report(message=message):
                self._report(message)
            case agent.ReportTiming(timing=timing):
                self._publish(TOPICS.report(self.name, "timing"), timing)
            case agent.AskChunk(request=request):
                self._publish_bytes(TOPICS.inbox("orchestrator", self.name), codec.pack(request), qos=1)
            case agent.FinishModel(model=model):
                reason = "does not match its SHA-256" if temper.wrong_model else ""
                temper.holds_model = not reason
                self._events.append(agent.ModelStored(model.sha256, reason))
            case agent.PublishInfo():
                self._publish_info()
            case agent.Load(assignment=assignment):
                yield HUNG if temper.load_hangs else draw.uniform(0.0, 0.4)
                self._load(assignment)
            case agent.Unload(epoch=epoch):
                self.worker.unload(epoch)
            case agent.StartMeasuring(command=command):
                self._measuring.append(command)

    def _compute(self, work: agent.Compute) -> None:
        self._group.computed[self.name, work.request, work.step] += 1
        self._group.computed_in[self.session, work.request, work.step] += 1
        if self._broker.random.random() < self.temper.failing_tiles:
            self._events.append(agent.StepFailed(work.epoch, work.request, "the tile burns", work.attempt))
            return
        outputs = self.worker.run(work.epoch, work.request, work.step, work.inputs)
        self._events.appendleft(
            agent.StepDone(work.epoch, work.request, work.attempt, work.step, outputs, 0.01, self._broker.now)
        )

    def _load(self, assignment: Assignment) -> None:
        if self.temper.load_fails:
            self._events.append(agent.Loaded(assignment.epoch, {}, "no memory"))
            return
        try:
            self._events.append(agent.Loaded(assignment.epoch, self.worker.load(assignment)))
        except LegionError as error:
            self._events.append(agent.Loaded(assignment.epoch, {}, str(error)))

    def _report(self, message: Ready | Failed) -> None:
        match message:
            case Ready():
                self._publish(TOPICS.report(self.name, "ready"), message)
            case Failed():
                self._publish(TOPICS.report(self.name, "failed"), message)

    def _info(self) -> AgentInfo:
        models = tuple(sorted(self.state.models))
        return AgentInfo(self.temper.board, 4, 1, 1 << 30, "runtime", "1", "xnnpack", "1", models)

    def _publish_info(self) -> None:
        self._publish(self._topic("info"), self._info(), retain=True)

    def _publish_profile(self) -> None:
        if (profile := self._group.profiles.get(self.name)) is not None:
            self._publish(self._topic("profile"), profile, retain=True)

    def _publish(self, topic: str, message: object, *, retain: bool = False) -> None:
        self._publish_bytes(topic, codec.to_json(message), qos=1, retain=retain)

    def _publish_bytes(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        if self._linked:
            self._broker.publish(topic, payload, qos=qos, retain=retain)
        else:
            self._outbox.append((topic, payload, retain))

    def _topic(self, kind: str) -> str:
        return TOPICS.agent(self.name, kind)


class Group:
    """The orchestrator and its broker; invariants are checked after every one of its steps."""

    def __init__(
        self,
        network: Network,
        *,
        seed: int = 0,
        content: bytes = bytes(range(256)) * 3000,
        model: ModelReference | None = None,
        duplicates: float = 0.0,
        losses: float = 0.0,
        least_agents: int = 1,
        make_plan: orchestrator.MakePlan = balanced,
        planner: Planner | None = None,
        objective: Objective = "latency",
        samples: Samples | None = None,
    ) -> None:
        self.network, self.content = network, content
        self.model = model or ModelReference("small", "ab" * 32, len(content))
        self.broker = Broker(seed, duplicates=duplicates, losses=losses)
        self.oracle = Oracle(network)
        self.state = orchestrator.State(
            network, self.model, least_agents, make_plan, objective=objective, shared=Shared(100)
        )
        self.state.shared.samples = samples or Samples()
        self.profiles: dict[str, Profile] = {}  # what each agent has on its disk
        self._planner = planner or by_speed(make_plan)
        self._planning: Planning | None = None
        self.measured: Counter[tuple[str, ProfilePart]] = Counter()
        self.probes = self.most_under_way = 0
        self.agents: dict[str, Agent] = {}
        self.sessions = itertools.count(1)
        self.asked: dict[str, tuple[Array, ...]] = {}
        self.ended: dict[str, orchestrator.RequestEnded] = {}
        self.phases: list[tuple[str, str]] = []
        self.commands: list[tuple[str, str]] = []
        self.computed: Counter[tuple[str, str, int]] = Counter()  # by agent, request and step
        self.computed_in: Counter[tuple[str, str, int]] = Counter()  # by session of an agent instead
        self._numbers = itertools.count(1)
        self.fragments = VirtualLink(self.broker, 0, self._publish_fragments, self._fragment, self._given_up)
        self.broker.connect("orchestrator", self._wants, self._take)
        self.broker.at(TICK, self._tick)

    # --- what tests do ---

    def start(self, name: str, temper: Temper | None = None, worker: Worker | None = None) -> Agent:
        """A new process of an agent; one that runs already is taken over, as by a restart without goodbye."""
        old = self.agents.get(name)
        temper = temper or (old.temper if old else Temper())
        self.agents[name] = Agent(self, name, temper, worker or Oracle(self.network))
        return self.agents[name]

    def ask(self, inputs: tuple[Array, ...] | None = None) -> str:
        """Send a request, of the oracle's noise unless inputs are given."""
        request = f"request-{next(self._numbers)}"
        if inputs is None:
            graph = self.network.graph
            inputs = tuple(self.oracle.tensor(request, t).reshape(graph.tensors[t].shape) for t in graph.inputs)
        self.asked[request] = inputs
        self._step(orchestrator.RequestArrived(request, inputs))
        return request

    def run(self, seconds: float) -> None:
        self.broker.run(self.broker.now + seconds)

    def run_until(self, phase: str, limit: float = 60.0) -> None:
        """Go on until the phase is reached; fails after `limit` virtual seconds."""
        end = self.broker.now + limit
        while self.state.phase != phase:
            assert self.broker.now < end, f"still {self.state.phase} ({self.state.detail}) after {limit} s"
            self.run(0.05)

    def check_answer(self, request: str) -> None:
        """The request has ended well, with the oracle's values."""
        ended = self.ended[request]
        assert not ended.error, f"{request}: {ended.error}: {ended.reason}"
        graph = self.network.graph
        assert len(ended.outputs) == len(graph.outputs)
        for tensor, values in zip(graph.outputs, ended.outputs, strict=True):
            assert values.shape == graph.tensors[tensor].shape
            np.testing.assert_array_equal(as_map(values), self.oracle.tensor(request, tensor))

    # --- the orchestrator's process ---

    @staticmethod
    def _wants(topic: str) -> bool:
        own = f"{TOPICS.base}/orchestrator/inbox/"
        parts = topic.split("/")
        return topic.startswith(own) or parts[3] in ("state", "info", "profile", "report")

    def _tick(self) -> None:
        self._step(orchestrator.Tick())
        self.broker.at(TICK, self._tick)

    def _take(self, topic: str, payload: bytes) -> None:
        match TOPICS.parse(topic):
            case AgentTopic(agent=name, kind="state"):
                self._step(orchestrator.AgentStateArrived(name, codec.from_json(AgentState, payload)))
            case AgentTopic(agent=name, kind="info"):
                self._step(orchestrator.AgentInfoArrived(name, codec.from_json(AgentInfo, payload)))
            case AgentTopic(agent=name, kind="profile"):
                self._step(orchestrator.ProfileArrived(name, codec.from_json(Profile, payload)))
            case ReportTopic(agent=name, kind=kind):
                self._step(orchestrator.ReportArrived(name, codec.from_json(REPORTS[kind], payload)))
            case InboxTopic(sender=sender):
                content, body = codec.unpack(INBOX, payload)
                if isinstance(content, ChunkRequest):
                    part = self.content[content.offset : content.offset + content.size]
                    chunk = codec.pack(Chunk(content.sha256, content.offset), part)
                    self.broker.publish(TOPICS.inbox(sender, "orchestrator"), chunk)
                else:
                    assert isinstance(content, (Parcel, Receipt))
                    self.fragments.take(sender, content, body)

    def _fragment(self, sender: str, header: Fragment, elements: memoryview) -> None:
        self._step(orchestrator.FragmentArrived(sender, header, elements))

    def _given_up(self, effect: delivery.GiveUp) -> None:
        for lost in effect.requests:
            self._step(orchestrator.ReportArrived(effect.target, Failed(*lost, effect.reason)))

    def _publish_fragments(self, target: str, payload: bytes) -> None:
        self.broker.publish(TOPICS.inbox(target, "orchestrator"), payload, qos=0)

    def _step(self, event: orchestrator.Event) -> None:
        for effect in orchestrator.step(self.state, event, self.broker.now):
            self._carry_out(effect)
        self._check_invariants()

    def _carry_out(self, effect: orchestrator.Effect) -> None:
        match effect:
            case orchestrator.Assign(agent=name, assignment=assignment):
                self._check_online(name)
                topic = TOPICS.assignment(name, assignment.model.name)
                self.broker.publish(topic, codec.to_json(assignment), retain=True)
            case orchestrator.SendCommand(agent=name, command=command):
                self._check_online(name)
                self.commands.append((name, command.operation))
                self.broker.publish(TOPICS.agent(name, "command"), codec.to_json(command))
            case orchestrator.SendRegion(target=target, header=header, values=values):
                self._check_online(target)
                whole = (0, values.shape[0], 0, values.shape[1])
                self.fragments.send(target, list(fragments(header, values, region_of(whole))))
            case orchestrator.RequestEnded(request=request):
                assert request in self.asked
                assert request not in self.ended, f"{request} ended twice"
                self.ended[request] = effect
                assert bool(effect.error) == bool(effect.reason) != bool(effect.outputs)
            case orchestrator.ProbeOwnLink(number=number):
                self.probes += 1
                self.broker.at(0.3, lambda: self._step(orchestrator.OwnLinkProbed(number, LINK)))
            case orchestrator.Consult():
                answer = self._consult(effect)
                self.broker.at(self.broker.random.uniform(0.0, 0.5), lambda: self._step(answer))
            case orchestrator.PublishState(state=phase, detail=detail):
                self.phases.append((phase, detail))

    def _consult(self, consult: orchestrator.Consult) -> orchestrator.PlannerAnswered:
        """What the planner says."""
        try:
            if consult.readings is None:
                self._planning = self._planner(consult.problem)
                return orchestrator.PlannerAnswered(consult.number, next(self._planning))
            assert self._planning is not None
            return orchestrator.PlannerAnswered(consult.number, self._planning.send(consult.readings))
        except StopIteration as end:
            return orchestrator.PlannerAnswered(consult.number, end.value)
        except LegionError as error:
            return orchestrator.PlannerAnswered(consult.number, str(error))

    def _check_online(self, name: str) -> None:
        record = self.state.agents[name]
        assert record.online, f"work for {name}, which is offline"
        assert not record.excluded, f"work for {name}, which is left out"

    def _check_invariants(self) -> None:
        state = self.state
        requests = state.requests
        self.most_under_way = max(self.most_under_way, len(requests.under_way))
        assert len(requests.under_way) <= requests.window
        assert len(requests.waiting) <= QUEUE
        waiting = [w.request for w in requests.waiting]
        alive = {*waiting, *requests.under_way}
        assert len(alive) == len(waiting) + len(requests.under_way)
        trials = {request for request in alive if request.startswith(PREFIX)}
        assert len(trials) <= RUNS + 1
        alive -= trials
        # Every request is either alive or has ended; the one being asked right now is in `asked` already.
        assert alive | set(self.ended) == set(self.asked)
        assert not alive & set(self.ended)
        assert requests.exchange is None or len(requests.exchange) <= len(requests.under_way)
        if state.plan is not None:
            assert all(state.agents[name].online for name in state.plan.agents)


def given_plan(
    network: Network,
    plan: Plan,
    *,
    seed: int = 0,
    duplicates: float = 0.0,
    model: ModelReference | None = None,
    worker: Callable[[str], Worker | None] = lambda name: None,
) -> Group:
    """A group that serves by this plan; `worker` makes what an agent computes with."""
    group = Group(
        network, seed=seed, duplicates=duplicates, model=model, least_agents=len(AGENTS),
        make_plan=lambda network, speeds: plan,
    )  # fmt: skip
    for number, name in enumerate(AGENTS):
        group.start(name, Temper(speed=1.0 + number), worker(name))
    group.run_until("serving")
    return group
