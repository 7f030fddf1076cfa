"""The orchestrator's process: connections and files around `runtime.orchestrator`, which decides everything.

One loop takes messages out of the connections' queue and gives each to the models it concerns (`models`), which ask
their machines and carry out the effects (`serving`).
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

from legion_iot.errors import BrokerError, NameTakenError, ProtocolError
from legion_iot.notify import Notifier
from legion_iot.orchestrator.background import Background
from legion_iot.orchestrator.bridge import Bridge
from legion_iot.orchestrator.chunks import ChunkServer
from legion_iot.orchestrator.intake import Intake, Request
from legion_iot.orchestrator.journal import Journal
from legion_iot.orchestrator.model_store import ModelStore
from legion_iot.orchestrator.models import ServedModels
from legion_iot.orchestrator.options import OrchestratorOptions
from legion_iot.orchestrator.own_link import OwnLink
from legion_iot.orchestrator.replies import Replies
from legion_iot.orchestrator.reporting import Reporter
from legion_iot.orchestrator.retained import Retained
from legion_iot.orchestrator.serving import EndedRequest, ServedModel, Surroundings, load
from legion_iot.planning.problem import Planner
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.profiles import MEASUREMENTS, ProfileFile
from legion_iot.runtime import orchestrator as machine
from legion_iot.runtime.name_claim import NameClaim, Next
from legion_iot.runtime.shared import Shared
from legion_iot.transport.connection import Connected, Disconnected, Message, Will
from legion_iot.transport.fragments import FragmentsArrived, Undelivered
from legion_iot.transport.pair import ConnectionPair, PairEvent
from legion_iot.transport.retained import read_retained
from legion_iot.wire import codec
from legion_iot.wire.bridge import BridgeResponse
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    ChunkRequest,
    Echo,
    Failed,
    Measured,
    Metrics,
    OrchestratorState,
    Profile,
    Ready,
    Result,
    TileTiming,
    Timings,
)
from legion_iot.wire.tensors import INBOX
from legion_iot.wire.topics import AgentTopic, BridgeTopic, InboxTopic, ReportTopic, Topics

log = logging.getLogger("legion-orchestrator")

TICK = 0.25  # seconds
SESSION_SECONDS = 120  # for which the broker keeps requests while nobody serves: as long as one may take

REPORTS: dict[str, type[Ready] | type[Failed] | type[TileTiming]] = {
    "ready": Ready,
    "failed": Failed,
    "timing": TileTiming,
}


class OrchestratorService:
    """Serves models to whoever publishes on their infer topics, from connect to disconnect.

    `on_phase(phase, detail)` and `on_ended` are called on the loop's thread. With a state directory, models can be
    added and removed meanwhile, and are served again by the next run. Raises ModelError where a model cannot be served,
    UsageError where its name cannot be, InputError where the state directory cannot be used.
    """

    def __init__(
        self,
        options: OrchestratorOptions,
        on_phase: Callable[[str, str], None] = lambda phase, detail: None,
        on_ended: Callable[[EndedRequest], None] = lambda ended: None,
        notifier: Notifier | None = None,
    ) -> None:
        self._on_phase = on_phase
        self._notifier = notifier or Notifier({})
        self._topics = Topics(options.base_topic)
        self._session = uuid.uuid4().hex
        will = Will(self._topics.orchestrator_state(), codec.to_json(OrchestratorState("offline", self._session)))
        group = f"legion-orchestrator-{options.base_topic.replace('/', '-')}"
        self._broker, self._client_id = options.broker, f"{group}-{self._session[:12]}"
        self._claim = NameClaim(self._session)
        self._journal = _journal(options)
        self._links = ConnectionPair(options.broker, self._client_id, will, self._topics, ORCHESTRATOR)
        self._replies = Replies(self._topics, self._session, self._journal, self._links.control)
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()  # the intake's limits are its own
        session_seconds = 0 if options.state_directory is None else SESSION_SECONDS
        self._intake = Intake(
            options.broker, f"{group}-requests", session_seconds, self._replies.admit, self._on_request
        )
        self._retained = Retained(self._links)
        self._own_link = OwnLink(self._links.data, self._topics)
        file = None if options.state_directory is None else options.state_directory / MEASUREMENTS
        self._file = ProfileFile(file, options.broker.endpoint)
        self._shared = Shared(max(int(time.time()), self._journal.epoch + 1))
        self._shared.epochs = self._noted(self._shared.epochs)
        self._shared.samples, self._shared.own_link = self._file.samples, self._file.link
        self._on_ended = on_ended
        self._around = Surroundings(
            self._links, self._topics, self._own_link, self._shared, self._retained, self._replies, self._changed,
            self._ended,
        )  # fmt: skip
        self.models = ServedModels(options, self._around)
        self._chunks = ChunkServer(self.models.content, self._send_chunk, self._links.wake)
        for model in options.models:
            self.models.add(load(model))
        self._background = Background(self._links.wake)
        self._reporter = Reporter(
            self._session, self._around, self.models, self._background, options.watchers, time.monotonic()
        )
        directory = options.state_directory
        store = None if directory is None else ModelStore(directory / "served", options.base_topic)
        self._bridge = Bridge(store, self.models, self._background, self._respond, self._publish_phase)
        self._bridge.serve_kept()
        self._asked: queue.SimpleQueue[Request] = queue.SimpleQueue()  # by operators; pieces of models are large, too
        self._operators = Intake(options.broker, f"{self._client_id}-operators", 0, _admit_operator, self._on_asked)
        self._stopping = threading.Event()

    # --- the loop ---

    def stop(self) -> None:
        """End `run` soon; may be called from any thread or a signal handler."""
        self._stopping.set()

    def plan_by(self, model: str, planner: Planner) -> None:
        """Have a served model's plan found anew by this planner; may be called from any thread. Raises KeyError."""
        served = self.models.by_name[model]
        self._background.do(lambda: None, lambda outcome: served.plan_by(planner))

    def run(self) -> None:
        """Serve until `stop`.

        Raises BrokerError where the broker cannot be reached, NameTakenError where another orchestrator took the group.
        """
        control = [
            *((self._topics.agent("+", kind), 1) for kind in ("info", "profile", "state")),
            (self._topics.agent("+", "metrics"), 0),
            (self._topics.report("+", "+"), 1),
            (self._topics.orchestrator_state(), 1),
        ]
        self._retained.found(self._left_behind())
        self._links.open(control)
        self._retained.clear_left(lambda topic: not any(m.concerns(topic) for m in self.models.by_name.values()))
        self._replies.answer_left()
        try:
            self._intake.open(self._topics.infer("+"))
            self._operators.open(self._topics.bridge_request("+"))
            self._reporter.start()
            self._loop()
        finally:
            self._close()

    def _left_behind(self) -> list[Message]:
        """What an orchestrator before this one has left retained."""
        left = [self._topics.assignment("+", "+"), self._topics.model("+"), self._topics.plan("+")]
        return read_retained(self._broker, f"{self._client_id}-reader", left)

    def _on_request(self, request: Request) -> None:
        self._requests.put(request)
        self._links.wake()

    def _on_asked(self, request: Request) -> None:
        self._asked.put(request)
        self._links.wake()

    def _noted(self, epochs: Iterator[int]) -> Iterator[int]:
        for epoch in epochs:
            self._journal.begun(epoch)
            yield epoch

    def _loop(self) -> None:
        ticked = time.monotonic()
        while not self._stopping.is_set():
            self._notifier.alive()
            arrived = self._links.next(self._own_link.patience(TICK))
            self._take(arrived)
            self._take_request()
            self._take_asked()
            self.models.take_plans()
            self._background.deliver()
            self._chunks.send_more()
            if arrived is None and (probed := self._own_link.turn(not self._shared.under_way)) is not None:
                self.models.tell(probed)
            if time.monotonic() - ticked >= TICK:
                ticked = time.monotonic()
                self.models.tell(machine.Tick())
                if self._claim.held:
                    self._intake.keep()
                    self._reporter.tick(ticked)

    def _close(self) -> None:
        self._notifier.stopping()
        self._reporter.close()
        self._intake.close()
        self._operators.close()
        try:
            self._replies.answer_open()
            if self._claim.held:  # else it is another one's by now
                state = self._topics.orchestrator_state()
                self._retained.clear(lambda topic: topic != state)
                self._retained.clear_left(lambda topic: True)
                self._reporter.clear()
                self._around.retain(state, OrchestratorState("offline", self._session))
        except BrokerError as error:
            log.warning("could not say goodbye: %s", error)
        self._links.close()
        self._background.stop()
        self._journal.close()

    def _ended(self, ended: EndedRequest) -> None:
        self._reporter.ended(ended, time.monotonic())
        self._on_ended(ended)

    def _changed(self, model: ServedModel) -> None:
        """The phase of a model has changed."""
        if model.state.phase == "serving":
            model.publish_info()
            self._retained.clear_left(model.concerns)
        self._publish_phase()

    def _publish_phase(self) -> None:
        """Tell in which phase the group is, and keep what was measured, where that has changed."""
        shared = self._shared
        if shared.samples is not self._file.samples or shared.own_link != self._file.link:
            self._file.keep(shared.samples, shared.own_link)
        self._publish_state()
        phase, detail = self.models.phase
        self._notifier.ready(f"{phase}: {detail}" if phase else "connected")
        self._on_phase(phase, detail)

    def _publish_state(self) -> None:
        phase, detail = self.models.phase
        if not self._claim.held:
            return
        state = OrchestratorState(phase, self._session, detail, self.models.online)
        self._around.retain(self._topics.orchestrator_state(), state)
        self._claim.announced()

    # --- messages ---

    def _take(self, event: PairEvent | None) -> None:
        """Give what came to whom it concerns; what is not of the protocol is logged, counted and dropped."""
        match event:
            case Connected():
                self.models.tell(machine.LinkFound())
                self._follow(self._claim.connected())
            case Disconnected():
                self._claim.disconnected()
                self.models.tell(machine.LinkLost())
            case FragmentsArrived(sender=sender, fragments=fragments):
                for header, body in fragments:
                    self.models.tell(machine.FragmentArrived(sender, header, body))
            case Undelivered(target=target, requests=requests, reason=reason):
                for epoch, request in requests:
                    self.models.tell(machine.ReportArrived(target, Failed(epoch, request, reason)))
            case Message():
                self._receive_or_drop(event)

    def _receive_or_drop(self, message: Message) -> None:
        try:
            self._receive(message)
        except ProtocolError as error:
            self.models.dropped += 1
            log.warning("dropped a message on %s: %s", message.topic, error)

    def _receive(self, message: Message) -> None:
        """Raises ProtocolError for what no model is concerned by."""
        if message.topic == self._topics.orchestrator_state():
            self._see(message)
            return
        match self._topics.parse(message.topic):
            case InboxTopic(sender=sender):
                self._receive_binary(sender, message.payload)
            case BridgeTopic(operation=operation):
                self._bridge.take(operation, message.payload)
            case AgentTopic() if not message.payload:
                pass  # a retained message that was cleared
            case AgentTopic(agent=agent, kind=kind):
                said = _said(agent, kind, message.payload)
                if isinstance(said, machine.MetricsArrived):
                    self._reporter.heard(agent, said.metrics, time.monotonic())
                self.models.tell(said)
                if kind == "state":
                    self._publish_state()
            case ReportTopic(agent=agent, kind=kind):
                for event in _reported(agent, kind, message.payload):
                    self.models.tell(event)
            case _:
                raise ProtocolError("not for the orchestrator")

    def _receive_binary(self, sender: str, payload: bytes) -> None:
        content, _ = codec.unpack(INBOX, payload)
        if sender == ORCHESTRATOR:
            if not isinstance(content, Echo):
                raise ProtocolError("the orchestrator sends itself nothing but echoes")
            self._own_link.echoed(content.number)
        elif isinstance(content, ChunkRequest):
            self._chunks.ask(sender, content, time.monotonic())
        else:
            raise ProtocolError("not for the orchestrator")

    def _respond(self, operation: str, response: BridgeResponse) -> None:
        self._around.publish(self._topics.bridge_response(operation), response)

    def _take_request(self) -> None:
        """One at a time: reading a picture takes longer than what agents say, which comes in between."""
        if self._requests.empty():
            return
        request = self._requests.get()
        self._intake.taken(request)
        name = request.message.topic.rpartition("/")[2]
        if (model := self.models.by_name.get(name)) is not None:
            model.request(request.name, request.message.payload, request.message.expiry or math.inf)
            return
        served = list(self.models.by_name)
        near = "".join(f"; did you mean {each}?" for each in difflib.get_close_matches(name, served, 1))
        reason = f"there is no model {name}{near or ';'} served are: {', '.join(served) or 'none'}"
        self._replies.answer(Result(request.name, False, name, 0, 0.0, error="no-model", reason=reason))

    def _take_asked(self) -> None:
        while not self._asked.empty():
            asked = self._asked.get()
            self._operators.taken(asked)
            self._receive_or_drop(asked.message)

    # --- whose the group is: as an agent's name ---

    def _see(self, message: Message) -> None:
        """What an orchestrator, ourselves perhaps, says of itself; raises ProtocolError."""
        if message.payload:
            state = codec.from_json(OrchestratorState, message.payload)
            self._follow(self._claim.seen(state.session, state.state != "offline", message.retain))

    def _follow(self, what: Next) -> None:
        match what:
            case Next.ANNOUNCE:
                self._retained.say_again(but=self._topics.orchestrator_state())
                self._publish_phase()
            case Next.GIVE_UP:
                raise NameTakenError(
                    f"another orchestrator serves the group {self._topics.base!r}, so this one ends; "
                    "give one of them a --base-topic of its own"
                )

    def _send_chunk(self, agent: str, payload: tuple[bytes, memoryview], on_acknowledged: Callable[[], None]) -> bool:
        topic = self._topics.inbox(agent, ORCHESTRATOR)
        try:
            self._links.data.publish(topic, payload, on_acknowledged=on_acknowledged)
        except BrokerError as error:  # too much waits already
            log.warning("a chunk for %s is not sent: %s", agent, error)
            return False
        return True


def _admit_operator(message: Message, crowded: bool) -> str | None:
    """What operators ask has no name; who hears no answer asks again."""
    return None if message.retain or crowded else ""


def _journal(options: OrchestratorOptions) -> Journal:
    """The one of this group at this broker."""
    if options.state_directory is None:
        return Journal()
    group = hashlib.sha256(f"{options.broker.endpoint} {options.base_topic}".encode()).hexdigest()[:16]
    return Journal(options.state_directory / "requests" / f"{group}.jsonl")


def _said(agent: str, kind: str, payload: bytes) -> machine.Event:
    """What an agent retains of itself; raises ProtocolError."""
    match kind:
        case "state":
            return machine.AgentStateArrived(agent, codec.from_json(AgentState, payload))
        case "info":
            return machine.AgentInfoArrived(agent, codec.from_json(AgentInfo, payload))
        case "profile":
            return machine.ProfileArrived(agent, codec.from_json(Profile, payload))
        case "metrics":
            return machine.MetricsArrived(agent, codec.from_json(Metrics, payload))
    raise ProtocolError("not for the orchestrator")


def _reported(agent: str, kind: str, payload: bytes) -> Sequence[machine.Event]:
    """What an agent reports; raises ProtocolError, but for what it measured: that it is waited for is to be known."""
    if kind == "measured":
        try:
            return (machine.ReportArrived(agent, codec.from_json(Measured, payload)),)
        except ProtocolError as error:
            return (machine.ReportRefused(agent, f"its measurements cannot be read ({error})"),)
    if kind == "timings":
        return [machine.ReportArrived(agent, each) for each in codec.from_json(Timings, payload).timings]
    if kind not in REPORTS:
        raise ProtocolError("not for the orchestrator")
    return (machine.ReportArrived(agent, codec.from_json(REPORTS[kind], payload)),)
