"""The orchestrator: from agents that appear to a plan in force, and from requests to answers.

Theory. The group is what retained states say is online. For it, the machine moves through the rules below, in order,
after every event; the first that applies decides. Nothing is stored that the retained messages do not say again, so
the rules also hold after a restart.

| rule                                                          | effects                                | phase      |
|---------------------------------------------------------------|----------------------------------------|------------|
| fewer agents than wanted (at first), or none                  | fail what waits, when none             | gathering  |
| an agent lacks the model                                      | command fetch                          | profiling  |
| another plan is wanted, and no request under way              | new epoch: assignments                 | assigning  |
| an agent has not loaded the plan                              | —                                      | assigning  |
| a request waits and the window has room                       | as in `runtime.requests`               | serving    |

Which plan is wanted, `runtime.selection` tells. While it measures (commands `probe` and `profile`), the phase is
`profiling`, and requests run by the plan that is in force.

An agent that fails to fetch, profile or load, or lets its deadline pass, is left out until it comes back with a new
session. A request ends exactly once: by its last fragment, by a failed tile, by an agent that left, or by its deadline.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from legion_iot.errors import ProtocolError
from legion_iot.model.blocks import Network
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners.balanced import MakePlan, balanced
from legion_iot.planning.problem import Link, Objective
from legion_iot.planning.routing import ORCHESTRATOR, Routing, route
from legion_iot.runtime import campaign
from legion_iot.runtime.assignment import assignment_of
from legion_iot.runtime.campaign import COMMAND_SECONDS, Member
from legion_iot.runtime.orchestrator_events import (
    AgentInfoArrived,
    AgentStateArrived,
    Assign,
    Consult,
    Effect,
    Event,
    FragmentArrived,
    OwnLinkProbed,
    PlannerAnswered,
    ProbeOwnLink,
    ProfileArrived,
    PublishState,
    ReportArrived,
    ReportRefused,
    RequestArrived,
    RequestEnded,
    SendCommand,
    SendRegion,
    Tick,
)
from legion_iot.runtime.packing import Party, receivers_to_pack_for
from legion_iot.runtime.requests import Requests
from legion_iot.runtime.selection import Selection
from legion_iot.runtime.shared import Shared
from legion_iot.runtime.trial import PREFIX, zeros
from legion_iot.wire.messages import (
    AgentInfo,
    Command,
    Failed,
    Measured,
    ModelReference,
    Ready,
    TileTiming,
)
from legion_iot.wire.quantised import EXACT

__all__ = [  # events and effects included, for whoever drives the machine
    "AgentInfoArrived",
    "AgentRecord",
    "AgentStateArrived",
    "Assign",
    "Consult",
    "Effect",
    "Event",
    "FragmentArrived",
    "MakePlan",
    "OwnLinkProbed",
    "PlannerAnswered",
    "ProbeOwnLink",
    "ProfileArrived",
    "PublishState",
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
TIMINGS = 256  # kept per tile


@dataclass(slots=True)
class AgentRecord:
    """What is known of one agent; `excluded` is the reason it gets no work, `busy_since` the start of its task."""

    session: str = ""
    online: bool = False
    info: AgentInfo | None = None
    link: Link | None = None
    task: str = ""
    busy_since: float = 0.0
    ready_epoch: int = 0
    excluded: str = ""


@dataclass(slots=True)
class State:
    """All the orchestrator remembers. Only `step` changes it.

    `epoch` numbers the plans; `shared` is what it has in common with the machines of other models. `wire` is how
    float32 maps travel between agents. `started` is set with the first plan: only before it do `least_agents` have to
    be there. `planned_for` are the members the plan was made for, whether or not it gives each of them work;
    `make_plan` makes one without measuring. `packs` names for each sender those to whom its maps go packed; `timings`
    are by step and agent.
    """

    network: Network
    model: ModelReference
    least_agents: int = 1
    make_plan: MakePlan = balanced
    wire: str = EXACT
    objective: Objective = "latency"
    shared: Shared = field(default_factory=Shared)
    started: bool = False
    agents: dict[str, AgentRecord] = field(default_factory=dict)
    phase: str = ""
    detail: str = ""
    plan: Plan | None = None
    planned_for: frozenset[str] = frozenset()
    routing: Routing | None = None
    packs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    timings: dict[tuple[int, str], deque[TileTiming]] = field(default_factory=dict)
    dropped: int = 0
    epoch: int = field(init=False)
    requests: Requests = field(init=False)
    selection: Selection = field(init=False)

    def __post_init__(self) -> None:
        self.epoch = next(self.shared.epochs)
        self.requests = Requests(self.network)
        self.selection = Selection(self.network, self.make_plan, self.shared, self.objective, self.wire)
        self.shared.join(self)

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
        case ProfileArrived() | ReportRefused() | OwnLinkProbed() | PlannerAnswered():
            effects += _measuring(state, event, now)
        case FragmentArrived():
            effects += _fragment(state, event, now)
        case RequestArrived():
            effects += state.requests.arrive(event.request, event.inputs, now)
        case Tick():
            effects += _deadlines(state, now)
    effects = _without_trials(state, effects, now)
    return effects + _without_trials(state, _advance(state, now), now)


def _agent_state(state: State, event: AgentStateArrived, now: float) -> list[Effect]:
    record = state.agents.setdefault(event.agent, AgentRecord())
    if event.state.is_present:
        if record.session != event.state.session:
            lost = _leave(state, event.agent, "restarted", now) if record.online else []
            state.agents[event.agent] = AgentRecord(event.state.session, True, record.info, record.link)
            state.planned_for -= {event.agent}
            state.selection.forget()
            return lost
        record.online = True
        return []
    if event.state.session != record.session:
        return []  # the late will of an older session
    # What it was told meanwhile is lost, so it is told anew when it comes back, and gets a plan of its own time.
    record.online, record.task = False, ""
    state.planned_for -= {event.agent}
    state.selection.forget()
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
        case Measured() as measured:
            return _measured(state, event.agent, measured, now)
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
    if (found := state.selection.campaign) is not None:
        effects += _do(state, state.selection.after(found.tick(now, bool(state.shared.under_way)), now), now)
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
    effects, lacking = _fetch(state, members, now)
    if lacking:
        return [*effects, *_phase(state, "profiling", ", ".join(lacking)), *_start_requests(state, now)]
    effects = _do(state, state.selection.begin(tuple(_member(state, name) for name in members), now), now)
    wanted = state.selection.wanted(state.requests.waited(now) if state.plan is None else 0.0)
    if wanted is not None and (wanted != state.plan or state.planned_for != frozenset(members)):
        if state.requests.under_way:
            return effects  # they end first; those that wait then run on the new plan
        return [*effects, *_new_epoch(state, wanted, members, now)]
    loading = [name for name in members if state.agents[name].ready_epoch != state.epoch]
    if state.selection.campaign is not None or state.selection.waits:
        effects += _phase(state, "profiling", _profiling_detail(state))
    elif loading:
        return [*effects, *_phase(state, "assigning", ", ".join(loading))]
    else:
        effects += _phase(state, "serving", ", ".join(members) + _remarks(state))
    return [*effects, *_start_requests(state, now)]


def _member(state: State, name: str) -> Member:
    record = state.agents[name]
    assert record.info is not None
    return Member(name, record.info.board_class, record.info.memory_bytes, record.link)


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
    excluded = [f"{name} left out: {each.excluded}" for name, each in sorted(state.agents.items()) if each.excluded]
    return f" ({'; '.join([*doubts, *excluded])})" if doubts or excluded else ""


# --- measuring ---


def _measured(state: State, agent: str, measured: Measured, now: float) -> list[Effect]:
    found = state.selection.campaign
    if found is None:
        return []
    return _do(state, state.selection.after(found.answered(agent, measured, now), now), now)


def _measuring(
    state: State, event: ProfileArrived | ReportRefused | OwnLinkProbed | PlannerAnswered, now: float
) -> list[Effect]:
    found = state.selection.campaign
    actions: list[campaign.Action] = []
    match event:
        case ProfileArrived(agent=agent, profile=profile):
            state.agents.setdefault(agent, AgentRecord()).link = state.selection.learn(agent, profile)
            return []
        case _ if found is None:
            return []
        case ReportRefused(agent=agent, reason=reason):
            actions = found.refused(agent, reason)
        case OwnLinkProbed(number=number, link=link, reason=reason):
            actions = found.linked(ORCHESTRATOR, number, link, reason, now)
        case PlannerAnswered(number=number, answer=answer):
            actions = found.consulted(number, answer, now)
    return _do(state, state.selection.after(actions, now), now)


def _do(state: State, actions: list[campaign.Action], now: float) -> list[Effect]:
    """What a campaign wants, as effects."""
    effects: list[Effect] = []
    for action in actions:
        match action:
            case campaign.ProbeLink(participant=name, number=number) if name == ORCHESTRATOR:
                effects.append(ProbeOwnLink(number))
            case campaign.ProbeLink(participant=name, number=number):
                effects.append(SendCommand(name, Command("probe", None, number)))
            case campaign.Measure(agent=name, number=number, parts=parts):
                effects.append(SendCommand(name, Command("profile", state.model, number, parts, COMMAND_SECONDS)))
            case campaign.LeaveOut(agent=name, reason=reason):
                effects += _exclude(state, name, reason, now)
            case Consult():
                effects.append(action)
    return effects


def _without_trials(state: State, effects: list[Effect], now: float) -> list[Effect]:
    """The effects, but for the ends of requests that were only trials; and what follows from these."""
    others: list[Effect] = []
    for effect in effects:
        if isinstance(effect, RequestEnded) and effect.request.startswith(PREFIX):
            others += _do(state, state.selection.trial_ended(effect, now), now)
        else:
            others.append(effect)
    return others


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


def _new_epoch(state: State, plan: Plan, members: list[str], now: float) -> list[Effect]:
    routing = route(state.network, plan)
    state.epoch = next(state.shared.epochs)
    state.started, state.planned_for = True, frozenset(members)
    state.plan, state.routing, state.timings = plan, routing, {}
    known = {name: Party(each.info, each.link) for name, each in state.agents.items() if each.info is not None}
    state.packs = receivers_to_pack_for(state.network, routing, state.wire, known)
    state.requests.begin(state.epoch, routing)
    effects: list[Effect] = []
    for name in members:
        record = state.agents[name]
        record.task, record.busy_since = "load", now
        pack_for = state.packs.get(name, ())
        effects.append(Assign(name, assignment_of(state.epoch, state.model, routing, name, state.wire, pack_for)))
    return [*_phase(state, "assigning", ", ".join(members)), *effects]


def _start_requests(state: State, now: float) -> list[Effect]:
    trial = state.selection.trial
    if trial is None:
        state.requests.withdraw(PREFIX)
    if state.plan is None or any(state.agents[name].ready_epoch != state.epoch for name in state.plan.agents):
        return []
    effects = state.requests.start(now)
    if trial is not None and state.plan == trial.plan:
        for name in trial.next(len(state.requests.waiting) + state.shared.under_way):
            effects += state.requests.arrive(name, zeros(state.network), now)
        effects += state.requests.start(now)
    return effects
