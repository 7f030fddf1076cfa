"""Going on without an agent: when it is lost, late, or cannot be trusted, what it was to do is done by others.

Theory. An agent is lost when its will says so. It is late when a request waits for its step for longer than the plan
lets expect, and it has reported no other step meanwhile; this is known long before the broker's keep-alive runs out. A
late agent gets no work until something is heard of it, and more patience then if that is soon. An attempt that failed
is made again; what fails twice at the same agent goes on without that agent, which is then left out until it has
restarted. But when the same request fails at another agent, too, then it is the request that is at fault, and nobody is
left out for it; where what is wrong is NaN, the model itself makes it.

| event                                        | the agent           | requests it has work for                       |
|----------------------------------------------|---------------------|------------------------------------------------|
| it goes offline, or restarts                 | is no member        | the next attempt, by a plan without it         |
| it is late, and others are not               | is suspected        | the next attempt, by a plan without it         |
| something is heard of a suspected one        | is a member again   | –                                              |
| a tile fails, or its rows cannot be true     | has a strike        | the next attempt, by the same plan             |
| … twice for one request, or too many strikes | is left out         | the next attempt, by a plan without it         |
| … and the request fails elsewhere as well    | is a member again   | ended: `tile-failed`; or NaN is allowed        |
| too late with loading, when others are ready | is suspected        | –                                              |

Nobody is suspected while all are late, or while the broker is out of reach.
"""

from __future__ import annotations

import math
import statistics

from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.runtime.epochs import Epoch
from legion_iot.runtime.orchestrator_events import Effect
from legion_iot.runtime.orchestrator_state import AgentRecord, State
from legion_iot.runtime.requests import Request
from legion_iot.wire.messages import Failed

GRACE = 3.0  # seconds after the broker can be reached again, in which others find it, too
OWN_PAUSE = 1.0  # seconds without any event, after which it was we who stood still
MOST_PATIENCE = 64.0
AWAY = 8.0  # seconds of silence, after which an agent that is suspected was away indeed
FORGIVEN = 600.0  # seconds after which an agent that was late is trusted like any other
SAME_REQUEST = 2  # times that a request may fail at one agent
STRIKES = 5  # requests that an agent may fail,
SOUND = 64  # with fewer steps in between
LOADING_FACTOR = 5.0  # times what others take for loading, an agent may
LEAST_LOADING = 15.0  # seconds that it may in any case


def lose(state: State, agent: str, what: str, now: float) -> list[Effect]:
    """Nothing is to be expected of an agent any more: what needs it is begun again."""
    force = state.epochs.force
    broken = state.epochs.lose(agent)
    if state.alone is not None and agent in state.alone.agents:
        state.alone = None
    # Agents are about to load another plan: of the two that they hold, only the one that was in force stays.
    failed = [
        each
        for each in state.requests.under_way.values()
        if _needs(each, agent) or (broken and each.epoch is not force)
    ]
    return state.requests.again(failed, "agent-lost", f"agent {agent} {what} while it had work", now)


def _needs(request: Request, agent: str) -> bool:
    return request.epoch is not None and request.epoch.needs(agent, request.replica)


def exclude(state: State, agent: str, reason: str, now: float) -> list[Effect]:
    """Give an agent no more work until it has restarted."""
    record = state.agents[agent]
    record.excluded, record.task = reason, ""
    return lose(state, agent, f"is left out ({reason})", now)


# --- agents that fail ---


def tile_failed(state: State, agent: str, failed: Failed, now: float) -> list[Effect]:
    """A step of a request has failed at an agent, or what an agent sent for it cannot be true."""
    request = state.requests.under_way.get(failed.request)
    if request is None or request.epoch is None or request.epoch.number != failed.epoch:
        return []
    if failed.attempt not in (0, request.attempt):
        return []
    culprit = failed.culprit or agent
    record = state.agents.get(culprit)
    if record is None:  # the orchestrator's own sending has failed: nobody's fault that is known
        return state.requests.again([request], "tile-failed", failed.reason, now)
    request.blamed.append(culprit)
    _strike(record)
    reason = f"agent {culprit}: {failed.reason}"
    others = [name for name in state.members() if name != culprit]
    left_out = [name for name in request.left_out if name != culprit]
    if left_out or (not others and request.blamed.count(culprit) >= SAME_REQUEST):
        return _request_at_fault(state, request, failed.nan, reason, now)
    if others and (request.blamed.count(culprit) >= SAME_REQUEST or record.strikes >= STRIKES):
        request.left_out.append(culprit)
        effects = exclude(state, culprit, failed.reason, now)
        return effects + _again_if_under_way(state, request, reason, now)
    return state.requests.again([request], "tile-failed", reason, now)


def _strike(record: AgentRecord) -> None:
    record.strikes = record.strikes + 1 if record.sound < SOUND else 1
    record.sound = 0


def _request_at_fault(state: State, request: Request, nan: bool, reason: str, now: float) -> list[Effect]:
    """It fails wherever it runs."""
    for name in request.left_out:
        state.agents[name].excluded = ""
    request.left_out.clear()
    if not nan:
        return [state.requests.end(request, now, error="tile-failed", reason=reason)]
    state.nan_allowed = True
    return _again_if_under_way(state, request, reason, now)


def _again_if_under_way(state: State, request: Request, reason: str, now: float) -> list[Effect]:
    return [] if request.epoch is None else state.requests.again([request], "tile-failed", reason, now)


# --- agents that are late ---


def worked(record: AgentRecord, now: float) -> None:
    """An agent has done a step."""
    record.worked_at = now
    record.sound += 1
    heard(record, now)


def heard(record: AgentRecord, now: float) -> None:
    """An agent is alive; where that is heard soon, it was suspected too early."""
    if record.suspected:
        record.suspected = ""
        if now - record.suspected_at <= AWAY:
            record.patience = min(2 * record.patience, MOST_PATIENCE)


def stood_still(state: State, now: float) -> None:
    """Where it was the orchestrator that did nothing for long, nobody else was late."""
    if now - state.seen > OWN_PAUSE:
        state.link_up = max(state.link_up, now)
    state.seen = now


def late(state: State, now: float) -> list[Effect]:
    """Suspect those for whom requests wait too long."""
    if now < state.link_up + GRACE:
        return []
    reasons: dict[str, str] = {}
    for request, task, since in state.requests.awaited():
        assert request.epoch is not None
        assert request.progress is not None
        allowed = request.epoch.pace.allowed(task)
        for name in request.progress.culprits(task):
            record = state.agents.get(name)
            if record is None or not record.online:
                continue
            patience = allowed * record.patience
            if now - max(since, record.worked_at, state.link_up) > patience:
                what = "its rows of the output" if task[1] == ORCHESTRATOR else f"step {task[0]}"
                reasons.setdefault(name, f"{what} took longer than {patience:.1f} s")
    if state.epochs.building is not None:
        reasons |= _late_loaders(state, state.epochs.building, now)
    return _suspect(state, reasons, now)


def _late_loaders(state: State, building: Epoch, now: float) -> dict[str, str]:
    """Those that take far longer for loading than others have."""
    if not building.ready:
        return {}
    others = statistics.median(at - building.assigned for at in building.ready.values())
    allowed = max(LEAST_LOADING, LOADING_FACTOR * others)
    waited = now - max(building.assigned, state.link_up)
    patience = {name: allowed * state.agents[name].patience for name in building.loading}
    return {name: f"loading took longer than {most:.1f} s" for name, most in patience.items() if waited > most}


def _suspect(state: State, reasons: dict[str, str], now: float) -> list[Effect]:
    if not set(state.members()) - reasons.keys():
        return []  # then it is not the agents, or there is nobody to take their place
    effects: list[Effect] = []
    for name, reason in sorted(reasons.items()):
        record = state.agents[name]
        if record.suspected or record.excluded:
            continue
        if now - record.suspected_at > FORGIVEN:
            record.patience = 1.0
        record.suspected, record.suspected_at, record.task = reason, now, ""
        effects += lose(state, name, f"is late ({reason})", now)
    return effects


def link_lost(state: State) -> None:
    """The broker cannot be reached: nothing is heard of anybody, and nobody is to blame for it."""
    state.link_up = math.inf


def link_found(state: State, now: float) -> None:
    """The broker can be reached, for the first time or again."""
    state.link_up = now
