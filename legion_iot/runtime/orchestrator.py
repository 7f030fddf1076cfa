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
| a request waits and the window has room                       | send its regions                       | serving    |

An agent that fails to fetch, profile or load, or lets its deadline pass, is left out until it comes back with a new
session. A request ends exactly once: by its last fragment, by a failed tile, by an agent that left, or by its deadline.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from legion_iot.errors import ProtocolError
from legion_iot.model.blocks import Network
from legion_iot.planning.plan import Plan, check
from legion_iot.planning.planners.balanced import balanced
from legion_iot.planning.routing import ORCHESTRATOR, Routing, route
from legion_iot.runtime.assignment import assignment_of
from legion_iot.runtime.exchange import Exchange, tensor_forms
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Assignment,
    Command,
    Failed,
    Fragment,
    ModelReference,
    PeerRegion,
    Profile,
    Ready,
    TileTiming,
)
from legion_iot.wire.quantised import EXACT
from legion_iot.wire.tensors import Array, as_map, bounds

WINDOW = 4  # requests under way at once
QUEUE = 32  # requests that wait; one more is answered `busy`
REQUEST_TIMEOUT = 120.0  # seconds, from arrival to answer
WORK_TIMEOUT = 180.0  # seconds for an agent to fetch, profile or load
PROFILE_SECONDS = 1.0  # of whole runs on each agent
LEAST_RUN, MOST_RUN = 1e-8, 1e5  # seconds of a whole run; others cannot be, and a quotient of theirs may be infinite
TIMINGS = 256  # kept per tile

# --- events ---


@dataclass(frozen=True, slots=True)
class AgentStateArrived:
    agent: str
    state: AgentState


@dataclass(frozen=True, slots=True)
class AgentInfoArrived:
    agent: str
    info: AgentInfo


@dataclass(frozen=True, slots=True)
class ReportArrived:
    agent: str
    report: Ready | Failed | TileTiming | Profile


@dataclass(frozen=True, slots=True)
class FragmentArrived:
    sender: str
    header: Fragment
    body: memoryview


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """An input for the network: one array for each of its inputs, of their shapes and dtypes."""

    request: str
    inputs: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = AgentStateArrived | AgentInfoArrived | ReportArrived | FragmentArrived | RequestArrived | Tick

# --- effects ---


@dataclass(frozen=True, slots=True)
class Assign:
    agent: str
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class SendCommand:
    agent: str
    command: Command


@dataclass(frozen=True, slots=True)
class SendRegion:
    """Send `header.region` of an input tensor, given whole as (rows, columns, channels)."""

    target: str
    header: Fragment
    values: Array


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The one end of a request; `outputs` in the order of the network's, empty on error."""

    request: str
    epoch: int
    seconds: float
    outputs: tuple[Array, ...] = ()
    error: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PublishState:
    """The group's phase has changed."""

    state: str
    detail: str


Effect = Assign | SendCommand | SendRegion | RequestEnded | PublishState


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


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that has not ended."""

    request: str
    arrived: float
    inputs: tuple[Array, ...]


@dataclass(slots=True)
class State:
    """All the orchestrator remembers. Only `step` changes it.

    `epoch` numbers the plans; a new process begins above those of the last one, so that no agent takes an old
    assignment for a new one. `wire` is how float32 maps travel between agents. `started` is set with the first plan:
    only before it do `least_agents` have to be there. `planned_for` are the members the plan was made for, whether or
    not it gives each of them work.
    """

    network: Network
    model: ModelReference
    least_agents: int = 1
    least_blocks: int = 1
    wire: str = EXACT
    epoch: int = 0
    started: bool = False
    agents: dict[str, AgentRecord] = field(default_factory=dict)
    phase: str = ""
    detail: str = ""
    plan: Plan | None = None
    planned_for: frozenset[str] = frozenset()
    routing: Routing | None = None
    exchange: Exchange | None = None
    waiting: deque[Waiting] = field(default_factory=deque)
    under_way: dict[str, Waiting] = field(default_factory=dict)
    timings: dict[tuple[int, str], deque[TileTiming]] = field(default_factory=dict)
    dropped: int = 0

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
            effects += _request(state, event, now)
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
    return [_end(state, request, now, error="agent-lost", reason=reason) for request in list(state.under_way)]


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
            if request in state.under_way:
                return [_end(state, request, now, error="tile-failed", reason=f"agent {event.agent}: {reason}")]
        case Failed(epoch=epoch, reason=reason) if epoch in (0, state.epoch):  # 0: a command, not an assignment
            return _exclude(state, event.agent, reason, now)
        case TileTiming() as timing if timing.epoch == state.epoch:
            state.timings.setdefault((timing.step, event.agent), deque(maxlen=TIMINGS)).append(timing)
        case _:
            state.dropped += 1
    return []


def _fragment(state: State, event: FragmentArrived, now: float) -> list[Effect]:
    if state.exchange is None or event.header.request not in state.under_way:
        state.dropped += 1
        return []
    try:
        outputs = state.exchange.put_fragment(event.sender, event.header, event.body)
    except ProtocolError:
        state.dropped += 1
        return []
    return [] if outputs is None else [_answer(state, event.header.request, outputs, now)]


def _answer(state: State, request: str, outputs: Mapping[int, Array], now: float) -> Effect:
    graph = state.network.graph
    arrays = tuple(outputs[t].reshape(graph.tensors[t].shape) for t in graph.outputs)
    return _end(state, request, now, outputs=arrays)


def _request(state: State, event: RequestArrived, now: float) -> list[Effect]:
    waiting = Waiting(event.request, now, event.inputs)
    if len(state.waiting) >= QUEUE:
        reason = f"{QUEUE} requests wait already; send it again later"
        return [RequestEnded(event.request, state.epoch, 0.0, error="busy", reason=reason)]
    state.waiting.append(waiting)
    return []


def _end(
    state: State, request: str, now: float, *, outputs: tuple[Array, ...] = (), error: str = "", reason: str = ""
) -> RequestEnded:
    waiting = state.under_way.pop(request)
    if state.exchange is not None:
        state.exchange.forget(request)
    return RequestEnded(request, state.epoch, now - waiting.arrived, outputs, error, reason)


def _deadlines(state: State, now: float) -> list[Effect]:
    effects: list[Effect] = []
    for request, waiting in list(state.under_way.items()):
        if now - waiting.arrived > REQUEST_TIMEOUT:
            effects.append(
                _end(state, request, now, error="deadline", reason=f"no answer within {REQUEST_TIMEOUT:g} s")
            )
    while state.waiting and now - state.waiting[0].arrived > REQUEST_TIMEOUT:
        old = state.waiting.popleft()
        reason = f"the group was not ready within {REQUEST_TIMEOUT:g} s ({state.detail})"
        effects.append(RequestEnded(old.request, state.epoch, now - old.arrived, error="deadline", reason=reason))
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
        if not state.under_way:
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
    effects: list[Effect] = []
    while state.waiting:
        old = state.waiting.popleft()
        reason = f"no agent is online ({state.detail})"
        effects.append(RequestEnded(old.request, state.epoch, now - old.arrived, error="no-agents", reason=reason))
    return effects


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
    plan = balanced(state.network, _speeds(state, members), state.least_blocks)
    check(plan, state.network)
    routing = route(state.network, plan)
    state.epoch += 1
    state.started, state.planned_for = True, frozenset(members)
    state.plan, state.routing, state.timings = plan, routing, {}
    answer = routing.works[-1]
    received = [t for t in routing.transfers if t.target == ORCHESTRATOR]
    receives = [PeerRegion(t.step, t.tensor, bounds(t.region), t.source) for t in received]
    state.exchange = Exchange(state.epoch, {answer.step: answer.inputs}, receives, tensor_forms(state.network))
    effects: list[Effect] = []
    for name in members:
        record = state.agents[name]
        record.task, record.busy_since = "load", now
        effects.append(Assign(name, assignment_of(state.epoch, state.model, routing, name, state.wire)))
    return [*_phase(state, "assigning", ", ".join(members)), *effects]


def _start_requests(state: State, now: float) -> list[Effect]:
    effects: list[Effect] = []
    if state.plan is None or state.routing is None:
        return effects
    if any(state.agents[name].ready_epoch != state.epoch for name in state.plan.agents):
        return effects
    while state.waiting and len(state.under_way) < WINDOW:
        waiting = state.waiting.popleft()
        state.under_way[waiting.request] = waiting
        effects += _send_inputs(state, state.routing, waiting, now)
    return effects


def _send_inputs(state: State, routing: Routing, waiting: Waiting, now: float) -> list[Effect]:
    """The regions of the network's inputs, each to whoever needs it; an input that is an output is the answer's own."""
    maps = {t: as_map(array) for t, array in zip(state.network.graph.inputs, waiting.inputs, strict=True)}
    effects: list[Effect] = []
    for transfer in routing.transfers:
        if transfer.source != ORCHESTRATOR:
            continue
        values = maps[transfer.tensor]
        if transfer.target == ORCHESTRATOR:
            assert state.exchange is not None
            outputs = state.exchange.put(waiting.request, transfer.step, transfer.tensor, transfer.region, values)
            if outputs is not None:
                effects.append(_answer(state, waiting.request, outputs, now))
            continue
        header = Fragment(
            waiting.request, 1, state.epoch, transfer.step, transfer.tensor, bounds(transfer.region),
            values.shape[2], str(values.dtype),
        )  # fmt: skip
        effects.append(SendRegion(transfer.target, header, values))
    return effects
