"""The agent's process: connections and executor around `runtime.agent`, which decides everything.

One loop takes messages out of the connections' queue, asks the machine, and carries out its effects, computing
included; before each step that is computed, everything that has come by then is taken in.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from legion_iot import __version__
from legion_iot.errors import AgentError, BrokerError, LegionError, ProtocolError
from legion_iot.notify import Notifier
from legion_iot.profiles import ProfileFile
from legion_iot.runtime import agent as machine
from legion_iot.runtime.timing_reports import HeldTimings, report_of
from legion_iot.transport.connection import BrokerAddress, Connected, Disconnected, Message, Will
from legion_iot.transport.fragments import FragmentsArrived, Outgoing, Undelivered
from legion_iot.transport.link import SHOT_TIMEOUT, LinkProber, Shot
from legion_iot.transport.pair import ConnectionPair, PairEvent
from legion_iot.wire import codec
from legion_iot.wire.messages import (
    AgentInfo,
    Assignment,
    Chunk,
    Command,
    Echo,
    Failed,
    Measured,
    ModelReference,
    Ready,
    TileTiming,
)
from legion_iot.wire.tensors import INBOX, region_of
from legion_iot.wire.topics import AgentTopic, AssignmentTopic, InboxTopic, Topics
from legion_iot_agent.codecs import codec_speeds
from legion_iot_agent.condition import Device, board
from legion_iot_agent.engine import Engine
from legion_iot_agent.executor import Executor
from legion_iot_agent.interpreter import runtime_info
from legion_iot_agent.leaving import DRAIN_SECONDS, UNRELEASED_SECONDS
from legion_iot_agent.limits import Memory
from legion_iot_agent.measurements import Measurements, handling_clock, probe_region
from legion_iot_agent.presence import Presence, Work, last_words
from legion_iot_agent.profiler import Profiler
from legion_iot_agent.store import ModelStore

log = logging.getLogger("legion-agent")

TICK = 0.5  # seconds
MOST_AT_ONCE = 64  # events taken in before anything else is looked at
DRAIN_TURN = 0.05  # seconds between looks at whether all is done


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What an agent needs to know to take part."""

    broker: BrokerAddress
    name: str
    state_directory: Path
    base_topic: str = "legion"
    threads: int = 1
    xnnpack: bool = True
    cpu_share: float | None = None  # cores; None takes what the machine gives
    cpu_quota: float | None = None  # cores that the kernel holds it to; None takes what its control group says
    board: str | None = None
    memory_bytes: int | None = None  # None takes what the machine gives
    model_disk_bytes: int | None = None  # None takes half of what is free


class AgentService:
    """One agent, from connect to disconnect."""

    def __init__(self, options: AgentOptions, notifier: Notifier | None = None) -> None:
        self._options = options
        self._notifier = notifier or Notifier({})
        self._topics = Topics(options.base_topic)
        self._session = uuid.uuid4().hex
        self._runtime = runtime_info(options.xnnpack)
        self._store = ModelStore(options.state_directory / "models", options.model_disk_bytes)
        engine = Engine(options.threads, options.xnnpack, options.cpu_share)
        self._memory = Memory(options.memory_bytes)
        self._executor = Executor(options.state_directory / "plan", engine, self._memory)
        self._state = machine.State(options.name, set(self._store.held()))
        self._events: deque[machine.Event] = deque()
        self._work = Work()
        self._timings = HeldTimings()
        self._drains_since = math.inf
        self._stopping = False
        will = Will(self._topic("state"), last_words(self._session))
        # No other process has this client id: brokers do not say why they end a link whose id is used again.
        client_id = f"legion-{options.name}-{self._session[:12]}"
        self._links = ConnectionPair(options.broker, client_id, will, self._topics, options.name)
        self._presence = Presence(
            self._links, self._topics, options.name, self._session,
            Device(self._memory.most, options.state_directory), self._announce_more,
        )  # fmt: skip
        self._measurements = Measurements(
            ProfileFile(options.state_directory / "profile.json", options.broker.endpoint),
            Profiler(options.state_directory / "part", engine.load, options.threads, options.cpu_quota),
            lambda: LinkProber(self._send_probe, time.monotonic, handling_clock(options.threads, options.cpu_quota)),
            self._tell_measured,
        )

    def _topic(self, kind: str) -> str:
        return self._topics.agent(self._options.name, kind)

    # --- the loop ---

    def stop(self) -> None:
        """End `run` soon; may be called from a signal handler."""
        self._stopping = True

    def drain(self) -> None:
        """Let others take over, and end `run` then; may be called from any thread."""
        self._drains_since = time.monotonic()
        self._notifier.stopping()
        self._presence.drains = True
        self._links.wake()

    @property
    def _drains(self) -> bool:
        return self._drains_since < math.inf

    def run(self) -> None:
        """Take part until `stop`.

        Raises BrokerError where the broker cannot be reached, NameTakenError where another agent took the name.
        """
        name = self._options.name
        own = [self._topics.assignment(name, "+"), self._topic("command"), self._topic("state")]
        self._links.open([(topic, 1) for topic in own])
        log.info("agent %s is online at %s", name, self._options.broker)
        try:
            self._loop()
        finally:
            self._close()

    def _loop(self) -> None:
        ticked, wait = time.monotonic(), TICK
        while not self._stopping and not self._is_drained():
            self._notifier.alive()
            arrived = self._links.next(min(wait, DRAIN_TURN) if self._drains else wait)
            if arrived is None:
                self._events.append(machine.Idle())
            else:
                self._take_all(arrived)
            if time.monotonic() - ticked >= TICK:
                ticked = time.monotonic()
                self._events.append(machine.Tick())
                self._tell_timings(self._timings.take())
            self._work.dropped = self._state.dropped
            self._presence.turn(self._work, self._memory.most)
            # As long as anything happens, what came meanwhile is taken in without waiting, and then comes Idle.
            wait = 0.0 if self._work_off() or arrived is not None else self._measure()

    def _is_drained(self) -> bool:
        """Whether we are to end, and nothing is under way any more, or for too long."""
        if not self._drains:
            return False
        drained = time.monotonic() - self._drains_since
        under_way = self._events or machine.has_unfinished(self._state) or not self._links.delivered
        if under_way or (machine.is_assigned(self._state) and drained < UNRELEASED_SECONDS):
            return drained > DRAIN_SECONDS
        return True

    def _work_off(self) -> bool:
        """Until no event is left; whether there was anything to do."""
        worked = False
        while self._events and not self._stopping:
            effects = machine.step(self._state, self._events.popleft(), time.monotonic())
            if sends := [effect for effect in effects if isinstance(effect, machine.SendRegion)]:
                self._send(sends)
            for effect in effects:
                self._carry_out(effect)
                worked = True
        return worked

    def _measure(self) -> float:
        """With nothing else to do: a slice of what there is to measure. Returns how long to wait for a message now."""
        if not self._measurements.busy or self._drains:
            return TICK
        if not machine.may_measure(self._state, time.monotonic()):
            self._measurements.disturb()
            return machine.LEAST_PAUSE
        with self._notifier.working():
            self._measurements.turn()
        return TICK if self._measurements.waits else 0.0

    def _close(self) -> None:
        self._notifier.stopping()
        try:
            self._presence.leave()
        except BrokerError as error:
            log.warning("could not say goodbye: %s", error)
        self._links.close()
        self._measurements.stop()
        self._executor.close()

    def _take_all(self, event: PairEvent) -> None:
        """Take in an event and what came with it: the rest of a round of the loop costs as much as several of them."""
        more: PairEvent | None = event
        for left in reversed(range(MOST_AT_ONCE)):
            if more is None or self._stopping:
                return
            self._take(more)
            self._work_off()  # what follows from it goes before the next one
            more = self._links.next(0.0) if left else None

    def _take(self, event: PairEvent) -> None:
        """Turn a message into an event of the machine; what is not of the protocol is logged and dropped."""
        match event:
            case Connected():
                self._presence.connected()
                self._notifier.ready(f"{self._options.name} is online at {self._options.broker.endpoint}")
            case Disconnected(reason=reason):
                self._presence.disconnected()
                self._notifier.status(f"the link to {self._options.broker.endpoint} is lost: {reason}")
            case FragmentsArrived(sender=sender, fragments=fragments) if sender == self._options.name:
                for header, body in fragments:
                    self._measurements.echoed(header.step, len(body))
            case FragmentsArrived(sender=sender, fragments=fragments, received=received):
                self._events.extend(
                    machine.FragmentArrived(sender, header, body, received) for header, body in fragments
                )
            case Undelivered(requests=requests, reason=reason):
                self._events.extend(machine.StepFailed(epoch, request, reason) for epoch, request in requests)
            case Message():
                try:
                    self._receive(event)
                except ProtocolError as error:
                    self._state.dropped += 1
                    log.warning("dropped a message on %s: %s", event.topic, error)

    def _receive(self, message: Message) -> None:
        event = self._event(message)
        if event is not None:
            self._events.append(event)

    def _event(self, message: Message) -> machine.Event | None:
        """The machine's event for a message; None for what was dealt with here. Raises ProtocolError."""
        match self._topics.parse(message.topic):
            case AssignmentTopic(model=model):
                if not message.payload:
                    return machine.AssignmentCleared(model)
                assignment = codec.from_json(Assignment, message.payload)
                if assignment.model.name != model:
                    raise ProtocolError(f"an assignment for {assignment.model.name!r:.80}")
                return machine.AssignmentArrived(assignment)
            case AgentTopic(kind="state"):
                self._presence.seen(message.payload, message.retain)
                return None
            case AgentTopic(kind="command"):
                return machine.CommandArrived(codec.from_json(Command, message.payload))
            case InboxTopic(sender=sender):
                content, body = codec.unpack(INBOX, message.payload)
                if isinstance(content, Chunk) and sender == "orchestrator":
                    return machine.ChunkArrived(content, body)
                if isinstance(content, Echo) and sender == self._options.name:
                    self._measurements.echoed(content.number)
                    return None
        raise ProtocolError("not for an agent")

    # --- effects ---

    def _carry_out(self, effect: machine.Effect) -> None:
        match effect:
            case machine.Compute():
                self._compute(effect)
            case machine.Report(message=message):
                self._report(message)
            case machine.ReportTiming(timing=timing, computed=computed, within=within, is_last=is_last):
                now = time.monotonic()
                timing = dataclasses.replace(timing, sending=now - computed)
                self._tell_timings(self._timings.add(timing, within, is_last, now))
            case machine.AskChunk(request=request):
                self._links.data.publish(self._topics.inbox("orchestrator", self._options.name), codec.pack(request))
            case machine.MakeRoom() | machine.StoreChunk() | machine.FinishModel():
                self._store_model(effect)
            case machine.PublishInfo():
                self._publish_info()
            case machine.Load(assignment=assignment):
                self._load(assignment)
            case machine.Unload(epoch=epoch):
                self._executor.unload(epoch)
            case machine.StartMeasuring(command=command):
                self._start_measuring(command)
            case machine.ForgetMeasured():
                self._measurements.forget()
                self._links.control.publish(self._topic("profile"), b"", retain=True)

    def _send(self, sends: Sequence[machine.SendRegion]) -> None:
        """All regions of a step at once, so that small ones go first and share messages."""
        self._links.send([Outgoing(s.target, s.header, s.values, region_of(s.origin)) for s in sends])

    def _store_model(self, effect: machine.MakeRoom | machine.StoreChunk | machine.FinishModel) -> None:
        sha256 = effect.chunk.sha256 if isinstance(effect, machine.StoreChunk) else effect.model.sha256
        try:
            match effect:
                case machine.MakeRoom(model=model, needed=needed):
                    there, removed = self._store.make_room(sha256, model.size, needed)
                    self._events.append(machine.RoomMade(sha256, there, removed))
                case machine.StoreChunk(chunk=chunk, body=body):
                    self._store.write(sha256, chunk.offset, body)
                case machine.FinishModel(model=model):
                    with self._notifier.working():
                        self._store.finish(sha256, model.size)
                    self._events.append(machine.ModelStored(sha256))
        except AgentError as error:
            self._events.append(machine.ModelStored(sha256, str(error)))

    def _start_measuring(self, command: Command) -> None:
        if command.model is None:
            self._measurements.probe(command)
            return
        try:
            with self._notifier.working():
                model = self._store.use(command.model.sha256)
        except AgentError as error:
            self._lose(command.model, error, command)
        else:
            self._measurements.profile(model, command, self._info().board_class)

    def _lose(self, model: ModelReference, error: AgentError, command: Command | None = None) -> None:
        log.error("%s", error)
        self._events.append(machine.ModelLost(model, command))

    def _send_probe(self, shot: Shot, number: int) -> bool:
        name = self._options.name
        if shot.region:
            self._links.send([probe_region(name, number, shot.size)])
            return True
        topic = self._topics.inbox(name, name) if shot.echo else self._topics.probe(name)
        self._links.data.publish(topic, (codec.pack(Echo(number)), bytes(shot.size)))
        return shot.echo or self._links.data.flush(SHOT_TIMEOUT)

    def _tell_timings(self, timings: tuple[TileTiming, ...]) -> None:
        if report := report_of(timings):
            kind, message = report
            self._publish(self._topics.report(self._options.name, kind), message, qos=0)

    def _tell_measured(self, measured: Measured) -> None:
        self._publish_profile()
        self._publish(self._topics.report(self._options.name, "measured"), measured)

    def _compute(self, work: machine.Compute) -> None:
        self._tell_timings(self._timings.before(work.epoch, work.step, time.monotonic()))
        try:
            with self._notifier.working((work.epoch, work.step)):
                outputs, seconds = self._executor.run(work.epoch, work.step, work.inputs)
        except LegionError as error:
            self._events.append(machine.StepFailed(work.epoch, work.request, str(error), work.attempt))
            return
        ended = time.monotonic()
        self._work.tiles += 1
        self._work.computing += seconds
        self._events.appendleft(
            machine.StepDone(work.epoch, work.request, work.attempt, work.step, outputs, seconds, ended)
        )

    def _load(self, assignment: Assignment) -> None:
        try:
            with self._notifier.working():  # a large file is hashed
                model = self._store.use(assignment.model.sha256)
        except AgentError as error:
            self._lose(assignment.model, error)
            return
        try:
            with self._notifier.working():
                forms = self._executor.load(model, assignment)
            self._events.append(machine.Loaded(assignment.epoch, forms))
        except (LegionError, OSError) as error:  # a full disk has no room for the sub-models
            self._events.append(machine.Loaded(assignment.epoch, {}, str(error)))

    def _report(self, message: Ready | Failed) -> None:
        if isinstance(message, Failed):
            log.error("%s", message.reason)
        kind = "failed" if isinstance(message, Failed) else "ready"
        self._publish(self._topics.report(self._options.name, kind), message)

    def _publish(self, topic: str, message: object, *, qos: int = 1, retain: bool = False) -> None:
        self._links.control.publish(topic, codec.to_json(message), qos=qos, retain=retain)

    def _announce_more(self) -> None:
        self._publish_info()
        self._publish_profile()

    def _publish_info(self) -> None:
        self._publish(self._topic("info"), self._info(), retain=True)

    def _publish_profile(self) -> None:
        profile = self._measurements.file.profile(self._info().board_class)
        if profile.samples or profile.link is not None:
            self._publish(self._topic("profile"), profile, retain=True)

    def _info(self) -> AgentInfo:
        return AgentInfo(
            board=self._options.board or board(),
            cores=os.cpu_count() or 1,
            threads=self._options.threads,
            memory_bytes=self._memory.for_models,
            runtime=self._runtime.name,
            runtime_version=self._runtime.version,
            kernel_path=self._runtime.kernel_path,
            version=__version__,
            models=tuple(sorted(self._state.models)),
            cpu_share=self._options.cpu_share or self._options.cpu_quota or 0.0,
            codecs=codec_speeds(),
        )
