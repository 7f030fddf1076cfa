"""The orchestrator's process: connections and files around `runtime.orchestrator`, which decides everything.

One loop takes messages out of the connections' queue and gives each to the model it concerns (`serving`), which asks
its machine and carries out its effects.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable

from legion_iot.errors import BrokerError, ProtocolError
from legion_iot.notify import Notifier
from legion_iot.orchestrator.options import OrchestratorOptions
from legion_iot.orchestrator.own_link import OwnLink
from legion_iot.orchestrator.serving import EndedRequest, ServedModel, Surroundings
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.profiles import MEASUREMENTS, ProfileFile
from legion_iot.runtime import orchestrator as machine
from legion_iot.runtime.fetch import CHUNK
from legion_iot.runtime.shared import Shared
from legion_iot.transport.connection import Connected, Message, Will
from legion_iot.transport.fragments import FragmentsArrived, Undelivered
from legion_iot.transport.pair import ConnectionPair, PairEvent
from legion_iot.wire import codec
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    ChunkRequest,
    Echo,
    Failed,
    Measured,
    OrchestratorState,
    Profile,
    Ready,
    TileTiming,
)
from legion_iot.wire.tensors import INBOX
from legion_iot.wire.topics import AgentTopic, InboxTopic, InferTopic, ReportTopic, Topics

log = logging.getLogger("legion-orchestrator")

TICK = 0.25  # seconds

REPORTS: dict[str, type[Ready] | type[Failed] | type[TileTiming]] = {
    "ready": Ready,
    "failed": Failed,
    "timing": TileTiming,
}


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
        notifier: Notifier | None = None,
    ) -> None:
        self._options = options
        self._on_phase = on_phase
        self._notifier = notifier or Notifier({})
        self._topics = Topics(options.base_topic)
        self._session = uuid.uuid4().hex
        will = Will(self._topics.orchestrator_state(), codec.to_json(OrchestratorState("offline", self._session)))
        client_id = f"legion-orchestrator-{options.base_topic.replace('/', '-')}"
        self._links = ConnectionPair(options.broker, client_id, will, self._topics, ORCHESTRATOR)
        self._own_link = OwnLink(self._links.data, self._topics)
        names = (f"{self._session[:8]}-{number}" for number in itertools.count(1))
        self._around = Surroundings(self._links, self._topics, self._own_link, names, self._publish_phase, on_ended)
        file = None if options.state_directory is None else options.state_directory / MEASUREMENTS
        self._file = ProfileFile(file, options.broker.endpoint)
        self._shared = Shared(int(time.time()))
        self._shared.samples, self._shared.own_link = self._file.samples, self._file.link
        self.model = ServedModel(options.model_path, options.model_name, options, self._shared, self._around)
        self._stopping = threading.Event()

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
        self.model.start()
        try:
            self._loop()
        finally:
            self._close()

    def _loop(self) -> None:
        ticked = time.monotonic()
        while not self._stopping.is_set():
            self._notifier.alive()
            arrived = self._links.next(self._own_link.patience(TICK))
            self._take(arrived)
            self.model.take_plans()
            if arrived is None and (probed := self._own_link.turn(not self._shared.under_way)) is not None:
                self.model.step(probed)
            if time.monotonic() - ticked >= TICK:
                ticked = time.monotonic()
                self.model.step(machine.Tick())

    def _close(self) -> None:
        self._notifier.stopping()
        try:
            self.model.clear_retained()
            state = OrchestratorState("offline", self._session)
            self._around.publish(self._topics.orchestrator_state(), state, retain=True)
        except BrokerError as error:
            log.warning("could not say goodbye: %s", error)
        self._links.close()

    def _publish_phase(self) -> None:
        """Tell in which phase the group is, and keep what was measured, where that has changed."""
        phase, detail, shared = self.model.state.phase, self.model.state.detail, self._shared
        if shared.samples is not self._file.samples or shared.own_link != self._file.link:
            self._file.keep(shared.samples, shared.own_link)
        state = OrchestratorState(phase, self._session, detail)
        self._around.publish(self._topics.orchestrator_state(), state, retain=True)
        if phase == "serving":
            self.model.publish_info()
        self._notifier.ready(f"{phase}: {detail}" if phase else "connected")
        self._on_phase(phase, detail)

    # --- messages ---

    def _take(self, event: PairEvent | None) -> None:
        """Give what came to whom it concerns; what is not of the protocol is logged, counted and dropped."""
        match event:
            case Connected():
                self._publish_phase()
            case FragmentsArrived(sender=sender, fragments=fragments):
                for header, body in fragments:
                    self.model.step(machine.FragmentArrived(sender, header, body))
            case Undelivered(target=target, requests=requests, reason=reason):
                for epoch, request in requests:
                    self.model.step(machine.ReportArrived(target, Failed(epoch, request, reason)))
            case Message():
                try:
                    self._receive(event)
                except ProtocolError as error:
                    self.model.state.dropped += 1
                    log.warning("dropped a message on %s: %s", event.topic, error)

    def _receive(self, message: Message) -> None:
        """Raises ProtocolError for what no model is concerned by."""
        match self._topics.parse(message.topic):
            case InboxTopic(sender=sender):
                self._receive_binary(sender, message.payload)
            case InferTopic() if not message.retain:
                self.model.request(message.payload)
            case AgentTopic() if not message.payload:
                pass  # a retained message that was cleared
            case AgentTopic(agent=agent, kind=kind):
                self.model.step(_said(agent, kind, message.payload))
            case ReportTopic(agent=agent, kind=kind):
                self.model.step(_reported(agent, kind, message.payload))
            case _:
                raise ProtocolError("not for the orchestrator")

    def _receive_binary(self, sender: str, payload: bytes) -> None:
        content, _ = codec.unpack(INBOX, payload)
        if sender == ORCHESTRATOR:
            if not isinstance(content, Echo):
                raise ProtocolError("the orchestrator sends itself nothing but echoes")
            self._own_link.echoed(content.number)
        elif isinstance(content, ChunkRequest):
            self._send_chunk(sender, content)
        else:
            raise ProtocolError("not for the orchestrator")

    def _send_chunk(self, agent: str, wanted: ChunkRequest) -> None:
        model = self.model.reference
        if wanted.sha256 != model.sha256 or not 0 <= wanted.offset < model.size:
            raise ProtocolError(f"{agent} asks for a model that is not served")
        if not 0 < wanted.size <= CHUNK:
            raise ProtocolError(f"{agent} asks for a chunk of {wanted.size} bytes")
        self._links.data.publish(self._topics.inbox(agent, ORCHESTRATOR), self.model.chunk(wanted))


def _said(agent: str, kind: str, payload: bytes) -> machine.Event:
    """What an agent retains of itself; raises ProtocolError."""
    match kind:
        case "state":
            return machine.AgentStateArrived(agent, codec.from_json(AgentState, payload))
        case "info":
            return machine.AgentInfoArrived(agent, codec.from_json(AgentInfo, payload))
        case "profile":
            return machine.ProfileArrived(agent, codec.from_json(Profile, payload))
    raise ProtocolError("not for the orchestrator")


def _reported(agent: str, kind: str, payload: bytes) -> machine.Event:
    """What an agent reports; raises ProtocolError, but for what it measured: that it is waited for is to be known."""
    if kind == "measured":
        try:
            return machine.ReportArrived(agent, codec.from_json(Measured, payload))
        except ProtocolError as error:
            return machine.ReportRefused(agent, f"its measurements cannot be read ({error})")
    if kind not in REPORTS:
        raise ProtocolError("not for the orchestrator")
    return machine.ReportArrived(agent, codec.from_json(REPORTS[kind], payload))
