"""From a plan that is wanted to one in force: it is loaded beside the old one, then requests change over to it.

Where some agent has not the memory for both, the requests under way end first, and the new plan is loaded alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from legion_iot.errors import LegionError
from legion_iot.planning.estimate import Estimator
from legion_iot.planning.memory import plan_memory_bytes
from legion_iot.planning.plan import Plan
from legion_iot.planning.routing import Routing, route
from legion_iot.runtime.assignment import assignments_of
from legion_iot.runtime.epochs import Epoch, new_epoch
from legion_iot.runtime.orchestrator_events import Assign, ClearAssignment, Effect, SendCommand
from legion_iot.runtime.orchestrator_state import State
from legion_iot.runtime.packing import Party, receivers_to_pack_for
from legion_iot.runtime.progress import Pace, Task
from legion_iot.wire.messages import Assignment, Command

AMPLE = 4  # times all weights and maps: room for two plans in any case
MOST_ESTIMATED = 2048  # transfers of a plan whose pace is predicted; that of larger ones is learnt


def must_be_alone(state: State, plan: Plan) -> bool:
    """Whether some agent has not the memory for the plan beside the one in force, as far as that is known."""
    force = state.epochs.force
    return force is not None and (plan == state.alone or not _fit_beside(state, force.plan, plan))


def build(state: State, plan: Plan, members: Sequence[str], now: float, *, alone: bool) -> list[Effect]:
    """Have a plan loaded, beside the one in force or alone."""
    routing = route(state.network, plan)
    state.epoch = next(state.shared.epochs)
    epoch = new_epoch(state.network, state.epoch, plan, routing, _pace(state, plan, routing), state.nan_allowed)
    epoch.alone, epoch.assigned = alone, now
    if alone:
        state.epochs.force = None
    state.epochs.building, state.started, state.alone = epoch, True, None
    return _assign(state, epoch, members, now)


def _assign(state: State, epoch: Epoch, members: Sequence[str], now: float) -> list[Effect]:
    """Tell every member its part, or that it has none; whoever is no member shall not find an old one."""
    known = {name: Party(each.info, each.link) for name, each in state.agents.items() if each.info is not None}
    beside = 0 if state.epochs.force is None else state.epochs.force.number
    epoch.packs = receivers_to_pack_for(state.network, epoch.routing, state.wire, known)
    parts = assignments_of(
        epoch.number,
        state.model,
        epoch.routing,
        state.wire,
        alone=epoch.alone,
        nan_allowed=state.nan_allowed,
        packs=epoch.packs,
        beside=beside,
    )
    nothing = Assignment(epoch.number, state.model, (), (), (), state.wire, epoch.alone, beside=beside)
    effects: list[Effect] = []
    everybody = state.members()
    for name in everybody:  # also those that lack the model's file: they may still compute by the plan before
        record = state.agents[name]
        if name in members:
            record.task, record.busy_since = "load", now
        effects.append(Assign(name, parts.get(name, nothing)))
        record.assigned = epoch.number if name in parts else 0
    return [*effects, *_clear(state, set(everybody))]


def _clear(state: State, kept: set[str]) -> list[Effect]:
    """Retain nothing for those that have no part in any plan."""
    effects: list[Effect] = []
    for name, record in sorted(state.agents.items()):
        if record.assigned and name not in kept and not record.draining:
            record.assigned = 0
            effects.append(ClearAssignment(name))
    return effects


def release(state: State) -> list[Effect]:
    """Once no request needs what was in force before, agents may free it."""
    epochs = state.epochs
    force = epochs.force
    if force is None or epochs.building is not None or epochs.released >= force.number or state.requests.beside(force):
        return []
    epochs.released = force.number
    return free_below(state, force.number)


def release_all(state: State) -> list[Effect]:
    """Once no request is under way, agents that are about to end need not wait for others: there are none."""
    if state.epochs.force is None or state.requests.under_way:
        return []
    state.epochs.force = state.epochs.building = None
    return free_below(state, next(state.shared.epochs))


def free_below(state: State, epoch: int) -> list[Effect]:
    """Tell all agents that are there to free what they hold of the model below an epoch."""
    command = Command("release", state.model, epoch=epoch)
    return [SendCommand(name, command) for name, record in sorted(state.agents.items()) if record.online]


def _fit_beside(state: State, old: Plan, new: Plan) -> bool:
    """Whether every agent has the memory for both plans, as far as it is known."""
    limits = {name: info.memory_bytes for name in new.agents if (info := state.agents[name].info) is not None}
    if not limits or AMPLE * state.network_bytes <= min(limits.values()):
        return True
    before, after = plan_memory_bytes(state.network, old), plan_memory_bytes(state.network, new)
    return all(before.get(name, 0) + after.get(name, 0) <= most for name, most in limits.items())


def _pace(state: State, plan: Plan, routing: Routing) -> Pace:
    """What each task is expected to take, from when its sources are done; nothing where nothing is known."""
    if len(routing.transfers) > MOST_ESTIMATED:
        return Pace({})
    try:
        predictor = state.selection.predictor()
        bars = Estimator(state.network, predictor.group, predictor, state.wire).estimate(plan).bars
    except LegionError:
        return Pace({})
    ends: dict[Task, float] = {}
    for bar in bars:
        if bar.step is not None and bar.kind != "send":
            task = bar.step, bar.participant
            ends[task] = max(ends.get(task, 0.0), bar.end)
    sources: dict[Task, float] = {}
    for transfer in routing.transfers:
        if transfer.made_in is not None:
            task = transfer.step, transfer.target
            sources[task] = max(sources.get(task, 0.0), ends.get((transfer.made_in, transfer.source), 0.0))
    return Pace({task: end - sources.get(task, 0.0) for task, end in ends.items()})
