"""The orchestrator's process: connections and files around `runtime.orchestrator`, which decides everything.

One loop takes messages out of the connections' queue, asks the machine, and carries out its effects.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from legion_iot.errors import BrokerError, LegionError, ModelError, ProtocolError
from legion_iot.files import sha256_of
from legion_iot.model import tflite
from legion_iot.model.blocks import divide
from legion_iot.model.description import describe
from legion_iot.orchestrator.answers import classes, digests
from legion_iot.orchestrator.inputs import read_input
from legion_iot.orchestrator.own_link import OwnLink
from legion_iot.orchestrator.planning import PlanningThread
from legion_iot.orchestrator.times import RequestClock, RequestTimes
from legion_iot.planning.planners.balanced import MakePlan, balanced, by_speed
from legion_iot.planning.problem import Objective, Planner
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.profiles import MEASUREMENTS, ProfileFile
from legion_iot.runtime import orchestrator as machine
from legion_iot.runtime.fetch import CHUNK
from legion_iot.transport.connection import BrokerAddress, Connected, Message, Will
from legion_iot.transport.fragments import FragmentsArrived, Outgoing, Undelivered
from legion_iot.transport.pair import ConnectionPair, PairEvent
from legion_iot.wire import codec
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Chunk,
    ChunkRequest,
    Echo,
    Failed,
    Measured,
    ModelInfo,
    ModelReference,
    OrchestratorState,
    Profile,
    Ready,
    Result,
    TileTiming,
)
from legion_iot.wire.quantised import EXACT
from legion_iot.wire.tensors import INBOX, region_of
from legion_iot.wire.topics import AgentTopic, InboxTopic, InferTopic, ReportTopic, Topics, check_model_name

log = logging.getLogger("legion-orchestrator")

TICK = 0.25  # seconds

REPORTS: dict[str, type[Ready] | type[Failed] | type[TileTiming]] = {
    "ready": Ready,
    "failed": Failed,
    "timing": TileTiming,
}


@dataclass(frozen=True, slots=True)
class OrchestratorOptions:
    """What the orchestrator serves, to whom, from how many agents on, and by which plan."""

    broker: BrokerAddress
    model_path: Path
    model_name: str
    base_topic: str = "legion"
    least_agents: int = 1
    wire: str = EXACT  # how float32 maps travel between agents
    make_plan: MakePlan = balanced  # from known speeds, until the planner has found one
    planner: Planner | None = None  # None: `make_plan`, once the speeds are measured
    objective: Objective = "latency"
    state_directory: Path | None = None  # where measurements are kept for later; None forgets them


@dataclass(frozen=True, slots=True, eq=False)
class EndedRequest:
    """A request's end, for whoever runs the orchestrator in its own process: the result, input, outputs and times."""

    result: Result
    input: npt.NDArray[Any] | None
    outputs: tuple[npt.NDArray[Any], ...]
    times: RequestTimes | None = None
    replica: int = 0  # of the plan


class OrchestratorService:
    """Serves one model to whoever publishes on its infer topic, from connect to disconnect.

    `on_phase(phase, detail)` and `on_ended` are called on the loop's thread. Raises ModelError where the model cannot
    be served.
    """

    def __init__(
        self,
        options: OrchestratorOptions,
        on_phase: Callable[[str, str], None] = lambda phase, detail: None,
        on_ended: Callable[[EndedRequest], None] = lambda ended: None,
    ) -> None:
        self._options = options
        self._on_phase, self._on_ended = on_phase, on_ended
        self._topics = Topics(options.base_topic)
        graph = tflite.open_file(options.model_path)
        self.network = divide(graph)
        self.description = describe(graph)
        self._content, self._model = _load(options)
        self._session = uuid.uuid4().hex
        # Epochs of a new process lie above those of the last one: agents may still hold its retained assignments.
        self.state = machine.State(
            self.network, self._model, options.least_agents, options.make_plan, options.wire, options.objective,
            epoch=int(time.time()),
        )  # fmt: skip
        file = None if options.state_directory is None else options.state_directory / MEASUREMENTS
        self._file = ProfileFile(file, options.broker.endpoint)
        self.state.selection.samples, self.state.selection.own_link = self._file.samples, self._file.link
        self._planning = PlanningThread(options.planner or by_speed(options.make_plan), self._on_planned)
        self._planned: queue.SimpleQueue[machine.PlannerAnswered] = queue.SimpleQueue()
        self._inputs: dict[str, npt.NDArray[Any]] = {}
        self._clock = RequestClock()
        self._numbers = itertools.count(1)
        self._taken = 0.0  # when the input that is being read was taken up
        self._stopping = threading.Event()
        will = Will(self._topics.orchestrator_state(), codec.to_json(OrchestratorState("offline", self._session)))
        client_id = f"legion-orchestrator-{options.base_topic.replace('/', '-')}"
        self._links = ConnectionPair(options.broker, client_id, will, lambda reason: None, self._topics, ORCHESTRATOR)
        self._own_link = OwnLink(self._links.data, self._topics)

    # --- the loop ---

    def stop(self) -> None:
        """End `run` soon; may be called from any thread or a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Serve until `stop`; raises BrokerError where the broker cannot be reached."""
        control = [
            *((self._topics.agent("+", kind), 1) for kind in ("info", "profile", "state")),
            (self._topics.report("+", "+"), 1),
            (self._topics.infer(self._options.model_name), 1),
        ]
        self._links.open(control)
        self._planning.start()
        try:
            self._loop()
        finally:
            self._close()

    def _loop(self) -> None:
        ticked = time.monotonic()
        while not self._stopping.is_set():
            arrived = self._links.next(self._own_link.patience(TICK))
            for event in self._machine_events(arrived):
                self._step(event)
            while not self._planned.empty():
                self._step(self._planned.get())
            if arrived is None and (probed := self._own_link.turn(not self.state.requests.under_way)) is not None:
                self._step(probed)
            if time.monotonic() - ticked >= TICK:
                ticked = time.monotonic()
                self._step(machine.Tick())

    def _on_planned(self, answer: machine.PlannerAnswered) -> None:
        self._planned.put(answer)
        self._links.wake()

    def _keep(self) -> None:
        """Keep what was measured, where that has changed."""
        selection = self.state.selection
        if selection.samples is not self._file.samples or selection.own_link != self._file.link:
            self._file.keep(selection.samples, selection.own_link)

    def _step(self, event: machine.Event) -> None:
        now = time.monotonic()
        if isinstance(event, machine.FragmentArrived):
            self._clock.received(event.header.request, event.sender, now, len(event.body))
        elif isinstance(event, machine.RequestArrived):
            self._clock.begin(event.request, self._taken, now)
        effects = machine.step(self.state, event, now)
        if sends := [effect for effect in effects if isinstance(effect, machine.SendRegion)]:
            self._send(sends)
        for effect in effects:
            self._carry_out(effect)

    def _close(self) -> None:
        try:
            # Nothing of ours stays behind: agents of a later run shall not find this one's assignments.
            for agent in self.state.agents:
                self._links.control.publish(self._topics.assignment(agent, self._options.model_name), b"", retain=True)
            self._links.control.publish(self._topics.model(self._options.model_name), b"", retain=True)
            self._publish(self._topics.orchestrator_state(), OrchestratorState("offline", self._session), retain=True)
        except BrokerError as error:
            log.warning("could not say goodbye: %s", error)
        self._links.close()

    def _machine_events(self, event: PairEvent | None) -> list[machine.Event]:
        """The machine's events for what came; none for what was answered here or is not of the protocol."""
        match event:
            case Connected():
                self._publish_phase()
            case FragmentsArrived(sender=sender, fragments=fragments):
                return [machine.FragmentArrived(sender, header, body) for header, body in fragments]
            case Undelivered(target=target, requests=requests, reason=reason):
                return [machine.ReportArrived(target, Failed(*lost, reason)) for lost in requests]
            case Message():
                try:
                    parsed = self._parsed(event)
                except ProtocolError as error:
                    self.state.dropped += 1
                    log.warning("dropped a message on %s: %s", event.topic, error)
                else:
                    return [parsed] if parsed is not None else []
        return []

    def _parsed(self, message: Message) -> machine.Event | None:
        match self._topics.parse(message.topic):
            case AgentTopic(agent=agent, kind="state") if message.payload:
                return machine.AgentStateArrived(agent, codec.from_json(AgentState, message.payload))
            case AgentTopic(agent=agent, kind="info") if message.payload:
                return machine.AgentInfoArrived(agent, codec.from_json(AgentInfo, message.payload))
            case AgentTopic(agent=agent, kind="profile") if message.payload:
                return machine.ProfileArrived(agent, codec.from_json(Profile, message.payload))
            case ReportTopic(agent=agent, kind="measured"):
                return self._measured(agent, message.payload)
            case ReportTopic(agent=agent, kind=kind) if kind in REPORTS:
                return machine.ReportArrived(agent, codec.from_json(REPORTS[kind], message.payload))
            case InboxTopic(sender=sender):
                content, _ = codec.unpack(INBOX, message.payload)
                if sender == ORCHESTRATOR:
                    if not isinstance(content, Echo):
                        raise ProtocolError("the orchestrator sends itself nothing but echoes")
                    self._own_link.echoed(content.number)
                    return None
                if isinstance(content, ChunkRequest):
                    self._send_chunk(sender, content)
                    return None
            case InferTopic() if not message.retain:
                return self._request(message.payload)
            case AgentTopic():
                return None  # a retained message that was cleared
        raise ProtocolError("not for the orchestrator")

    def _measured(self, agent: str, payload: bytes) -> machine.Event:
        try:
            return machine.ReportArrived(agent, codec.from_json(Measured, payload))
        except ProtocolError as error:
            return machine.ReportRefused(agent, f"its measurements cannot be read ({error})")

    def _request(self, payload: bytes) -> machine.Event | None:
        request = f"{self._session[:8]}-{next(self._numbers)}"
        self._taken = time.monotonic()
        try:
            array = read_input(payload, self.network.graph, self.description)
        except LegionError as error:
            self._finish(machine.RequestEnded(request, self.state.epoch, 0.0, error="bad-input", reason=str(error)))
            return None
        self._inputs[request] = array
        return machine.RequestArrived(request, (array,))

    def _send_chunk(self, agent: str, wanted: ChunkRequest) -> None:
        if wanted.sha256 != self._model.sha256 or not 0 <= wanted.offset < self._model.size:
            raise ProtocolError(f"{agent} asks for a model that is not served")
        if not 0 < wanted.size <= CHUNK:
            raise ProtocolError(f"{agent} asks for a chunk of {wanted.size} bytes")
        body = self._content[wanted.offset : wanted.offset + wanted.size]
        payload = codec.pack(Chunk(wanted.sha256, wanted.offset)), body
        self._links.data.publish(self._topics.inbox(agent, "orchestrator"), payload)

    # --- effects ---

    def _carry_out(self, effect: machine.Effect) -> None:
        match effect:
            case machine.RequestEnded():
                self._finish(effect)
            case machine.Assign(agent=agent, assignment=assignment):
                self._publish(self._topics.assignment(agent, assignment.model.name), assignment, retain=True)
            case machine.SendCommand(agent=agent, command=command):
                self._publish(self._topics.agent(agent, "command"), command)
            case machine.Consult():
                self._planning.consult(effect)
            case machine.ProbeOwnLink(number=number):
                self._own_link.start(number)
            case machine.PublishState():
                self._keep()
                self._publish_phase()

    def _send(self, sends: Sequence[machine.SendRegion]) -> None:
        start = time.monotonic()
        regions = []
        for effect in sends:
            rows, columns = effect.values.shape[:2]
            regions.append(Outgoing(effect.target, effect.header, effect.values, region_of((0, rows, 0, columns))))
        self._links.send(regions)
        for region in regions:
            self._clock.sent(region.header.request, region.target, start, region.size)

    def _publish_phase(self) -> None:
        phase, detail = self.state.phase, self.state.detail
        self._publish(self._topics.orchestrator_state(), OrchestratorState(phase, self._session, detail), retain=True)
        if phase == "serving":
            tensor = self.network.graph.tensors[self.network.graph.inputs[0]]
            agents = self.state.plan.agents if self.state.plan else ()
            info = ModelInfo(
                self._model.name, self._model.sha256, self._model.size, tensor.shape, tensor.dtype,
                self.state.epoch, agents,
            )  # fmt: skip
            self._publish(self._topics.model(self._options.model_name), info, retain=True)
        self._on_phase(phase, detail)

    def _finish(self, ended: machine.RequestEnded) -> None:
        graph = self.network.graph
        times = self._clock.end(ended.request, ended.seconds)
        result = Result(
            request=ended.request,
            ok=not ended.error,
            model=self._model.name,
            epoch=ended.epoch,
            latency_ms=round(ended.seconds * 1e3, 3),
            answer=classes(graph, self.description, ended.outputs) if not ended.error else (),
            outputs=digests(graph, ended.outputs) if not ended.error else (),
            error=ended.error,
            reason=ended.reason,
        )
        self._publish(self._topics.result(self._options.model_name), result)
        if times is not None:
            times.published = time.monotonic()
        value = self._inputs.pop(ended.request, None)
        self._on_ended(EndedRequest(result, value, ended.outputs, times, ended.replica))

    def _publish(self, topic: str, message: object, *, retain: bool = False) -> None:
        self._links.control.publish(topic, codec.to_json(message), retain=retain)


def _load(options: OrchestratorOptions) -> tuple[memoryview, ModelReference]:
    """The file's content, memory-mapped, and how it is referred to."""
    path = options.model_path
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return content, ModelReference(check_model_name(options.model_name), sha256_of(path), len(content))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); give a readable .tflite file") from None
