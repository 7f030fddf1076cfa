"""The orchestrator: from agents that appear to a plan in force, and from requests to answers.

Theory. The group is what retained states say is online. For it, the machine moves through the rules below, in order,
after every event; the first that applies decides. Nothing is stored that the retained messages do not say again, so
the rules also hold after a restart.

| rule                                                          | effects                                | phase      |
|---------------------------------------------------------------|----------------------------------------|------------|
| fewer agents than wanted (at first), or none                  | fail what waits, when none             | gathering  |
| an agent lacks the model; at first, all wait for it           | command fetch                          | profiling  |
| another plan is wanted, and may be built (`runtime.switching`)| new epoch: assignments                 | assigning  |
| an agent of the plan that is built has not loaded it          | –                                      | assigning  |
| all have                                                      | the plan is in force                   | serving    |
| nothing runs by older plans                                   | command release                        | unchanged  |
| a request waits, a plan is in force, the window has room      | as in `runtime.requests`               | unchanged  |

Which plan is wanted, `runtime.selection` tells. While it measures (commands `probe` and `profile`), the phase is
`profiling`. Whatever the phase, requests run by the plan that is in force, if there is one; `runtime.failover` says
what happens when it breaks.

An agent that fails to fetch, profile or load, or lets its deadline pass, is left out until it comes back with a new
session. A request ends exactly once: with its outputs, or with the reason why there are none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from legion_iot.errors import ProtocolError
from legion_iot.planning.planners.balanced import MakePlan
from legion_iot.runtime import drift, failover
from legion_iot.runtime.campaign import Member
from legion_iot.runtime.drift import Tempo
from legion_iot.runtime.epochs import Epoch
from legion_iot.runtime.exchange import NanFragmentError, UnplannedFragmentError
from legion_iot.runtime.failover import exclude, lose
from legion_iot.runtime.measuring import do, measured, measuring, without_trials
from legion_iot.runtime.orchestrator_events import (
    AgentInfoArrived,
    AgentStateArrived,
    Assign,
    ClearAssignment,
    Consult,
    Effect,
    Event,
    FragmentArrived,
    LinkFound,
    LinkLost,
    MetricsArrived,
    OwnLinkProbed,
    PlannerAnswered,
    ProbeOwnLink,
    ProfileArrived,
    PublishState,
    ReplanAsked,
    ReportArrived,
    ReportRefused,
    RequestArrived,
    RequestEnded,
    SendCommand,
    SendRegion,
    Tick,
)
from legion_iot.runtime.orchestrator_state import MOST_AGENTS, AgentRecord, State
from legion_iot.runtime.switching import build, must_be_alone, release, release_all
from legion_iot.runtime.trial import PREFIX, zeros
from legion_iot.wire.messages import Command, Failed, Measured, Ready, TileTiming

__all__ = [  # events and effects included, for whoever drives the machine
    "AgentInfoArrived",
    "AgentRecord",
    "AgentStateArrived",
    "Assign",
    "ClearAssignment",
    "Consult",
    "Effect",
    "Event",
    "FragmentArrived",
    "LinkFound",
    "LinkLost",
    "MakePlan",
    "MetricsArrived",
    "OwnLinkProbed",
    "PlannerAnswered",
    "ProbeOwnLink",
    "ProfileArrived",
    "PublishState",
    "ReplanAsked",
    "ReportArrived",
    "ReportRefused",
    "RequestArrived",
    "RequestEnded",
    "SendCommand",
    "SendRegion",
    "State",
    "Tick",
    "step",
]

WORK_TIMEOUT = 180.0  # seconds for an agent to fetch or load


def step(state: State, event: Event, now: float) -> list[Effect]:
    """Take in one event at monotonic time `now` (seconds); the effects are to be carried out in order."""
    failover.stood_still(state, now)
    if (name := getattr(event, "agent", "")) and name not in state.agents and len(state.agents) >= MOST_AGENTS:
        state.dropped += 1
        return []
    if _says_nothing_new(state, event):
        return []
    before = len(state.requests.waiting), name in state.agents and state.agents[name].is_member
    effects: list[Effect] = []
    match event:
        case AgentStateArrived():
            effects += _agent_state(state, event, now)
        case AgentInfoArrived():
            state.agents.setdefault(event.agent, AgentRecord()).info = event.info
        case ReportArrived():
            effects += _report(state, event, now)
        case ProfileArrived() | ReportRefused() | OwnLinkProbed() | PlannerAnswered() | ReplanAsked():
            effects += measuring(state, event, now)
        case FragmentArrived():
            effects += _fragment(state, event, now)
        case RequestArrived():
            effects += state.requests.arrive(event.request, event.inputs, state.epoch, now, event.seconds)
        case MetricsArrived():
            failover.heard(state.agents.setdefault(event.agent, AgentRecord()), now)
        case LinkLost():
            failover.link_lost(state)
        case LinkFound():
            failover.link_found(state, now)
        case Tick():
            effects += _deadlines(state, now)
    after = len(state.requests.waiting), name in state.agents and state.agents[name].is_member
    rules_apply = effects or before != after or not _follows_nothing(state, event)
    effects = without_trials(state, effects, now)
    return effects + (without_trials(state, _advance(state, now), now) if rules_apply else [])


def _says_nothing_new(state: State, event: Event) -> bool:
    """Whether an agent retains what it had retained before: all of them do so when a broker comes back."""
    match event:
        case AgentInfoArrived(agent=agent, info=info):
            return agent in state.agents and state.agents[agent].info == info
        case AgentStateArrived(agent=agent, state=said) if agent in state.agents and said.is_present:
            record = state.agents[agent]
            same = record.online and record.session == said.session and record.draining == (said.state == "draining")
            return same and not record.suspected
    return False


def _agent_state(state: State, event: AgentStateArrived, now: float) -> list[Effect]:
    record = state.agents.setdefault(event.agent, AgentRecord())
    said = event.state
    if not said.is_present:
        if said.session != record.session:
            return []  # the late will of an older session
        # What it was told meanwhile is lost, so it is told anew when it comes back, and gets a plan of its own time.
        record.online, record.task = False, ""
        state.selection.forget()
        return lose(state, event.agent, "went offline", now)
    lost: list[Effect] = []
    if record.session != said.session:
        lost = lose(state, event.agent, "restarted", now) if record.online else []
        fresh = AgentRecord(said.session, info=record.info, link=record.link, assigned=record.assigned)
        record = state.agents[event.agent] = replace(fresh, patience=record.patience, suspected_at=record.suspected_at)
        state.selection.forget()
    record.online, record.draining = True, said.state == "draining"
    failover.heard(record, now)
    return lost


def _report(state: State, event: ReportArrived, now: float) -> list[Effect]:
    record = state.agents.setdefault(event.agent, AgentRecord())
    match event.report:
        case Ready(epoch=epoch):
            if not state.epochs.ready(event.agent, epoch, now):
                state.dropped += 1  # of an assignment that has been replaced; the newer one still loads
                return []
            record.task = "" if record.task == "load" else record.task
            failover.heard(record, now)
        case Measured() as answer:
            return measured(state, event.agent, answer, now)
        case Failed(request=request) as failed if request:
            return failover.tile_failed(state, event.agent, failed, now)
        case Failed(epoch=0, model=model, reason=reason) if model in ("", state.model.sha256):  # a command
            return exclude(state, event.agent, reason, now)
        case Failed(epoch=epoch, reason=reason) if epoch and epoch == state.epoch:
            return _load_failed(state, event.agent, reason, now)
        case TileTiming() as timing:
            return _timing(state, event.agent, record, timing, now)
        case _:
            state.dropped += 1
    return []


def _timing(state: State, agent: str, record: AgentRecord, timing: TileTiming, now: float) -> list[Effect]:
    force, worked_before = state.epochs.force, record.worked_at
    if force is not None and timing.epoch == force.number and (timing.step, agent) in force.dependencies.sources:
        force.keep(agent, timing)
        force.tempos.setdefault(agent, Tempo()).note(timing.step, timing.seconds, now)
        failover.worked(record, now)
    elif timing.request not in state.requests.under_way:
        state.dropped += 1
        return []
    state.requests.computed(agent, timing, worked_before, now)
    return []


def _load_failed(state: State, agent: str, reason: str, now: float) -> list[Effect]:
    """An agent cannot load the newest plan: not beside the one before, perhaps, but alone."""
    building = state.epochs.building
    if building is None or building.alone or state.epochs.force is None:
        return exclude(state, agent, reason, now)
    plan = building.plan
    state.epochs.building = None
    state.alone = plan
    return []


def _fragment(state: State, event: FragmentArrived, now: float) -> list[Effect]:
    header = event.header
    try:
        return state.requests.take(event.sender, header, event.body, now)
    except UnplannedFragmentError as error:
        state.dropped += 1
        if event.sender not in state.agents:
            return []
        nan = isinstance(error, NanFragmentError)
        failed = Failed(header.epoch, header.request, str(error), event.sender, attempt=header.attempt, nan=nan)
        return failover.tile_failed(state, event.sender, failed, now)
    except ProtocolError:
        state.dropped += 1
        return []


def _note_drift(state: State, now: float) -> None:
    """Take devices that have changed for good for what they are now; the plan follows from that."""
    force = state.epochs.force
    if force is None or state.epochs.building is not None or state.selection.campaign is not None:
        return
    for name, tempo in force.tempos.items():
        record = state.agents[name]
        change = tempo.change()
        if change is None or record.info is None or now - record.changed_at < drift.pause(record.changes):
            continue
        record.slowdown = drift.rounded(record.slowdown * change)
        record.changes, record.changed_at = record.changes + 1, now
        state.selection.drifted(record.info.board_class, record.slowdown)
        force.tempos[name] = Tempo()


def _deadlines(state: State, now: float) -> list[Effect]:
    _note_drift(state, now)
    effects = [*state.requests.deadlines(now, state.detail), *failover.late(state, now)]
    if (found := state.selection.campaign) is not None:
        effects += do(state, state.selection.after(found.tick(now, bool(state.shared.under_way)), now), now)
    for name in state.members():
        record = state.agents[name]
        if record.task and now - record.busy_since > WORK_TIMEOUT:
            effects += exclude(state, name, f"did not {record.task} within {WORK_TIMEOUT:g} s", now)
    return effects


# --- the rules ---


def _follows_nothing(state: State, event: Event) -> bool:
    """Whether no rule can apply that did not before: such events come by the thousand where agents do."""
    match event:
        case FragmentArrived() | MetricsArrived() | ReportArrived(report=TileTiming()):
            return True
        case ReportArrived(report=Ready()):
            return state.epochs.building is not None and not state.epochs.building.is_ready
    return False


def _advance(state: State, now: float) -> list[Effect]:
    members = state.members()
    if not members or (not state.started and len(members) < state.least_agents):
        told = [*_phase(state, "gathering", _gathering_detail(state, members)), *_refuse_waiting(state, members, now)]
        return told if members else [*told, *release_all(state)]
    effects, lacking = _fetch(state, members, now)
    able = [name for name in members if name not in lacking]
    if not able or (lacking and not state.started):
        return [*effects, *_phase(state, "profiling", ", ".join(lacking))]
    effects += do(state, state.selection.begin(tuple(_member(state, name) for name in able), now), now)
    changes, others_wait = _change_plan(state, able, now)
    effects += changes
    if state.epochs.switch():
        state.phase = ""  # told in any case: another plan is in force
    effects += _phase(state, *_describe(state, lacking, members))
    return [*effects, *([] if others_wait else _start_requests(state, now)), *release(state)]


def _change_plan(state: State, members: Sequence[str], now: float) -> tuple[list[Effect], bool]:
    """Have the plan built that is wanted, unless it is the one that is, or is to be, in force.

    Where requests under way have to end first, others wait.
    """
    target = state.epochs.target
    broken = state.started and (target is None or not _is_sound(state, target, members))
    waited = state.requests.waited(now) if target is None else 0.0
    wanted = state.alone or state.selection.wanted(math.inf if broken else waited)
    if wanted is None or (target is not None and wanted == target.plan and not broken):
        return [], False
    alone = must_be_alone(state, wanted)
    if state.requests.beside(state.epochs.force):
        return [], False  # agents hold two plans, and requests run by both
    if alone and state.requests.under_way:
        return [], True
    return build(state, wanted, members, now, alone=alone), False


def _is_sound(state: State, epoch: Epoch, members: Sequence[str]) -> bool:
    """Whether all is still as it was when the epoch began."""
    return epoch.agents <= set(members) and epoch.exchange.nan_allowed == state.nan_allowed


def _describe(state: State, lacking: Sequence[str], members: Sequence[str]) -> tuple[str, str]:
    """The phase, and its detail."""
    if state.selection.campaign is not None or state.selection.waits:
        return "profiling", _profiling_detail(state)
    if state.epochs.building is not None:
        return "assigning", ", ".join(state.epochs.building.loading)
    if state.epochs.force is None:
        return "assigning", ", ".join(members) + _remarks(state)
    return "serving", ", ".join(members) + _remarks(state)


def _member(state: State, name: str) -> Member:
    record = state.agents[name]
    assert record.info is not None
    return Member(name, drift.class_of(record.info.board_class, record.slowdown), record.info.memory_bytes, record.link)


def _profiling_detail(state: State) -> str:
    """Who is measured, or what else is going on."""
    found = state.selection.campaign
    if found is None:
        return f"another model is measured first{_remarks(state)}"
    what = ", ".join(found.waits_for) or ("trying a plan" if state.selection.trial is not None else "planning")
    return f"{what}{_remarks(state)}"


def _remarks(state: State) -> str:
    """Whom not to trust, and who takes no part."""
    doubts = [f"{name} {doubt}" for name, doubt in sorted(state.selection.doubts.items())]
    remarks = [*doubts, *_left_out(state)]
    return f" ({'; '.join(remarks)})" if remarks else ""


def _left_out(state: State) -> list[str]:
    """Who is there and gets no work, and why."""
    agents = sorted(state.agents.items())
    return [
        *(f"{name} left out: {each.excluded}" for name, each in agents if each.excluded),
        *(f"{name} is late: {each.suspected}" for name, each in agents if each.suspected and not each.excluded),
    ]


def _phase(state: State, phase: str, detail: str) -> list[Effect]:
    if (phase, detail) == (state.phase, state.detail):
        return []
    state.phase, state.detail = phase, detail
    return [PublishState(phase, detail)]


def _gathering_detail(state: State, members: list[str]) -> str:
    left_out = "; ".join(_left_out(state))
    return f"{len(members)} of {state.least_agents} agents online" + (f" ({left_out})" if left_out else "")


def _refuse_waiting(state: State, members: list[str], now: float) -> list[Effect]:
    """Before the first plan requests wait for the group; later, with nobody left, they end with that reason."""
    if members or not state.started:
        return []
    return state.requests.end_waiting(now, "no-agents", f"no agent is online ({state.detail})")


def _fetch(state: State, members: list[str], now: float) -> tuple[list[Effect], list[str]]:
    """Commands for agents that lack the model, and who does."""
    effects: list[Effect] = []
    lacking = []
    for name in members:
        record = state.agents[name]
        assert record.info is not None
        if state.model.sha256 in record.info.models:
            record.task = "" if record.task == "fetch" else record.task
            continue
        lacking.append(name)
        if not record.task and not state.shared.fetches(name):
            record.task, record.busy_since = "fetch", now
            effects.append(SendCommand(name, Command("fetch", state.model)))
    return effects, lacking


def _start_requests(state: State, now: float) -> list[Effect]:
    trial, force = state.selection.trial, state.epochs.force
    if trial is None:
        state.requests.withdraw(PREFIX)
    if force is None:
        return []
    effects = state.requests.start(force, now)
    if trial is not None and force.plan == trial.plan:
        for name in trial.next(len(state.requests.waiting) + state.shared.under_way):
            effects += state.requests.arrive(name, zeros(state.network), state.epoch, now)
        effects += state.requests.start(force, now)
    return effects
