"""An agent's model files: one is fetched when something needs it, and then what has waited for it goes on.

| the fetch | event                        | effects                                                       | then      |
|-----------|------------------------------|---------------------------------------------------------------|-----------|
| none      | a model is needed            | MakeRoom                                                      | making    |
| making    | room made                    | AskChunk …, from where an earlier fetch was cut               | under way |
| making    | there is no room             | Report failed                                                 | none      |
| under way | chunk                        | StoreChunk, AskChunk; after the last one FinishModel          | under way |
| under way | no chunk for CHUNK_TIMEOUT   | AskChunk again; after CHUNK_ATTEMPTS Report failed            | none      |
| under way | model stored                 | PublishInfo; Load, StartMeasuring: what has waited for it     | none      |
| under way | it cannot be stored          | Report failed; once from the beginning where it was resumed   | none      |
| any       | another model is needed      | MakeRoom; an assignment's own model comes after it            | making    |
| any       | a model that is held is lost | PublishInfo, and as if it were needed                         | making    |

A fetch that is cut, by another one or by the agent's end, leaves what is there on the disk. What was resumed and does
not match its SHA-256 in the end may have been spoiled before, so it is fetched once more before anybody is told.
"""

from __future__ import annotations

from legion_iot.runtime.agent_events import (
    AskChunk,
    ChunkArrived,
    Effect,
    FinishModel,
    ForgetMeasured,
    Load,
    MakeRoom,
    ModelLost,
    ModelStored,
    PublishInfo,
    Report,
    RoomMade,
    StartMeasuring,
    StoreChunk,
)
from legion_iot.runtime.agent_state import State
from legion_iot.runtime.fetch import Fetch
from legion_iot.wire.messages import Command, Failed, ModelReference


def step_models(state: State, event: RoomMade | ChunkArrived | ModelStored | ModelLost, now: float) -> list[Effect]:
    """Take in what has happened to a model's file."""
    match event:
        case RoomMade():
            return _room_made(state, event, now)
        case ChunkArrived():
            return _take_chunk(state, event, now)
        case ModelStored():
            return _stored(state, event, now)
        case ModelLost():
            return _lost(state, event, now)


def start_fetch(state: State, model: ModelReference, now: float, command: Command | None = None) -> list[Effect]:
    """Fetch `model` instead of any other: the newest wish tells what the orchestrator serves."""
    if state.fetch is None or state.fetch.model.sha256 != model.sha256:
        state.fetch = Fetch(model)
        effects: list[Effect] = [_make_room(state, model)]
    else:
        effects = _ask(state.fetch, now)
    state.fetch.command = command or state.fetch.command
    return effects


def ask_again(state: State, now: float) -> list[Effect]:
    """Ask anew for chunks that are late, or give up."""
    if state.fetch is None:
        return []
    requests = state.fetch.ask_again(now)
    if requests is None:
        reason = f"model {state.fetch.model.name} cannot be fetched: the orchestrator does not answer"
        return _fetch_failed(state, state.fetch, reason, now)
    return [AskChunk(request) for request in requests]


def start_measuring(state: State, command: Command) -> list[Effect]:
    """Carry out a command to measure something, or to forget it, unless it has come before: QoS 1 may deliver twice."""
    if command.number in state.measured:
        return []
    state.measured.append(command.number)
    return [ForgetMeasured() if command.operation == "forget" else StartMeasuring(command)]


def _room_made(state: State, event: RoomMade, now: float) -> list[Effect]:
    state.models.difference_update(event.removed)
    effects: list[Effect] = [PublishInfo()] if event.removed else []
    fetch = state.fetch
    if fetch is None or fetch.model.sha256 != event.sha256 or fetch.begun:
        return effects
    fetch.begin(event.there)
    effects += _ask(fetch, now)
    return [*effects, FinishModel(fetch.model)] if fetch.is_complete else effects


def _take_chunk(state: State, event: ChunkArrived, now: float) -> list[Effect]:
    fetch = state.fetch
    if fetch is None or not fetch.take(event.chunk, len(event.body)):
        state.dropped += 1
        return []
    effects: list[Effect] = [StoreChunk(event.chunk, event.body), *_ask(fetch, now)]
    if fetch.is_complete:
        effects.append(FinishModel(fetch.model))
    return effects


def _stored(state: State, event: ModelStored, now: float) -> list[Effect]:
    fetch = state.fetch
    if fetch is None or fetch.model.sha256 != event.sha256:
        return []
    if event.reason and fetch.resumed:
        state.fetch = Fetch(fetch.model, command=fetch.command)
        return [_make_room(state, fetch.model)]
    if event.reason:
        return _fetch_failed(state, fetch, event.reason, now)
    state.fetch = None
    state.models.add(event.sha256)
    effects: list[Effect] = [PublishInfo()]
    if fetch.command is not None and fetch.command.operation == "profile":
        effects += start_measuring(state, fetch.command)
    loads = [Load(held.assignment) for held in state.epochs if held.lacks(event.sha256)]
    return [*effects, *loads, *_fetch_assigned(state, fetch.model, now)]


def _lost(state: State, event: ModelLost, now: float) -> list[Effect]:
    state.models.discard(event.model.sha256)
    command = event.command
    if command is not None and command.number in state.measured:
        state.measured.remove(command.number)  # it has not been carried out
    return [PublishInfo(), *start_fetch(state, event.model, now, command)]


def _make_room(state: State, model: ModelReference) -> MakeRoom:
    assigned = (held.assignment for held in state.epochs if held.assignment.steps)
    return MakeRoom(model, frozenset(assignment.model.sha256 for assignment in assigned))


def _ask(fetch: Fetch, now: float) -> list[Effect]:
    return [AskChunk(request) for request in fetch.ask(now)]


def _fetch_failed(state: State, fetch: Fetch, reason: str, now: float) -> list[Effect]:
    """Report it: under the epochs that wait for it, so that a stale one harms nobody; a command's own as epoch 0."""
    state.fetch = None
    sha256 = fetch.model.sha256
    epochs = [held.assignment.epoch for held in state.epochs if held.lacks(sha256)]
    if fetch.command is not None:
        epochs = [0]
    reports = [Report(Failed(epoch, "", reason, model=sha256)) for epoch in epochs]
    return [*reports, *_fetch_assigned(state, fetch.model, now)]


def _fetch_assigned(state: State, ended: ModelReference, now: float) -> list[Effect]:
    """Go on with the model of the assignment where fetching another one, which has ended, took its place."""
    known = state.models | {ended.sha256}
    missing = [held.assignment.model for held in state.epochs if held.lacks(held.assignment.model.sha256)]
    wanted = [model for model in missing if model.sha256 not in known]
    return start_fetch(state, wanted[-1], now) if wanted else []
