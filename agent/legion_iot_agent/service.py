"""The agent's process: connections and executor around `runtime.agent`, which decides everything.

Two connections: control (will, commands, reports) and data (fragments and model chunks), so that a heartbeat never
waits behind a feature map. Their network threads only put messages into a bounded queue; one loop takes them out,
asks the machine, and carries out its effects, computing included.
"""

from __future__ import annotations

import logging
import os
import platform
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from legion_iot import __version__
from legion_iot.errors import AgentError, BrokerError, LegionError, ProtocolError
from legion_iot.runtime import agent as machine
from legion_iot.transport.connection import BrokerAddress, Connected, Disconnected, Message, QueueLimits, Will
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Assignment,
    Chunk,
    Command,
    Fragment,
    Profile,
    Ready,
    TileTiming,
)
from legion_iot.wire.tensors import INBOX, fragments, region_of
from legion_iot.wire.topics import AgentTopic, InboxTopic, Topics
from legion_iot_agent.executor import Executor
from legion_iot_agent.interpreter import runtime_info
from legion_iot_agent.store import ModelStore

log = logging.getLogger("legion-agent")

TICK = 0.5  # seconds
INBOX_LIMIT = 1024  # messages; a full inbox holds the network thread, and so the broker
INBOX_WAIT = 60.0  # seconds until a message is dropped after all
OPEN_TIMEOUT = 15.0
DATA_KEEP_ALIVE = 60.0
DATA_LIMITS = QueueLimits(messages=65536, bytes=512 << 20)


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What an agent needs to know to take part."""

    broker: BrokerAddress
    name: str
    state_directory: Path
    base_topic: str = "legion"
    threads: int = 1
    xnnpack: bool = True


class AgentService:
    """One agent, from connect to disconnect."""

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        self._topics = Topics(options.base_topic)
        self._session = uuid.uuid4().hex
        self._runtime = runtime_info(options.xnnpack)
        self._store = ModelStore(options.state_directory / "models")
        self._executor = Executor(options.state_directory / "plan", options.threads, options.xnnpack)
        self._state = machine.State(options.name, set(self._store.held()))
        self._messages: queue.Queue[Message | Connected | None] = queue.Queue(INBOX_LIMIT)
        self._events: deque[machine.Event] = deque()
        self._stopped = ""
        self._stopping = False
        self._control = PahoConnection(
            options.broker,
            f"legion-{options.name}",
            self._on_control,
            Will(self._topic("state"), codec.to_json(AgentState("offline", self._session))),
        )
        self._data = PahoConnection(
            options.broker, f"legion-{options.name}-data", self._on_data, keep_alive=DATA_KEEP_ALIVE, limits=DATA_LIMITS
        )

    def _topic(self, kind: str) -> str:
        return self._topics.agent(self._options.name, kind)

    # --- network threads ---

    def _on_control(self, event: Connected | Disconnected | Message) -> None:
        if isinstance(event, Disconnected):
            log.warning("connection to %s lost: %s", self._options.broker, event.reason)
            if "another client" in event.reason:
                self._stopped = f"another agent named {self._options.name!r} connected; give each its own --name"
                self.stop()
            return
        self._enqueue(event)

    def _on_data(self, event: Connected | Disconnected | Message) -> None:
        if isinstance(event, Message):
            self._enqueue(event)

    def _enqueue(self, event: Connected | Message) -> None:
        try:
            self._messages.put(event, timeout=INBOX_WAIT)
        except queue.Full:
            log.error("dropped a message: %d are waiting already", INBOX_LIMIT)

    # --- the loop ---

    def stop(self) -> None:
        """End `run` soon; may be called from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Take part until `stop`; raises BrokerError where the broker cannot be reached, AgentError where taken over."""
        name = self._options.name
        try:
            self._data.open(OPEN_TIMEOUT)
            self._data.subscribe([(self._topics.inbox(name, "+"), 1)])
            self._control.open(OPEN_TIMEOUT)
            self._control.subscribe([(self._topic("assignment"), 1), (self._topic("command"), 1)])
            log.info("agent %s is online at %s", name, self._options.broker)
            self._loop()
        finally:
            self._close()
        if self._stopped:
            raise AgentError(self._stopped)

    def _loop(self) -> None:
        ticked = time.monotonic()
        while not self._stopping:
            try:
                self._take(self._messages.get(timeout=TICK))
            except queue.Empty:
                pass
            if time.monotonic() - ticked >= TICK:
                ticked = time.monotonic()
                self._events.append(machine.Tick())
            while self._events and not self._stopping:
                for effect in machine.step(self._state, self._events.popleft(), time.monotonic()):
                    self._carry_out(effect)

    def _close(self) -> None:
        try:
            self._publish(self._topic("state"), AgentState("offline", self._session), retain=True)
        except BrokerError as error:
            log.warning("could not say goodbye: %s", error)
        self._control.close()
        self._data.close()
        self._executor.unload()

    def _take(self, event: Message | Connected | None) -> None:
        """Turn a message into an event of the machine; what is not of the protocol is logged and dropped."""
        if isinstance(event, Connected):
            self._publish_info()
            self._publish(self._topic("state"), AgentState("online", self._session), retain=True)
        elif isinstance(event, Message):
            try:
                self._events.append(self._event(event))
            except ProtocolError as error:
                self._state.dropped += 1
                log.warning("dropped a message on %s: %s", event.topic, error)

    def _event(self, message: Message) -> machine.Event:
        match self._topics.parse(message.topic):
            case AgentTopic(kind="assignment"):
                return machine.AssignmentArrived(codec.from_json(Assignment, message.payload))
            case AgentTopic(kind="command"):
                return machine.CommandArrived(codec.from_json(Command, message.payload))
            case InboxTopic(sender=sender):
                content, body = codec.unpack(INBOX, message.payload)
                if isinstance(content, Fragment):
                    return machine.FragmentArrived(sender, content, body)
                if isinstance(content, Chunk) and sender == "orchestrator":
                    return machine.ChunkArrived(content, body)
        raise ProtocolError("not for an agent")

    # --- effects ---

    def _carry_out(self, effect: machine.Effect) -> None:
        match effect:
            case machine.SendRegion(target=target, header=header, values=values, origin=origin):
                topic = self._topics.inbox(target, self._options.name)
                for payload in fragments(header, values, region_of(origin)):
                    self._data.publish(topic, payload)
            case machine.Compute():
                self._compute(effect)
            case machine.Report(message=message):
                self._report(message)
            case machine.AskChunk(request=request):
                self._data.publish(self._topics.inbox("orchestrator", self._options.name), codec.pack(request))
            case machine.StoreChunk(chunk=chunk, body=body):
                self._try_store(chunk.sha256, lambda: self._store.write(chunk.sha256, chunk.offset, body))
            case machine.FinishModel(model=model):
                if self._try_store(model.sha256, lambda: self._store.finish(model.sha256, model.size)):
                    self._events.append(machine.ModelStored(model.sha256))
            case machine.PublishInfo():
                self._publish_info()
            case machine.Load(assignment=assignment):
                self._load(assignment)
            case machine.Unload():
                self._executor.unload()
            case machine.RunProfile(model=model, seconds=seconds):
                try:
                    runs = self._executor.profile(self._store.path(model.sha256), seconds)
                    self._events.append(machine.ProfileDone(model.sha256, runs))
                except LegionError as error:
                    self._events.append(machine.ProfileDone(model.sha256, (), str(error)))

    def _try_store(self, sha256: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except AgentError as error:
            self._events.append(machine.ModelStored(sha256, str(error)))
            return False
        return True

    def _compute(self, work: machine.Compute) -> None:
        try:
            outputs, seconds = self._executor.run(work.step, work.inputs)
        except LegionError as error:
            self._events.append(machine.StepFailed(work.epoch, work.request, str(error)))
            return
        # Ahead of whatever arrived meanwhile: others wait for these rows.
        self._events.appendleft(
            machine.StepDone(work.epoch, work.request, work.attempt, work.step, outputs, seconds)
        )

    def _load(self, assignment: Assignment) -> None:
        try:
            forms = self._executor.load(self._store.path(assignment.model.sha256), assignment)
            self._events.append(machine.Loaded(assignment.epoch, forms))
        except LegionError as error:
            self._events.append(machine.Loaded(assignment.epoch, {}, str(error)))

    def _report(self, message: Ready | machine.Failed | TileTiming | Profile) -> None:
        name = self._options.name
        match message:
            case Profile():
                self._publish(self._topic("profile"), message, retain=True)
            case TileTiming():
                self._publish(self._topics.report(name, "timing"), message, qos=0)
            case Ready():
                self._publish(self._topics.report(name, "ready"), message)
            case _:
                log.error("%s", message.reason)
                self._publish(self._topics.report(name, "failed"), message)

    def _publish(self, topic: str, message: object, *, qos: int = 1, retain: bool = False) -> None:
        self._control.publish(topic, codec.to_json(message), qos=qos, retain=retain)

    def _publish_info(self) -> None:
        info = AgentInfo(
            board=_board(),
            cores=os.cpu_count() or 1,
            threads=self._options.threads,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            runtime=self._runtime.name,
            runtime_version=self._runtime.version,
            kernel_path=self._runtime.kernel_path,
            version=__version__,
            models=tuple(sorted(self._state.models)),
        )
        self._publish(self._topic("info"), info, retain=True)


def _board() -> str:
    """What the device is called: the device tree's model on single-board computers, else the processor's kind."""
    try:
        return Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0 \n")
    except OSError:
        return platform.machine() or "unknown"
