"""The orchestrator: from agents that appear to a plan in force, and from requests to answers.

Theory. The group is what retained states say is online. For it, the machine moves through the rules below, in order,
after every event; the first that applies decides. Nothing is stored that the retained messages do not say again, so
the rules also hold after a restart.

| rule                                                          | effects                                | phase      |
|---------------------------------------------------------------|----------------------------------------|------------|
| fewer agents than wanted (at first), or none                  | fail what waits, when none             | gathering  |
| an agent lacks the model                                      | command fetch                          | profiling  |
| an agent has no profile of the model (one at a time)          | command profile                        | profiling  |
| no plan for exactly these agents, and no request under way    | new epoch: assignments                 | assigning  |
| an agent of the plan has not loaded it                        | —                                      | assigning  |
| a request waits and the window has room                       | as in `runtime.requests`               | serving    |

An agent that fails to fetch, profile or load, or lets its deadline pass, is left out until it comes back with a new
session. A request ends exactly once: by its last fragment, by a failed tile, by an agent that left, or by its deadline.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from legion_iot.errors import AgentError, ProtocolError
from legion_iot.model.blocks import Network
from legion_iot.planning.plan import Plan, check
from legion_iot.planning.planners.balanced import balanced
from legion_iot.planning.routing import Routing, route
from legion_iot.runtime.assignment import assignment_of
from legion_iot.runtime.orchestrator_events import (
    AgentInfoArrived,
    AgentStateArrived,
    Assign,
    Effect,
    Event,
    FragmentArrived,
    PublishState,
    ReportArrived,
    RequestArrived,
    RequestEnded,
    SendCommand,
    SendRegion,
    Tick,
)
from legion_iot.runtime.requests import Requests
from legion_iot.wire.messages import (
    AgentInfo,
    Command,
    Failed,
    ModelReference,
    Profile,
    Ready,
    TileTiming,
)
from legion_iot.wire.quantised import EXACT

__all__ = [  # events and effects included, for whoever drives the machine
    "AgentInfoArrived",
    "AgentRecord",
    "AgentStateArrived",
    "Assign",
    "Effect",
    "Event",
    "FragmentArrived",
    "MakePlan",
    "PublishState",
    "ReportArrived",
    "RequestArrived",
    "RequestEnded",
    "SendCommand",
    "SendRegion",
    "State",
    "Tick",
    "step",
]

WORK_TIMEOUT = 180.0  # seconds for an agent to fetch, profile or load
PROFILE_SECONDS = 1.0  # of whole runs on each agent
LEAST_RUN, MOST_RUN = 1e-8, 1e5  # seconds of a whole run; others cannot be, and a quotient of theirs may be infinite
TIMINGS = 256  # kept per tile

MakePlan = Callable[[Network, Mapping[str, float]], Plan]  # for agents of these speeds, in FLOP per second


@dataclass(slots=True)
class AgentRecord:
    """What is known of one agent; `excluded` is the reason it gets no work, `busy_since` the start of its task."""

    session: str = ""
    online: bool = False
    info: AgentInfo | None = None
    profile: Profile | None = None
    task: str = ""
    busy_since: float = 0.0
    ready_epoch: int = 0
    excluded: str = ""


@dataclass(slots=True)
class State:
    """All the orchestrator remembers. Only `step` changes it.

    `epoch` numbers the plans; a new process begins above those of the last one, so that no agent takes an old
    assignment for a new one. `wire` is how float32 maps travel between agents. `started` is set with the first plan:
    only before it do `least_agents` have to be there. `planned_for` are the members the plan was made for, whether or
    not it gives each of them work; `make_plan` makes it. `timings` are by step and agent.
    """

    network: Network
    model: ModelReference
    least_agents: int = 1
    make_plan: MakePlan = balanced
    wire: str = EXACT
    epoch: int = 0
    started: bool = False
    agents: dict[str, AgentRecord] = field(default_factory=dict)
    phase: str = ""
    detail: str = ""
    plan: Plan | None = None
    planned_for: frozenset[str] = frozenset()
    routing: Routing | None = None
    timings: dict[tuple[int, str], deque[TileTiming]] = field(default_factory=dict)
    dropped: int = 0
    requests: Requests = field(init=False)

    def __post_init__(self) -> None:
        self.requests = Requests(self.network)

    def members(self) -> list[str]:
        """Agents that are online, have said what they are, and are not left out."""
        return sorted(n for n, a in self.agents.items() if a.online and a.info is not None and not a.excluded)


def step(state: State, event: Event, now: float) -> list[Effect]:
    """Take in one event at monotonic time `now` (seconds); the effects are to be carried out in order."""
    effects: list[Effect] = []
    match event:
        case AgentStateArrived():
            effects += _agent_state(state, event, now)
        case AgentInfoArrived():
            state.agents.setdefault(event.agent, AgentRecord()).info = event.info
        case ReportArrived():
            effects += _report(state, event, now)
        case FragmentArrived():
            effects += _fragment(state, event, now)
        case RequestArrived():
            effects += state.requests.arrive(event.request, event.inputs, now)
        case Tick():
            effects += _deadlines(state, now)
    return effects + _advance(state, now)


def _agent_state(state: State, event: AgentStateArrived, now: float) -> list[Effect]:
    record = state.agents.setdefault(event.agent, AgentRecord())
    if event.state.state == "online":
        if record.session != event.state.session:
            lost = _leave(state, event.agent, "restarted", now) if record.online else []
            state.agents[event.agent] = AgentRecord(event.state.session, True, record.info, record.profile)
            state.planned_for -= {event.agent}
            return lost
        record.online = True
        return []
    if event.state.session != record.session:
        return []  # the late will of an older session
    # What it was told meanwhile is lost, so it is told anew when it comes back, and gets a plan of its own time.
    record.online, record.task = False, ""
    state.planned_for -= {event.agent}
    return _leave(state, event.agent, "went offline", now)


def _leave(state: State, agent: str, what: str, now: float) -> list[Effect]:
    """End what cannot go on without `agent`, and drop the plan it had work in."""
    if state.plan is None or agent not in state.plan.agents:
        return []
    state.plan = state.routing = None
    state.planned_for = frozenset()
    reason = f"agent {agent} {what} while it had work; send the request again"
    return state.requests.end_under_way(now, "agent-lost", reason)


def _exclude(state: State, agent: str, reason: str, now: float) -> list[Effect]:
    record = state.agents[agent]
    record.excluded, record.task = reason, ""
    return _leave(state, agent, f"is left out ({reason})", now)


def _report(state: State, event: ReportArrived, now: float) -> list[Effect]:
    record = state.agents.setdefault(event.agent, AgentRecord())
    match event.report:
        case Ready(epoch=epoch):
            if epoch != state.epoch:
                state.dropped += 1  # of an assignment that has been replaced; the newer one still loads
                return []
            record.ready_epoch = epoch
            record.task = "" if record.task == "load" else record.task
        case Profile() as profile if profile.sha256 == state.model.sha256:
            usable = tuple(run for run in profile.runs if LEAST_RUN <= run <= MOST_RUN)
            if usable:
                record.profile = Profile(profile.sha256, usable)
                record.task = "" if record.task == "profile" else record.task
        case Failed(request=request, reason=reason) if request:
            if request in state.requests.under_way:
                why = f"agent {event.agent}: {reason}"
                return [state.requests.end(request, now, error="tile-failed", reason=why)]
        case Failed(epoch=epoch, reason=reason) if epoch in (0, state.epoch):  # 0: a command, not an assignment
            return _exclude(state, event.agent, reason, now)
        case TileTiming() as timing if timing.epoch == state.epoch:
            state.timings.setdefault((timing.step, event.agent), deque(maxlen=TIMINGS)).append(timing)
            state.requests.computed(event.agent, timing)
        case _:
            state.dropped += 1
    return []


def _fragment(state: State, event: FragmentArrived, now: float) -> list[Effect]:
    try:
        return state.requests.take(event.sender, event.header, event.body, now)
    except ProtocolError:
        state.dropped += 1
        return []


def _deadlines(state: State, now: float) -> list[Effect]:
    effects = state.requests.deadlines(now, state.detail)
    for name in state.members():
        record = state.agents[name]
        if record.task and now - record.busy_since > WORK_TIMEOUT:
            effects += _exclude(state, name, f"did not {record.task} within {WORK_TIMEOUT:g} s", now)
    return effects


# --- the rules ---


def _advance(state: State, now: float) -> list[Effect]:
    members = state.members()
    if not members or (not state.started and len(members) < state.least_agents):
        return [*_phase(state, "gathering", _gathering_detail(state, members)), *_refuse_waiting(state, members, now)]
    if preparation := _prepare(state, members, now):
        return preparation
    waits_for = [name for name in members if state.agents[name].task in ("fetch", "profile")]
    if state.plan is None or state.planned_for != frozenset(members):
        if waits_for:
            return [*_phase(state, "profiling", ", ".join(waits_for)), *_start_requests(state, now)]
        if not state.requests.under_way:
            return _new_epoch(state, members, now)
        return []  # the requests under way end first; those that wait then run on the new plan
    loading = [name for name in members if state.agents[name].ready_epoch != state.epoch]
    if loading:
        return _phase(state, "assigning", ", ".join(loading))
    return [*_phase(state, "serving", ", ".join(members)), *_start_requests(state, now)]


def _phase(state: State, phase: str, detail: str) -> list[Effect]:
    if (phase, detail) == (state.phase, state.detail):
        return []
    state.phase, state.detail = phase, detail
    return [PublishState(phase, detail)]


def _gathering_detail(state: State, members: list[str]) -> str:
    excluded = "; ".join(f"{n} left out: {a.excluded}" for n, a in sorted(state.agents.items()) if a.excluded)
    return f"{len(members)} of {state.least_agents} agents online" + (f" ({excluded})" if excluded else "")


def _refuse_waiting(state: State, members: list[str], now: float) -> list[Effect]:
    """Before the first plan requests wait for the group; later, with nobody left, they end with that reason."""
    if members or not state.started:
        return []
    return state.requests.end_waiting(now, "no-agents", f"no agent is online ({state.detail})")


def _prepare(state: State, members: list[str], now: float) -> list[Effect]:
    """Commands for agents that lack the model or a profile; profiles are made one at a time, undisturbed."""
    effects: list[Effect] = []
    profiling = any(state.agents[name].task == "profile" for name in members)
    fetching = False
    for name in members:
        record = state.agents[name]
        assert record.info is not None
        if state.model.sha256 not in record.info.models:
            fetching = True
            if not record.task:
                record.task, record.busy_since = "fetch", now
                effects.append(SendCommand(name, Command("fetch", state.model)))
        elif record.task == "fetch":
            record.task = ""
    for name in members:
        record = state.agents[name]
        if record.profile is None and not record.task and not profiling and not fetching:
            profiling = True
            record.task, record.busy_since = "profile", now
            effects.append(SendCommand(name, Command("profile", state.model, PROFILE_SECONDS)))
    if effects:
        effects = [*_phase(state, "profiling", ", ".join(n for n in members if state.agents[n].task)), *effects]
    return effects


def _speeds(state: State, members: list[str]) -> dict[str, float]:
    """FLOP per second of each agent, from its median whole run."""
    flops = max(1, state.network.flops)
    speeds = {}
    for name in members:
        profile = state.agents[name].profile
        assert profile is not None
        speeds[name] = flops / statistics.median(profile.runs)
    return speeds


def _new_epoch(state: State, members: list[str], now: float) -> list[Effect]:
    plan = state.make_plan(state.network, _speeds(state, members))
    check(plan, state.network)
    if strangers := set(plan.agents) - set(members):
        raise AgentError(f"the plan gives work to {', '.join(sorted(strangers))}, not online; start those agents first")
    routing = route(state.network, plan)
    state.epoch += 1
    state.started, state.planned_for = True, frozenset(members)
    state.plan, state.routing, state.timings = plan, routing, {}
    state.requests.begin(state.epoch, routing)
    effects: list[Effect] = []
    for name in members:
        record = state.agents[name]
        record.task, record.busy_since = "load", now
        effects.append(Assign(name, assignment_of(state.epoch, state.model, routing, name, state.wire)))
    return [*_phase(state, "assigning", ", ".join(members)), *effects]


def _start_requests(state: State, now: float) -> list[Effect]:
    if state.plan is None or any(state.agents[name].ready_epoch != state.epoch for name in state.plan.agents):
        return []
    return state.requests.start(now)
