"""One process of an agent in virtual time: the real machine of `runtime.agent`, on a modelled device.

It is one thread, as in life: while it computes, its messages wait.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from legion_iot.errors import LegionError, ProtocolError
from legion_iot.runtime import agent
from legion_iot.runtime.name_claim import NameClaim, Next
from legion_iot.runtime.simulation.agenda import BEGIN, Agenda
from legion_iot.runtime.simulation.behaviour import HUNG, LINK, Behaviour
from legion_iot.runtime.simulation.broker import Broker, Publication
from legion_iot.runtime.simulation.invariants import HELD, Computed, broken, hold
from legion_iot.runtime.simulation.oracle import Worker
from legion_iot.runtime.simulation.participant import TICK, TOPICS, Participant
from legion_iot.runtime.timing_reports import HeldTimings, report_of
from legion_iot.wire import codec, delivery
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Assignment,
    Chunk,
    Command,
    Failed,
    Fragment,
    Measured,
    Metrics,
    ModelReference,
    Parcel,
    PartTime,
    Profile,
    ProfilePart,
    Ready,
    Receipt,
    TileTiming,
)
from legion_iot.wire.tensors import INBOX, fragments, region_of
from legion_iot.wire.topics import ORCHESTRATOR, AgentTopic, AssignmentTopic, InboxTopic

METRICS_SECONDS = 2.0
SLICE = 0.02  # seconds of measuring between two looks at what has arrived

AgentStep = Callable[[agent.State, agent.Event, float], list[agent.Effect]]


@dataclass(slots=True)
class Kept:
    """What outlives processes of agents, and what all of them have done."""

    profiles: dict[str, Profile] = field(default_factory=dict)  # on each device's disk
    measured: Counter[tuple[str, ProfilePart]] = field(default_factory=Counter)
    probes: int = 0
    failed_tiles: int = 0
    names_lost: int = 0
    computed: Computed = field(default_factory=Computed)

    def forget(self, agent: str, board: str) -> None:
        """A device has forgotten what it measured; of its class of board everything may be measured once more."""
        self.profiles.pop(agent, None)
        for part in [each for each in self.measured if each[0] == board]:
            del self.measured[part]


class AgentProcess(Participant):
    """An agent, from start to end. `step` is the machine's."""

    def __init__(
        self,
        agenda: Agenda,
        broker: Broker,
        kept: Kept,
        name: str,
        session: str,
        model: ModelReference,
        behaviour: Behaviour,
        worker: Worker,
        step: AgentStep = agent.step,
    ) -> None:
        told = [TOPICS.assignment(name, "+"), TOPICS.agent(name, "command"), TOPICS.inbox(name, "+")]
        super().__init__(agenda, broker, name, session, [*told, TOPICS.agent(name, "state")])
        self.behaviour, self.worker = behaviour, worker
        self.state = agent.State(name, {model.sha256} if behaviour.holds_model else set())
        self.measured_while_asked = 0
        self._kept, self._step, self._claim = kept, step, NameClaim(session)
        self._events: deque[agent.Event] = deque()
        self._measuring: deque[Command] = deque()
        self._timings = HeldTimings()
        self._working = self._tick_waits = False
        self._told = agenda.now
        self._stopped: Iterator[float] | None = None  # what was going on when the process froze
        if behaviour.link is not None:
            kept.profiles.setdefault(name, Profile(self._info().board_class, behaviour.link, ()))
        self.link()
        agenda.at(TICK * agenda.random.random(), self._tick)

    def leave(self) -> None:
        """Say goodbye, and end."""
        if self.alive and self.linked and not self.frozen:
            if self._claim.held:
                self._publish("state", AgentState("offline", self.session))
            self._end()
        else:
            self.kill(will_after=0.0)

    def _end(self) -> None:
        self.alive = self.linked = False
        self._broker.disconnect(self._client)

    def thaw(self) -> None:
        super().thaw()
        stopped, self._stopped = self._stopped, None
        if stopped is not None:
            self._resume(stopped)

    # --- the connection ---

    def _will(self) -> Publication:
        gone = codec.to_json(AgentState("offline", self.session))
        return Publication(TOPICS.agent(self.name, "state"), gone, 1, retain=True)

    def _connected(self) -> None:
        self._claims(self._claim.connected())

    def _disconnected(self) -> None:
        self._claim.disconnected()

    def _claims(self, what: Next) -> None:
        """What the claim to its name asks for."""
        match what:
            case Next.ANNOUNCE:
                self._publish("info", self._info())
                self._publish_profile()
                self._publish("state", AgentState("online", self.session))
                self._claim.announced()
            case Next.GIVE_UP:
                self._agenda.tell(f"{self.name} ends: another one took the name")
                self._kept.names_lost += 1
                self._end()

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        match TOPICS.parse(topic):
            case AssignmentTopic(model=model) if not payload:
                self._add(agent.AssignmentCleared(model))
            case AssignmentTopic(model=model):
                assignment = codec.from_json(Assignment, payload)
                if assignment.model.name != model:
                    raise ProtocolError("an assignment for another model")
                self._add(agent.AssignmentArrived(assignment))
            case AgentTopic(kind="state"):
                state = codec.from_json(AgentState, payload)
                self._claims(self._claim.seen(state.session, state.is_present, retained))
            case AgentTopic(kind="command"):
                self._add(agent.CommandArrived(codec.from_json(Command, payload)))
            case InboxTopic(sender=sender):
                content, body = codec.unpack(INBOX, payload)
                if isinstance(content, (Parcel, Receipt)):
                    self.fragments.take(sender, content, body)
                elif isinstance(content, Chunk) and sender == ORCHESTRATOR:
                    self._add(agent.ChunkArrived(content, body))
                else:
                    raise ProtocolError("not for an agent")
            case _:
                raise ProtocolError("not for an agent")

    def _fragment(self, sender: str, header: Fragment, elements: memoryview) -> None:
        self._add(agent.FragmentArrived(sender, header, elements, self._agenda.now))

    def _given_up(self, effect: delivery.GiveUp) -> None:
        for epoch, request in effect.requests:
            self._add(agent.StepFailed(epoch, request, effect.reason))

    # --- one thread ---

    def _tick(self) -> None:
        if self.alive:
            if not self.frozen and not self._tick_waits:
                self._tick_waits = True  # the thread itself looks at the clock, so there is never more than one
                self._add(agent.Tick())
            # Only a fetch looks at the clock more often than metrics are due.
            self._agenda.at(METRICS_SECONDS if self.state.fetch is None else TICK, self._tick)

    def _add(self, event: agent.Event) -> None:
        if not self.alive:
            return
        self._events.append(event)
        hold(len(self._events) <= HELD, "bounded", f"{self.name} has {len(self._events)} events before it")
        if not self._working:
            self._working = True
            self._resume(self._live())

    def _resume(self, life: Iterator[float]) -> None:
        if not self.alive:
            return
        if self.frozen:
            self._stopped = life
            return
        seconds = next(life, None)
        if seconds is None:
            self._working = False
        elif seconds < HUNG:
            self._agenda.at(seconds, lambda: self._resume(life))

    def _live(self) -> Iterator[float]:
        """Work through the events; yields the seconds that work takes."""
        while self._events or self.state.ready or self._measuring:
            if not self._events and not self.state.ready:
                yield from self._measure()
                continue
            event = self._events.popleft() if self._events else agent.Idle()
            if isinstance(event, agent.Tick):
                self._tick_waits = False
                self._publish_metrics()
            for effect in self._step(self.state, event, self._agenda.now):
                yield from self._carry_out(effect)
            hold(len(self.state.epochs) <= 2, "two-epochs", f"{self.name} holds {len(self.state.epochs)}")

    # --- effects ---

    def _tell_held(self) -> None:
        if self.alive and not self.frozen:
            self._tell_timings(self._timings.take())

    def _tell_timings(self, timings: tuple[TileTiming, ...]) -> None:
        if report := report_of(timings):
            kind, message = report
            self.publish(TOPICS.report(self.name, kind), message, qos=0)

    def _carry_out(self, effect: agent.Effect) -> Iterator[float]:
        behaviour, draw = self.behaviour, self._agenda.random
        match effect:
            case agent.SendRegion(target=target, header=header, values=values, origin=origin):
                assert target != self.name
                if behaviour.corrupt == "form":
                    header = dataclasses.replace(header, channels=header.channels + 1)
                    values = np.concatenate((values, values[..., :1]), axis=2)
                self.fragments.send(target, list(fragments(header, values, region_of(origin))))
            case agent.Compute():
                yield from self._compute(effect)
            case agent.Report(message=message):
                self._report(message)
            case agent.ReportTiming(timing=timing, within=within, is_last=is_last):
                self._tell_timings(self._timings.add(timing, within, is_last, self._agenda.now))
                self._agenda.at(TICK, self._tell_held)
            case agent.MakeRoom(model=model):
                self._events.append(agent.RoomMade(model.sha256))
            case agent.AskChunk(request=request):
                self.publish_bytes(TOPICS.inbox("orchestrator", self.name), codec.pack(request))
            case agent.FinishModel(model=model):
                reason = "does not match its SHA-256" if behaviour.wrong_model else ""
                behaviour.holds_model = not reason
                self._events.append(agent.ModelStored(model.sha256, reason))
            case agent.PublishInfo():
                self._publish("info", self._info())
            case agent.Load(assignment=assignment):
                yield HUNG if behaviour.load_hangs else draw.uniform(0.0, 0.4)
                self._load(assignment)
            case agent.Unload(epoch=epoch):
                self.worker.unload(epoch)
            case agent.StartMeasuring() | agent.ForgetMeasured():
                self._change_measuring(effect)

    def _compute(self, work: agent.Compute) -> Iterator[float]:
        behaviour, draw = self.behaviour, self._agenda.random
        self._tell_timings(self._timings.before(work.epoch, work.step, self._agenda.now))
        self._agenda.note(self.name, f"{work.request} {work.epoch} {work.attempt} {work.step}".encode())
        self._agenda.tell(f"{self.name} computes step {work.step} of {work.request} ({work.epoch}/{work.attempt})")
        self._kept.computed.note(self.name, self.session, work)
        held = self.state.epochs.get(work.epoch)
        if held is None:
            raise broken("two-epochs", f"{self.name} computes in epoch {work.epoch}, which it does not hold")
        step = next(s for s in held.assignment.steps if s.step == work.step)
        area = max((region_of(o.region).area for o in step.outputs), default=1)
        seconds = behaviour.seconds(step.units, area) * draw.uniform(0.9, 1.1)
        yield seconds
        if draw.random() < behaviour.failing_tiles:
            self._kept.failed_tiles += 1
            self._events.append(agent.StepFailed(work.epoch, work.request, "the tile burns", work.attempt))
            return
        outputs = self.worker.run(work)
        told = behaviour.told(seconds)
        self._events.appendleft(
            agent.StepDone(work.epoch, work.request, work.attempt, work.step, outputs, told, self._agenda.now)
        )

    def _load(self, assignment: Assignment) -> None:
        if self.behaviour.load_fails:
            self._events.append(agent.Loaded(assignment.epoch, {}, "no memory"))
            return
        try:
            self._events.append(agent.Loaded(assignment.epoch, self.worker.load(assignment)))
        except LegionError as error:
            self._events.append(agent.Loaded(assignment.epoch, {}, str(error)))

    def _report(self, message: Ready | Failed) -> None:
        kind = "failed" if isinstance(message, Failed) else "ready"
        self._agenda.tell(f"{self.name} reports {message}")
        self.publish(TOPICS.report(self.name, kind), message)

    # --- measuring ---

    def _change_measuring(self, effect: agent.StartMeasuring | agent.ForgetMeasured) -> None:
        if isinstance(effect, agent.StartMeasuring):
            self._measuring.append(effect.command)
            return
        self._measuring.clear()
        self._kept.forget(self.name, self.behaviour.board)
        self.publish_bytes(TOPICS.agent(self.name, "profile"), b"", retain=True)

    def _measure(self) -> Iterator[float]:
        """A slice of measuring, or a pause where somebody waits for what the agent computes; then the answer."""
        if not agent.may_measure(self.state, self._agenda.now):
            yield SLICE
            return
        self.measured_while_asked += any(c.operation == "profile" for c in self._measuring) and any(
            held.exchange for held in self.state.epochs
        )
        yield HUNG if self.behaviour.profile_hangs else SLICE
        if self._agenda.random.random() < 0.2:
            self._answer(self._measuring.popleft())

    def _answer(self, command: Command) -> None:
        kept, behaviour = self._kept, self.behaviour
        if command.operation == "probe":
            kept.probes += 1
            kept.profiles[self.name] = Profile(self._info().board_class, LINK, ())
            self._publish_profile()
            self.publish(TOPICS.report(self.name, "measured"), Measured(command.number, (), LINK))
            return
        done = command.parts[: self._agenda.random.randrange(1, 20)]
        kept.measured.update((behaviour.board, part) for part in done)
        times = tuple(
            PartTime(behaviour.told(behaviour.seconds(part.units, region_of(part.region).area)), 0.0, 3)
            for part in done
        )
        self.publish(TOPICS.report(self.name, "measured"), Measured(command.number, times))

    # --- what it says of itself ---

    def _publish_metrics(self) -> None:
        """A sign that the loop turns, when it is time for one."""
        now = self._agenda.now
        if now - self._told < METRICS_SECONDS - TICK / 2:
            return
        self._told = now
        metrics = Metrics(self.session, now - BEGIN, 0.0, None, False, 0, 0, 0, 0.0, 0, 0, self.dropped)
        self.publish(TOPICS.agent(self.name, "metrics"), metrics, qos=0)

    def _info(self) -> AgentInfo:
        models = tuple(sorted(self.state.models))
        return AgentInfo(self.behaviour.board, 4, 1, 1 << 30, "runtime", "1", "xnnpack", "1", models)

    def _publish_profile(self) -> None:
        if (profile := self._kept.profiles.get(self.name)) is not None:
            self._publish("profile", profile)

    def _publish(self, kind: str, message: object) -> None:
        self.publish(TOPICS.agent(self.name, kind), message, retain=True)
