"""The agent: gets models, loads its part of a plan, and turns fragments that arrive into fragments that leave.

Theory. An agent holds model files (by SHA-256), and of each model at most two epochs (`runtime.held`). What it is told
is retained on the broker, so it may come at any time, twice, or before the model is there; the machine moves each
epoch towards being ready:

| epoch is  | event                          | effects                                                | next      |
|-----------|--------------------------------|--------------------------------------------------------|-----------|
| new       | assignment, model held         | Unload of the last but one, Load                       | loading   |
| new       | assignment, model missing      | Unload of the last but one, fetch (`agent_models`)     | fetching  |
| new       | assignment without steps       | Report ready: there is nothing to load                 | idle      |
| any       | a later one, to be alone       | Unload, and as above                                   | gone      |
| any       | command to release it          | Unload                                                 | gone      |
| any       | the assignment is cleared      | Unload                                                 | gone      |
| fetching  | model stored                   | Load                                                   | loading   |
| fetching  | it cannot be fetched           | Report failed                                          | idle      |
| loading   | loaded                         | Report ready                                           | ready     |
| loading   | load failed                    | Report failed                                          | idle      |
| loading   | its model is lost              | fetch                                                  | fetching  |
| ready     | fragment that completes a step | none; the step is ready                                | ready     |
| ready     | … and too many wait already    | Report failed                                          | ready     |
| ready     | idle                           | Compute: of the oldest request, the first ready step   | ready     |
| ready     | step done                      | Send … to others, Report timing; what it fed is ready  | ready     |
| ready     | step failed                    | Report failed                                          | ready     |
| ready     | fragment of a newer attempt    | as above; what there is of older attempts is forgotten | ready     |
| any       | fragment that is stale         | none; counted                                          | unchanged |

Rows for others are sent before the next step starts, since somebody waits for them; and what came meanwhile is taken
in first, so that the next step is the one the plan puts first. A tile in parts thus computes its interior while its
borders are under way and halos arrive.
"""

from __future__ import annotations

from collections.abc import Callable

from legion_iot.errors import ProtocolError
from legion_iot.runtime.agent_events import (
    AskChunk,
    AssignmentArrived,
    AssignmentCleared,
    ChunkArrived,
    CommandArrived,
    Compute,
    Effect,
    Event,
    FinishModel,
    ForgetMeasured,
    FragmentArrived,
    Idle,
    Load,
    Loaded,
    MakeRoom,
    ModelLost,
    ModelStored,
    PublishInfo,
    Report,
    ReportTiming,
    RoomMade,
    SendRegion,
    StartMeasuring,
    StepDone,
    StepFailed,
    StoreChunk,
    Tick,
    Unload,
)
from legion_iot.runtime.agent_models import ask_again, start_fetch, start_measuring, step_models
from legion_iot.runtime.agent_state import State
from legion_iot.runtime.arrivals import Arrival
from legion_iot.runtime.assignment import sends_by_step
from legion_iot.runtime.attempts import Attempt, StepRun
from legion_iot.runtime.exchange import Exchange, NanFragmentError, UnplannedFragmentError, wire_between
from legion_iot.runtime.held import HeldEpoch, Share
from legion_iot.runtime.ready import MOST_ATTEMPTS
from legion_iot.wire.messages import (
    Assignment,
    Failed,
    Fragment,
    PeerRegion,
    Ready,
    TileTiming,
)
from legion_iot.wire.tensors import Array, place_of, region_of, wire_bytes

__all__ = [  # events and effects included, for whoever drives the machine
    "AskChunk",
    "AssignmentArrived",
    "AssignmentCleared",
    "ChunkArrived",
    "CommandArrived",
    "Compute",
    "Effect",
    "Event",
    "FinishModel",
    "ForgetMeasured",
    "FragmentArrived",
    "Idle",
    "Load",
    "Loaded",
    "MakeRoom",
    "ModelLost",
    "ModelStored",
    "PublishInfo",
    "Report",
    "ReportTiming",
    "RoomMade",
    "SendRegion",
    "StartMeasuring",
    "State",
    "StepDone",
    "StepFailed",
    "StoreChunk",
    "Tick",
    "Unload",
    "has_unfinished",
    "may_measure",
    "step",
]

LEAST_PAUSE = 0.05  # seconds without work for requests before the device measures anything
GIVEN_UP = 5.0  # seconds after which an unfinished request counts as given up


def step(state: State, event: Event, now: float) -> list[Effect]:
    """Take in one event at monotonic time `now` (seconds); the effects are to be carried out in order."""
    match event:
        case AssignmentArrived():
            return _assignment(state, event, now)
        case AssignmentCleared(model=model):
            return _drop(state, lambda held: held.assignment.model.name == model)
        case CommandArrived():
            return _command(state, event, now)
        case FragmentArrived():
            return _fragment(state, event, now)
        case RoomMade() | ChunkArrived() | ModelStored() | ModelLost():
            return step_models(state, event, now)
        case Loaded():
            return _loaded(state, event, now)
        case StepDone():
            return _step_done(state, event, now)
        case StepFailed():
            return _step_failed(state, event)
        case Idle():
            compute = state.ready.take()
            return [] if compute is None else [compute]
        case Tick():
            return ask_again(state, now)


def _assignment(state: State, event: AssignmentArrived, now: float) -> list[Effect]:
    assignment = event.assignment
    newest = state.epochs.newest(assignment.model.name)
    if newest is not None and assignment == newest.assignment:
        return []  # retained messages come again after a reconnect
    effects = _unload(state, state.epochs.add(assignment))
    if not assignment.steps:
        return [*effects, Report(Ready(assignment.epoch))]
    if assignment.model.sha256 in state.models:
        return [*effects, Load(assignment)]
    return [*effects, *start_fetch(state, assignment.model, now)]


def _drop(state: State, unwanted: Callable[[HeldEpoch], bool]) -> list[Effect]:
    return _unload(state, state.epochs.drop(unwanted))


def _unload(state: State, epochs: list[int]) -> list[Effect]:
    for epoch in epochs:
        state.ready.drop(epoch)
    return [Unload(epoch) for epoch in epochs]


def may_measure(state: State, now: float) -> bool:
    """Whether nobody waits for what the device computes or fetches, so that it may measure something.

    A request that stays unfinished for long has been given up by its sender.
    """
    if state.fetch is not None:
        return False
    return now - state.worked_at >= (GIVEN_UP if has_unfinished(state) else LEAST_PAUSE)


def has_unfinished(state: State) -> bool:
    """Whether a request has begun here and not ended."""
    unfinished = any(held.exchange is not None and len(held.exchange) for held in state.epochs)
    return unfinished or len(state.ready) > 0


def is_assigned(state: State) -> bool:
    """Whether a plan counts on what this agent has loaded."""
    return any(held.exchange is not None for held in state.epochs)


def _command(state: State, event: CommandArrived, now: float) -> list[Effect]:
    command = event.command
    if command.operation in ("probe", "forget"):
        return start_measuring(state, command)
    model = command.model
    if model is None:
        state.dropped += 1
        return []
    if command.operation == "release":
        return _drop(
            state, lambda held: held.assignment.model.name == model.name and held.assignment.epoch < command.epoch
        )
    if model.sha256 not in state.models:
        return start_fetch(state, model, now, command)
    if command.operation == "profile":
        return start_measuring(state, command)
    return [PublishInfo()]


def _loaded(state: State, event: Loaded, now: float) -> list[Effect]:
    held = state.epochs.get(event.epoch)
    if held is None or not held.assignment.steps:
        return [Unload(event.epoch)]
    if event.reason:
        held.exchange = None
        return [Report(Failed(event.epoch, "", event.reason))]
    try:
        held.sends = sends_by_step(held.assignment)
        held.exchange = _exchange(held.assignment, event)
    except ProtocolError as error:
        return [Report(Failed(event.epoch, "", f"the assignment contradicts itself ({error}); update the older side"))]
    held.ready_at = now
    return [Report(Ready(event.epoch))]


def _exchange(assignment: Assignment, loaded: Loaded) -> Exchange:
    needs = {s.step: {i.tensor: region_of(i.region) for i in s.inputs} for s in assignment.steps}
    replicas = {s.step: s.replica for s in assignment.steps}
    return Exchange(
        assignment.epoch, needs, assignment.receives, loaded.forms, assignment.wire, replicas, assignment.nan_allowed
    )


def _fragment(state: State, event: FragmentArrived, now: float) -> list[Effect]:
    header = event.header
    attempt = Attempt(header.request, header.attempt)
    held = state.epochs.get(header.epoch)
    if held is None or held.exchange is None or state.attempts.newest(header.request) > header.attempt:
        state.dropped += 1
        return []
    try:
        inputs = held.exchange.put_fragment(event.sender, header, event.body)
    except UnplannedFragmentError as error:
        state.dropped += 1
        held.exchange.forget(attempt)  # it cannot become complete; one report is enough
        nan = isinstance(error, NanFragmentError)
        return [Report(Failed(header.epoch, header.request, str(error), event.sender, attempt=header.attempt, nan=nan))]
    except ProtocolError:
        state.dropped += 1
        return []
    _displace_older(state, attempt)
    state.worked_at = now
    received = now if event.received is None else max(event.received, held.ready_at)
    run = StepRun(header.epoch, *attempt, header.step)
    state.arrivals.note(run, received, event.sender, len(event.body))
    state.ready.began(header.request)
    if inputs is None:
        return []
    if not state.ready.has_room(attempt):
        held.exchange.forget(attempt)
        reason = f"{MOST_ATTEMPTS} requests wait to be computed already"
        return [Report(Failed(header.epoch, header.request, reason, attempt=header.attempt))]
    state.ready.add(Compute(*run, inputs))
    return []


def _displace_older(state: State, attempt: Attempt) -> None:
    """Forget what there is of older attempts at the request, in whichever epoch."""
    if state.attempts.note(attempt):
        state.ready.displace(attempt)
        for held in state.epochs:
            if held.exchange is not None:
                held.exchange.displace(attempt)


def _step_done(state: State, event: StepDone, now: float) -> list[Effect]:
    held = state.epochs.get(event.epoch)
    if held is None or held.exchange is None:
        return []
    state.worked_at = now
    shares = held.shares.get(event.step)
    if shares is None:
        shares = held.shares[event.step] = _shares(held, event)
    effects: list[Effect] = []
    bytes_sent = 0
    for share in shares:
        part, values = share.part, event.outputs[share.part.tensor]
        if part.peer == state.name:
            _keep(state, held.exchange, event, part, values[share.place.index], now)
            continue
        header = Fragment(
            event.request, event.attempt, event.epoch, part.step, part.tensor, part.region, values.shape[2],
            share.dtype, share.wire, share.codec,
        )  # fmt: skip
        bytes_sent += share.bytes
        effects.append(SendRegion(part.peer, header, values, share.origin))
    attempt = Attempt(event.request, event.attempt)
    is_last = attempt not in held.exchange and attempt not in state.ready
    timing = _timing(state, held, event, bytes_sent)
    return [*effects, ReportTiming(timing, event.ended, held.assignment.report_within, is_last)]


def _step_failed(state: State, event: StepFailed) -> list[Effect]:
    attempt = Attempt(event.request, event.attempt or state.attempts.newest(event.request))
    held = state.epochs.get(event.epoch)
    if held is not None and held.exchange is not None:
        held.exchange.forget(attempt)
        state.ready.forget(attempt)
    return [Report(Failed(event.epoch, event.request, event.reason, attempt=event.attempt))]


def _shares(held: HeldEpoch, event: StepDone) -> list[Share]:
    """What becomes of the step's outputs, whatever the request."""
    assignment, shares = held.assignment, []
    made = {o.tensor: o.region for s in assignment.steps if s.step == event.step for o in s.outputs}
    for part in held.sends[event.step]:
        values, origin, region = event.outputs[part.tensor], made[part.tensor], region_of(part.region)
        dtype = str(values.dtype)
        wire = wire_between(dtype, part.peer, assignment.wire)
        codec = assignment.codec if part.peer in assignment.pack_for else ""
        size = wire_bytes(region, values.shape[2], dtype, wire)
        shares.append(Share(part, origin, place_of(region, region_of(origin)), dtype, wire, codec, size))
    return shares


def _keep(state: State, exchange: Exchange, event: StepDone, part: PeerRegion, kept: Array, now: float) -> None:
    """What the agent made stays with it, for a later step of its own."""
    run = StepRun(event.epoch, event.request, event.attempt, part.step)
    attempt = Attempt(event.request, event.attempt)
    inputs = exchange.put(attempt, part.step, part.tensor, region_of(part.region), kept)
    state.arrivals.note(run, now)
    if inputs is not None:
        state.ready.add(Compute(*run, inputs))


def _timing(state: State, held: HeldEpoch, event: StepDone, bytes_sent: int) -> TileTiming:
    """What is known of the step before its outputs are sent."""
    started = event.ended - event.seconds
    run = StepRun(event.epoch, event.request, event.attempt, event.step)
    arrival = state.arrivals.take(run) or Arrival(started, started)
    return TileTiming(
        event.epoch, event.request, event.step, event.seconds, bytes_sent, arrival.bytes_received,
        begun=arrival.first - held.ready_at,
        receiving=arrival.last - arrival.first,
        queued=max(0.0, started - arrival.last),
        heard=arrival.heard,
        attempt=event.attempt,
    )  # fmt: skip
