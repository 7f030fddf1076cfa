"""The orchestrator's process in virtual time: the real machine of `runtime.orchestrator`, and what stands around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from legion_iot.errors import LegionError, ProtocolError
from legion_iot.planning.planners.balanced import by_speed
from legion_iot.planning.problem import Planner, Planning
from legion_iot.runtime import orchestrator
from legion_iot.runtime.simulation.agenda import Agenda
from legion_iot.runtime.simulation.behaviour import LINK
from legion_iot.runtime.simulation.broker import Broker, Publication
from legion_iot.runtime.simulation.invariants import Requests, hold
from legion_iot.runtime.simulation.participant import TICK, TOPICS, Participant
from legion_iot.wire import codec, delivery
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Chunk,
    ChunkRequest,
    Command,
    Failed,
    Fragment,
    Measured,
    Metrics,
    OrchestratorState,
    Parcel,
    Profile,
    Ready,
    Receipt,
    TileTiming,
    Timings,
)
from legion_iot.wire.tensors import INBOX, Array, fragments, region_of
from legion_iot.wire.topics import ORCHESTRATOR, AgentTopic, InboxTopic, ReportTopic

REPORTS: Mapping[str, type[Any]] = {"ready": Ready, "failed": Failed, "timing": TileTiming, "measured": Measured}
PROBE = 0.3  # seconds of probing its own link
FILTERS = (
    *(TOPICS.agent("+", kind) for kind in ("state", "info", "profile", "metrics")),
    TOPICS.report("+", "+"),
    TOPICS.inbox(ORCHESTRATOR, "+"),
)

OrchestratorStep = Callable[[orchestrator.State, orchestrator.Event, float], list[orchestrator.Effect]]


@dataclass(slots=True)
class Said:
    """What orchestrators have said in a run: phases with details, commands by agent, and the ways of requests.

    A way is the epoch and the attempt in which a request was begun last.
    """

    phases: list[tuple[str, str]] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)
    ways: dict[str, tuple[int, int]] = field(default_factory=dict)
    epochs: set[int] = field(default_factory=set)
    probes: int = 0


class OrchestratorProcess(Participant):
    """The orchestrator, from start to end; `content` is the model's file. `ended` takes requests that have ended."""

    def __init__(
        self,
        agenda: Agenda,
        broker: Broker,
        session: str,
        state: orchestrator.State,
        content: bytes,
        planner: Planner | None,
        requests: Requests,
        said: Said,
        ended: Callable[[orchestrator.RequestEnded], None],
        step: OrchestratorStep = orchestrator.step,
    ) -> None:
        super().__init__(agenda, broker, ORCHESTRATOR, session, FILTERS)
        self.state = state
        self._content, self._planner = content, planner or by_speed(state.make_plan)
        self._planning: Planning | None = None
        self._requests, self._said, self._ended, self._step = requests, said, ended, step
        self._left = {topic for topic in broker.retained if "/assignment/" in topic}  # by a former process
        self.link()
        agenda.at(TICK, self._tick)

    def request(self, request: str, inputs: tuple[Array, ...]) -> None:
        """A client's request comes in."""
        self._happens(orchestrator.RequestArrived(request, inputs))

    def replan(self, forgotten: frozenset[str], *, own_link: bool) -> None:
        """An operator wants the plan to be found anew, without what was measured on some agents."""
        for name in sorted(forgotten):
            self.publish(TOPICS.agent(name, "command"), Command("forget", number=next(self.state.shared.numbers)))
        self._happens(orchestrator.ReplanAsked(forgotten, own_link))

    def _tick(self) -> None:
        if self.alive:
            if not self.frozen:
                self._happens(orchestrator.Tick())
                self._requests.check_deadlines(self._agenda.now)
            self._agenda.at(TICK, self._tick)

    # --- the connection ---

    def _will(self) -> Publication:
        gone = codec.to_json(OrchestratorState("offline", self.session))
        return Publication(TOPICS.orchestrator_state(), gone, 1, retain=True)

    def _connected(self) -> None:
        self._happens(orchestrator.LinkFound())
        self._publish_phase()

    def _disconnected(self) -> None:
        self._happens(orchestrator.LinkLost())

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        match TOPICS.parse(topic):
            case AgentTopic() if not payload:
                pass  # a retained message that was cleared
            case AgentTopic(agent=name, kind="state"):
                self._happens(orchestrator.AgentStateArrived(name, codec.from_json(AgentState, payload)))
            case AgentTopic(agent=name, kind="info"):
                self._happens(orchestrator.AgentInfoArrived(name, codec.from_json(AgentInfo, payload)))
            case AgentTopic(agent=name, kind="profile"):
                self._happens(orchestrator.ProfileArrived(name, codec.from_json(Profile, payload)))
            case AgentTopic(agent=name, kind="metrics"):
                self._happens(orchestrator.MetricsArrived(name, codec.from_json(Metrics, payload)))
            case ReportTopic(agent=name, kind="timings"):
                for timing in codec.from_json(Timings, payload).timings:
                    self._happens(orchestrator.ReportArrived(name, timing))
            case ReportTopic(agent=name, kind=kind) if kind in REPORTS:
                self._happens(orchestrator.ReportArrived(name, codec.from_json(REPORTS[kind], payload)))
            case InboxTopic(owner=owner, sender=sender) if owner == ORCHESTRATOR:
                self._take_inbox(sender, payload)
            case _:
                raise ProtocolError("not for the orchestrator")

    def _take_inbox(self, sender: str, payload: bytes) -> None:
        content, body = codec.unpack(INBOX, payload)
        if isinstance(content, ChunkRequest):
            part = self._content[content.offset : content.offset + content.size]
            self.publish_bytes(
                TOPICS.inbox(sender, ORCHESTRATOR), codec.pack(Chunk(content.sha256, content.offset), part)
            )
        elif isinstance(content, (Parcel, Receipt)):
            self.fragments.take(sender, content, body)
        else:
            raise ProtocolError("not for the orchestrator")

    def _fragment(self, sender: str, header: Fragment, elements: memoryview) -> None:
        self._happens(orchestrator.FragmentArrived(sender, header, elements))

    def _given_up(self, effect: delivery.GiveUp) -> None:
        for lost in effect.requests:
            self._happens(orchestrator.ReportArrived(effect.target, Failed(*lost, effect.reason)))

    # --- the machine ---

    def _happens(self, event: orchestrator.Event) -> None:
        if not self.alive:
            return
        for effect in self._step(self.state, event, self._agenda.now):
            self._carry_out(effect)
        self._requests.check(self.state)

    def _carry_out(self, effect: orchestrator.Effect) -> None:
        match effect:
            case orchestrator.Assign(agent=name, assignment=assignment):
                self._check_member(name)
                self._said.epochs.add(assignment.epoch)
                self._agenda.tell(f"orchestrator assigns epoch {assignment.epoch} to {name}")
                self._left.discard(TOPICS.assignment(name, assignment.model.name))
                self.publish(TOPICS.assignment(name, assignment.model.name), assignment, retain=True)
            case orchestrator.ClearAssignment(agent=name):
                self._agenda.tell(f"orchestrator clears the assignment of {name}")
                self.publish_bytes(TOPICS.assignment(name, self.state.model.name), b"", retain=True)
            case orchestrator.SendCommand(agent=name, command=command):
                if command.operation != "release":
                    self._check_member(name)
                self._said.commands.append((name, command.operation))
                self._agenda.tell(f"orchestrator commands {name} to {command.operation}")
                self.publish(TOPICS.agent(name, "command"), command)
            case orchestrator.SendRegion(target=target, header=header, values=values):
                self._check_member(target)
                self._said.ways[header.request] = (header.epoch, header.attempt)
                whole = (0, values.shape[0], 0, values.shape[1])
                self.fragments.send(target, list(fragments(header, values, region_of(whole))))
            case orchestrator.RequestEnded():
                self._agenda.note(effect.request, effect.error.encode())
                how = f"fails: {effect.error} ({effect.reason})" if effect.error else "is answered"
                self._agenda.tell(f"{effect.request} {how} after {effect.seconds:.3f} s")
                self._requests.end(effect)
                self._ended(effect)
            case orchestrator.ProbeOwnLink(number=number):
                self._said.probes += 1
                self._agenda.at(PROBE, lambda: self._happens(orchestrator.OwnLinkProbed(number, LINK)))
            case orchestrator.Consult():
                answer = self._consult(effect)
                self._agenda.at(self._agenda.random.uniform(0.0, 0.5), lambda: self._happens(answer))
            case orchestrator.PublishState(state=phase, detail=detail):
                self._said.phases.append((phase, detail))
                if phase == "serving":
                    self._clear_left()
                self._agenda.tell(f"orchestrator is {phase}: {detail:.200}")
                self._publish_phase()

    def _clear_left(self) -> None:
        """Take back what a former process has assigned, and nobody has since."""
        for topic in sorted(self._left):
            self.publish_bytes(topic, b"", retain=True)
        self._left.clear()

    def _publish_phase(self) -> None:
        phase = OrchestratorState(self.state.phase, self.session, self.state.detail)
        self.publish(TOPICS.orchestrator_state(), phase, retain=True)

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

    def _check_member(self, name: str) -> None:
        record = self.state.agents[name]
        hold(record.online, "work-for-members", f"work for {name}, which is offline")
        hold(not record.excluded, "work-for-members", f"work for {name}, which is left out")
