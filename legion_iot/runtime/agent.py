"""The agent: gets models, loads its part of a plan, and turns fragments that arrive into fragments that leave.

Theory. An agent holds model files (by SHA-256) and at most one loaded assignment. What it is told is retained on the
broker, so it may come at any time, twice, or before the model is there; the machine keeps the newest assignment and
moves towards it:

| state     | event                          | effects                                                | next      |
|-----------|--------------------------------|--------------------------------------------------------|-----------|
| any       | assignment, model held         | Unload, Load                                           | loading   |
| any       | assignment, model missing      | AskChunk …                                             | fetching  |
| any       | assignment without steps       | Unload, Report ready: there is nothing to load         | idle      |
| fetching  | chunk                          | StoreChunk, AskChunk; after the last one FinishModel   | fetching  |
| fetching  | model stored                   | Load                                                   | loading   |
| fetching  | no chunk for CHUNK_TIMEOUT     | AskChunk again; after CHUNK_ATTEMPTS Report failed     | idle      |
| fetching  | another model is wanted        | AskChunk …; the assignment's own model comes after it  | fetching  |
| loading   | loaded                         | Report ready                                           | ready     |
| loading   | load failed                    | Report failed                                          | idle      |
| ready     | fragment that completes a step | Compute                                                | ready     |
| ready     | step done                      | Send … to others, Report timing, Compute what it fed   | ready     |
| ready     | step failed                    | Report failed                                          | ready     |
| any       | fragment of another epoch      | none; counted                                          | unchanged |

Rows for others are sent before the agent's own next step starts, since somebody waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from legion_iot.errors import ProtocolError
from legion_iot.runtime.arrivals import Arrival, Arrivals
from legion_iot.runtime.exchange import Exchange, TensorForm, wire_between
from legion_iot.runtime.fetch import Fetch
from legion_iot.wire.messages import (
    Assignment,
    Chunk,
    ChunkRequest,
    Command,
    Failed,
    Fragment,
    ModelReference,
    Profile,
    Ready,
    TileTiming,
)
from legion_iot.wire.tensors import Array, region_of, wire_bytes

# --- events ---


@dataclass(frozen=True, slots=True)
class AssignmentArrived:
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class CommandArrived:
    command: Command


@dataclass(frozen=True, slots=True)
class FragmentArrived:
    sender: str
    header: Fragment
    body: memoryview


@dataclass(frozen=True, slots=True)
class ChunkArrived:
    chunk: Chunk
    body: memoryview


@dataclass(frozen=True, slots=True)
class ModelStored:
    """The file of a model is complete and verified, or (with a reason) it is not."""

    sha256: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Every sub-model of the assignment can run; `forms` are those of the tensors its steps read."""

    epoch: int
    forms: Mapping[int, TensorForm]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StepDone:
    """Outputs by tensor, each (rows, columns, channels); `ended` is when, on the clock of `step`."""

    epoch: int
    request: str
    attempt: int
    step: int
    outputs: Mapping[int, Array]
    seconds: float
    ended: float


@dataclass(frozen=True, slots=True)
class StepFailed:
    epoch: int
    request: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProfileDone:
    sha256: str
    runs: tuple[float, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    AssignmentArrived | CommandArrived | FragmentArrived | ChunkArrived | ModelStored | Loaded | StepDone | StepFailed
    | ProfileDone | Tick
)  # fmt: skip

# --- effects ---


@dataclass(frozen=True, slots=True)
class AskChunk:
    request: ChunkRequest


@dataclass(frozen=True, slots=True)
class StoreChunk:
    chunk: Chunk
    body: memoryview


@dataclass(frozen=True, slots=True)
class FinishModel:
    """Verify the fetched file and take it into the store; answered by ModelStored."""

    model: ModelReference


@dataclass(frozen=True, slots=True)
class PublishInfo:
    """Publish what the agent is and holds."""


@dataclass(frozen=True, slots=True)
class Load:
    """Cut and load the assignment's sub-models; answered by Loaded."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Unload:
    """Free all loaded sub-models."""


@dataclass(frozen=True, slots=True)
class Compute:
    """Run a step; answered by StepDone or StepFailed."""

    epoch: int
    request: str
    attempt: int
    step: int
    inputs: Mapping[int, Array]


@dataclass(frozen=True, slots=True)
class RunProfile:
    """Run the whole model for about `seconds`; answered by ProfileDone."""

    model: ModelReference
    seconds: float


@dataclass(frozen=True, slots=True)
class SendRegion:
    """Send `header.region` out of `values`, which cover the region `origin` (its first row and column)."""

    target: str
    header: Fragment
    values: Array
    origin: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Report:
    """Publish a report; a Profile goes to the agent's retained profile."""

    message: Ready | Failed | Profile


@dataclass(frozen=True, slots=True)
class ReportTiming:
    """Publish the timing of a step whose sends went before, with the time since `computed` as what they took."""

    timing: TileTiming
    computed: float


Effect = (
    AskChunk | StoreChunk | FinishModel | PublishInfo | Load | Unload | Compute | RunProfile | SendRegion | Report
    | ReportTiming
)  # fmt: skip


@dataclass(slots=True)
class State:
    """All an agent remembers. Only `step` changes it."""

    name: str
    models: set[str] = field(default_factory=set)
    fetch: Fetch | None = None
    assignment: Assignment | None = None
    exchange: Exchange | None = None
    ready_at: float = 0.0
    arrivals: Arrivals = field(default_factory=Arrivals)
    dropped: int = 0


def step(state: State, event: Event, now: float) -> list[Effect]:
    """Take in one event at monotonic time `now` (seconds); the effects are to be carried out in order."""
    match event:
        case AssignmentArrived():
            return _assignment(state, event, now)
        case CommandArrived():
            return _command(state, event, now)
        case FragmentArrived():
            return _fragment(state, event, now)
        case ChunkArrived():
            return _chunk(state, event, now)
        case ModelStored():
            return _model_stored(state, event, now)
        case Loaded():
            return _loaded(state, event, now)
        case StepDone():
            return _step_done(state, event, now)
        case StepFailed():
            if state.exchange is not None and event.epoch == state.exchange.epoch:
                state.exchange.forget(event.request)
            return [Report(Failed(event.epoch, event.request, event.reason))]
        case ProfileDone():
            if event.reason:
                return [Report(Failed(0, "", event.reason))]
            return [Report(Profile(event.sha256, event.runs))]
        case Tick():
            return _tick(state, now)


def _assignment(state: State, event: AssignmentArrived, now: float) -> list[Effect]:
    assignment = event.assignment
    if state.assignment is not None and assignment == state.assignment:
        return []  # retained messages come again after a reconnect
    state.assignment = assignment
    state.exchange = None
    if not assignment.steps:
        return [Unload(), Report(Ready(assignment.epoch))]
    if assignment.model.sha256 in state.models:
        return [Unload(), Load(assignment)]
    return [Unload(), *_start_fetch(state, assignment.model, now)]


def _command(state: State, event: CommandArrived, now: float) -> list[Effect]:
    model = event.command.model
    if model.sha256 not in state.models:
        return _start_fetch(state, model, now, event.command)
    if event.command.operation == "profile":
        return [RunProfile(model, event.command.seconds)]
    return [PublishInfo()]


def _start_fetch(state: State, model: ModelReference, now: float, command: Command | None = None) -> list[Effect]:
    """Fetch `model` instead of any other: the newest wish tells what the orchestrator serves."""
    if state.fetch is None or state.fetch.model.sha256 != model.sha256:
        state.fetch = Fetch(model)
    state.fetch.command = command or state.fetch.command
    return _ask(state.fetch, now)


def _ask(fetch: Fetch, now: float) -> list[Effect]:
    return [AskChunk(request) for request in fetch.ask(now)]


def _chunk(state: State, event: ChunkArrived, now: float) -> list[Effect]:
    fetch = state.fetch
    if fetch is None or not fetch.take(event.chunk, len(event.body)):
        state.dropped += 1
        return []
    effects: list[Effect] = [StoreChunk(event.chunk, event.body), *_ask(fetch, now)]
    if fetch.is_complete:
        effects.append(FinishModel(fetch.model))
    return effects


def _model_stored(state: State, event: ModelStored, now: float) -> list[Effect]:
    fetch = state.fetch
    if fetch is None or fetch.model.sha256 != event.sha256:
        return []
    if event.reason:
        return _fetch_failed(state, fetch, event.reason, now)
    state.fetch = None
    state.models.add(event.sha256)
    effects: list[Effect] = [PublishInfo()]
    if fetch.command is not None and fetch.command.operation == "profile":
        effects.append(RunProfile(fetch.model, fetch.command.seconds))
    assignment = state.assignment
    if assignment is not None and assignment.steps and assignment.model.sha256 == event.sha256:
        return [*effects, Load(assignment)]
    return [*effects, *_fetch_assigned(state, fetch, now)]


def _fetch_failed(state: State, fetch: Fetch, reason: str, now: float) -> list[Effect]:
    """Report it: under the assignment's epoch, so that a stale one harms nobody, but a command's own as epoch 0."""
    state.fetch = None
    epoch = state.assignment.epoch if state.assignment is not None and fetch.command is None else 0
    return [Report(Failed(epoch, "", reason)), *_fetch_assigned(state, fetch, now)]


def _fetch_assigned(state: State, ended: Fetch, now: float) -> list[Effect]:
    """Go on with the model of the assignment where fetching another one, which has ended, took its place."""
    assignment = state.assignment
    if assignment is None or not assignment.steps or assignment.model.sha256 in state.models | {ended.model.sha256}:
        return []
    return _start_fetch(state, assignment.model, now)


def _tick(state: State, now: float) -> list[Effect]:
    if state.fetch is None:
        return []
    requests = state.fetch.ask_again(now)
    if requests is None:
        reason = f"model {state.fetch.model.name} cannot be fetched: the orchestrator does not answer"
        return _fetch_failed(state, state.fetch, reason, now)
    return [AskChunk(request) for request in requests]


def _loaded(state: State, event: Loaded, now: float) -> list[Effect]:
    assignment = state.assignment
    if assignment is None or event.epoch != assignment.epoch:
        return []
    if event.reason:
        return [Report(Failed(event.epoch, "", event.reason))]
    try:
        _check_sends(assignment)
        needs = {s.step: {i.tensor: region_of(i.region) for i in s.inputs} for s in assignment.steps}
        state.exchange = Exchange(assignment.epoch, needs, assignment.receives, event.forms, assignment.wire)
    except ProtocolError as error:
        return [Report(Failed(event.epoch, "", f"the assignment contradicts itself ({error}); update the older side"))]
    state.ready_at, state.arrivals = now, Arrivals()
    return [Report(Ready(event.epoch))]


def _check_sends(assignment: Assignment) -> None:
    """Raises ProtocolError where a region is to be sent that no step makes."""
    made = {(o.tensor, region_of(o.region)) for s in assignment.steps for o in s.outputs}
    for part in assignment.sends:
        region = region_of(part.region)
        if not any(part.tensor == tensor and region in whole for tensor, whole in made):
            raise ProtocolError(f"{part.region} of tensor {part.tensor} is to be sent, but not made")


def _fragment(state: State, event: FragmentArrived, now: float) -> list[Effect]:
    if state.exchange is None:
        state.dropped += 1
        return []
    header = event.header
    try:
        inputs = state.exchange.put_fragment(event.sender, header, event.body)
    except ProtocolError:
        state.dropped += 1
        return []
    state.arrivals.note(header.request, header.step, now, event.sender, len(event.body))
    if inputs is None:
        return []
    return [Compute(header.epoch, header.request, header.attempt, header.step, inputs)]


def _step_done(state: State, event: StepDone, now: float) -> list[Effect]:
    assignment, exchange = state.assignment, state.exchange
    if assignment is None or exchange is None or event.epoch != exchange.epoch:
        return []
    made = {o.tensor: o.region for s in assignment.steps if s.step == event.step for o in s.outputs}
    sends: list[Effect] = []
    computes: list[Effect] = []
    bytes_sent = 0
    for part in assignment.sends:
        if part.tensor not in made:
            continue
        values, origin = event.outputs[part.tensor], made[part.tensor]
        if part.peer == state.name:
            region, whole = region_of(part.region), region_of(origin)
            top, left = region.rows.start - whole.rows.start, region.columns.start - whole.columns.start
            kept = values[top : top + len(region.rows), left : left + len(region.columns)]
            inputs = exchange.put(event.request, part.step, part.tensor, region, kept)
            state.arrivals.note(event.request, part.step, now)
            if inputs is not None:
                computes.append(Compute(event.epoch, event.request, event.attempt, part.step, inputs))
            continue
        channels, dtype = values.shape[2], str(values.dtype)
        wire = wire_between(dtype, part.peer, assignment.wire)
        header = Fragment(
            event.request, event.attempt, event.epoch, part.step, part.tensor, part.region, channels, dtype, wire
        )
        bytes_sent += wire_bytes(region_of(part.region), channels, dtype, wire)
        sends.append(SendRegion(part.peer, header, values, origin))
    return [*sends, ReportTiming(_timing(state, event, bytes_sent), event.ended), *computes]


def _timing(state: State, event: StepDone, bytes_sent: int) -> TileTiming:
    """What is known of the step before its outputs are sent."""
    started = event.ended - event.seconds
    arrival = state.arrivals.take(event.request, event.step) or Arrival(started, started)
    return TileTiming(
        event.epoch, event.request, event.step, event.seconds, bytes_sent, arrival.bytes_received,
        begun=arrival.first - state.ready_at,
        receiving=arrival.last - arrival.first,
        queued=max(0.0, started - arrival.last),
        heard=arrival.heard,
    )  # fmt: skip
