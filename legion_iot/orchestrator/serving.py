"""One model as it is served: its machine (`runtime.orchestrator`), and the carrying out of what that decides."""

from __future__ import annotations

import math
import mmap
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.typing as npt

from legion_iot.errors import LegionError, ModelError
from legion_iot.files import sha256_of
from legion_iot.model import tflite
from legion_iot.model.blocks import Network, divide
from legion_iot.model.description import ModelDescription, describe
from legion_iot.model.preprocessing import View
from legion_iot.orchestrator.answers import answers, digests, image_output, most_values, picture
from legion_iot.orchestrator.inputs import NetworkInput, read_input
from legion_iot.orchestrator.options import ModelFile, OrchestratorOptions
from legion_iot.orchestrator.own_link import OwnLink
from legion_iot.orchestrator.plan_info import Described
from legion_iot.orchestrator.planning import PlanningThread
from legion_iot.orchestrator.replies import Replies
from legion_iot.orchestrator.retained import Retained
from legion_iot.orchestrator.traces import Traces
from legion_iot.planning.planners.balanced import by_speed
from legion_iot.planning.problem import Planner
from legion_iot.runtime import orchestrator as machine
from legion_iot.runtime.requests import QUEUE
from legion_iot.runtime.shared import Shared
from legion_iot.runtime.switching import MOST_ESTIMATED
from legion_iot.runtime.withdrawal import withdraw
from legion_iot.tracing.times import InputSend, RequestTimes
from legion_iot.transport.fragments import Outgoing
from legion_iot.transport.pair import ConnectionPair
from legion_iot.wire import codec
from legion_iot.wire.group import PlanInfo
from legion_iot.wire.messages import Command, Fragment, ModelInfo, ModelReference, Result, TileTiming
from legion_iot.wire.tensors import region_of
from legion_iot.wire.topics import Topics, check_model_name

COMMAND_EXPIRY = 180  # seconds; who has not carried it out by then is left out
_EPOCHS = 16  # of one model, whose late reports are told from those of other models


@dataclass(frozen=True, slots=True, eq=False)
class EndedRequest:
    """A request's end, for whoever runs the orchestrator in its own process: the result, input, outputs and times."""

    result: Result
    input: npt.NDArray[Any] | None
    outputs: tuple[npt.NDArray[Any], ...]
    times: RequestTimes | None = None
    replica: int = 0  # of the plan


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the service gives to every model: connections, names for requests, and whom to tell of what happens.

    `on_phase` is called when the phase of a model has changed, `on_ended` when a request has ended.
    """

    links: ConnectionPair
    topics: Topics
    own_link: OwnLink
    shared: Shared
    retained: Retained
    replies: Replies
    on_phase: Callable[[ServedModel], None]
    on_ended: Callable[[EndedRequest], None]

    def publish(self, topic: str, message: object, *, expiry: int = 0) -> None:
        """Send a message as JSON, which is for nobody any more after `expiry` seconds, if not 0."""
        self.links.control.publish(topic, codec.to_json(message), expiry=expiry)

    def retain(self, topic: str, message: object) -> None:
        """Retain a message as JSON."""
        self.retained.publish(topic, codec.to_json(message))

    def command(self, agent: str, command: Command) -> None:
        """Tell an agent what it is to do once."""
        self.publish(self.topics.agent(agent, "command"), command, expiry=COMMAND_EXPIRY)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model's file, and all that is found out about it before it is served."""

    reference: ModelReference
    content: memoryview
    network: Network
    description: ModelDescription


def load(file: ModelFile) -> LoadedModel:
    """Read a model; may be called from any thread. Raises ModelError where it cannot be served, UsageError."""
    name = check_model_name(file.name)
    graph = tflite.open_file(file.path)
    try:
        with file.path.open("rb") as opened:
            content = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        reference = ModelReference(name, sha256_of(file.path), len(content))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file.path}: cannot be read ({error}); give a readable .tflite file") from None
    return LoadedModel(reference, content, divide(graph), describe(graph))


class ServedModel:
    """Serves a model. All methods are to be called on the loop's thread."""

    def __init__(self, loaded: LoadedModel, options: OrchestratorOptions, surroundings: Surroundings) -> None:
        self.reference, self.content = loaded.reference, loaded.content
        self.network, self.description = loaded.network, loaded.description
        self.state = machine.State(
            self.network, self.reference, options.least_agents, options.make_plan, options.wire, options.objective,
            surroundings.shared,
        )  # fmt: skip
        self._epochs: deque[int] = deque(maxlen=_EPOCHS)
        self._around, self._topics = surroundings, surroundings.topics
        self._planning = PlanningThread(options.planner or by_speed(options.make_plan), self._on_planned)
        self._planned: queue.SimpleQueue[machine.PlannerAnswered] = queue.SimpleQueue()
        self._inputs: dict[str, NetworkInput] = {}
        self.traces = Traces()
        self._taken = 0.0  # when the input that is being read was taken up
        self.plan_info: PlanInfo | None = None  # of the plan in force, or the last one

        self._planning.start()

    def owns(self, epoch: int) -> bool:
        """Whether an epoch is one of this model's plans; those of long ago are nobody's."""
        return epoch in self._epochs

    # --- what comes ---

    def step(self, event: machine.Event) -> None:
        """Let the machine take in an event, and do what it wants."""
        now = time.monotonic()
        match event:
            case machine.FragmentArrived(header=header):
                self.traces.received(header.request, event.sender, now, len(event.body))
            case machine.RequestArrived():
                self.traces.arrived(event.request, self._taken, now)
            case machine.ReportArrived(report=TileTiming() as timing):
                self.traces.timed(event.agent, timing)
        effects = machine.step(self.state, event, now)
        if sends := [effect for effect in effects if isinstance(effect, machine.SendRegion)]:
            self._send(sends)
        for effect in effects:
            self._carry_out(effect)

    def take_plans(self) -> None:
        """Take in what the planner has answered."""
        while not self._planned.empty():
            self.step(self._planned.get())

    def request(self, request: str, payload: bytes, seconds: float = math.inf) -> None:
        """A request of that name, with an input as it was published, and for so long at most."""
        self._taken = time.monotonic()
        if len(self.state.requests.waiting) >= QUEUE:  # it is not read in vain
            self.step(machine.RequestArrived(request, ()))
            return
        try:
            read = read_input(payload, self.network.graph, self.description)
        except LegionError as error:
            self._finish(machine.RequestEnded(request, self.state.epoch, 0.0, error="bad-input", reason=str(error)))
            return
        self._inputs[request] = read
        self.step(machine.RequestArrived(request, (read.values,), seconds))

    def _on_planned(self, answer: machine.PlannerAnswered) -> None:
        self._planned.put(answer)
        self._around.links.wake()

    def plan_by(self, planner: Planner) -> None:
        """Find the plan anew, by this planner from now on; until it is there, requests run by the one in force."""
        self._planning.stop()
        self._planning = PlanningThread(planner, self._on_planned)
        self._planning.start()
        self.step(machine.ReplanAsked())

    # --- effects ---

    def _carry_out(self, effect: machine.Effect) -> None:
        match effect:
            case machine.RequestEnded():
                self._finish(effect)
            case machine.Assign(agent=agent, assignment=assignment):
                if not self.owns(assignment.epoch):
                    self._epochs.append(assignment.epoch)
                self._around.retain(self._topics.assignment(agent, assignment.model.name), assignment)
            case machine.ClearAssignment(agent=agent):
                self._around.retained.publish(self._topics.assignment(agent, self.reference.name), b"")
            case machine.SendCommand(agent=agent, command=command):
                self._around.command(agent, command)
            case machine.Consult():
                self._planning.consult(effect)
            case machine.ProbeOwnLink(number=number):
                self._around.own_link.start(number)
            case machine.PublishState():
                self._around.on_phase(self)

    def _send(self, sends: Sequence[machine.SendRegion]) -> None:
        start = time.monotonic()
        regions = []
        for effect in sends:
            self._note_attempt(effect.header, start)
            rows, columns = effect.values.shape[:2]
            regions.append(Outgoing(effect.target, effect.header, effect.values, region_of((0, rows, 0, columns))))
        self._around.links.send(regions)
        end = time.monotonic()
        for region in regions:
            self.traces.sent(region.header.request, InputSend(region.target, start, end, region.size))

    def _note_attempt(self, header: Fragment, now: float) -> None:
        under_way = self.state.requests.under_way.get(header.request)
        if under_way is not None and under_way.epoch is not None:
            epoch = under_way.epoch
            self.traces.begun(header.request, header.attempt, epoch.number, epoch.routing, under_way.replica, now)

    def publish_info(self) -> None:
        """Retain what is served, and how."""
        tensor = self.network.graph.tensors[self.network.graph.inputs[0]]
        agents = self.state.plan.agents if self.state.plan else ()
        info = ModelInfo(
            self.reference.name, self.reference.sha256, self.reference.size, tensor.shape, tensor.dtype,
            self.state.epoch, agents,
        )  # fmt: skip
        self._around.retain(self._topics.model(self.reference.name), info)

    def publish_plan(self, info: PlanInfo) -> None:
        """Retain what the plan in force is, and is predicted to take."""
        self.plan_info = info
        self._around.retain(self._topics.plan(self.reference.name), info)

    def describe_plan(self) -> Described | None:
        """The plan in force, to be told of; None where there is none."""
        state = self.state
        epoch = state.epochs.force
        if epoch is None:
            return None
        try:
            predictor = state.selection.predictor() if len(epoch.routing.transfers) <= MOST_ESTIMATED else None
        except LegionError:
            predictor = None
        return Described(
            self.reference.name, self.network, epoch.number, epoch.plan, state.objective, state.wire, predictor
        )

    def clear_retained(self) -> None:
        """Leave nothing behind: agents of a later run shall not find this one's assignments."""
        self._around.retained.clear(self.concerns)

    def concerns(self, topic: str) -> bool:
        """Whether what is retained there is about this model."""
        name = self.reference.name
        return topic.startswith(f"{self._topics.base}/") and topic.endswith(
            tuple(f"/{kind}" for kind in (f"assignment/{name}", f"models/{name}", f"models/{name}/plan"))
        )

    def withdraw(self) -> None:
        """Serve it no more: requests end, agents drop what they hold of it, and nothing stays retained."""
        for effect in withdraw(self.state, time.monotonic()):
            self._carry_out(effect)
        self.clear_retained()
        self._planning.stop()

    def _finish(self, ended: machine.RequestEnded) -> None:
        graph, description = self.network.graph, self.description
        read = self._inputs.pop(ended.request, None)
        value, view = (read.values, read.view) if read else (None, None)
        outputs = () if ended.error else ended.outputs
        result = Result(
            request=ended.request,
            ok=not ended.error,
            model=self.reference.name,
            epoch=ended.epoch,
            latency_ms=round(ended.seconds * 1e3, 3),
            answer=answers(graph, description, outputs, view),
            outputs=digests(graph, outputs, most_values(description)) if outputs else (),
            error=ended.error,
            reason=ended.reason,
            kind=description.answer,
        )
        times = self.traces.ended(result, ended.seconds)
        image = image_output(description, outputs)
        self._around.replies.answer(result, None if image is None else partial(self._picture, outputs, image, view))
        if times is not None:
            times.published = time.monotonic()
        self._around.on_ended(EndedRequest(result, value, ended.outputs, times, ended.replica))

    def _picture(self, outputs: Sequence[npt.NDArray[Any]], image: int, view: View | None) -> bytes | None:
        """The answer as a PNG, as large as the output, in the proportions of what the network saw."""
        _, height, width, _ = outputs[image].shape
        stretched = self.description.preprocessing.fit == "stretch"
        size = view.shaped((width, height)) if view is not None and stretched else None
        return picture(self.network.graph, self.description, outputs, size)
