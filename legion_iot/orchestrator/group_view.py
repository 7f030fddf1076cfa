"""A group as people and scripts look at it: pure, from what it retains (`observed`).

Every field's name carries its unit and is a key of `legion status --json` or `legion devices --json`; None is what
nobody knows, and nothing is infinite, whatever was said. What is odd stands in `problems`, in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from legion_iot.orchestrator.observed import Observed
from legion_iot.planning.links import Link, bounded
from legion_iot.wire.group import AgentMetrics, GroupMetrics, ModelMetrics, PlanInfo, Work
from legion_iot.wire.retained import AgentInfo, AgentState, ModelInfo
from legion_iot.wire.topics import is_agent_name, is_model_name

HOT = 80.0  # °C from which boards slow down
LITTLE_MEMORY = 0.95  # of what an agent may use
MUCH_LATER, MUCH_SOONER = 1.5, 0.8  # times the predicted latency, and times what no plan is below
MOST_PER_SECOND = 1e9  # answers that anybody believes in
UNKNOWN = "unknown"  # the state of an agent that has not said one


@dataclass(frozen=True, slots=True)
class LinkView:
    """A link to the broker, and what messages take of the device's processor; 0 where that is not known."""

    latency_ms: float
    up_mbit_s: float
    down_mbit_s: float
    message_ms: float
    megabyte_ms: float


@dataclass(frozen=True, slots=True)
class AgentView:
    """How an agent does; `share` is its part of all computing, for one request to each model."""

    name: str
    state: str
    problems: tuple[str, ...]
    board: str
    cores: int | None
    load: float | None
    temperature_c: float | None
    throttled: bool | None
    resident_bytes: int | None
    memory_bytes: int | None
    share: float | None
    tiles: int | None
    tile_ms: float | None
    sent_bytes: int | None
    received_bytes: int | None
    link: LinkView | None


@dataclass(frozen=True, slots=True)
class DeviceView:
    """What an agent is; `models` are names where they are known, else SHA-256."""

    name: str
    state: str
    problems: tuple[str, ...]
    board: str
    cores: int | None
    threads: int | None
    cpu_share: float | None
    memory_bytes: int | None
    runtime: str
    runtime_version: str
    kernel_path: str
    version: str
    link: LinkView | None
    models: tuple[str, ...]
    silent_s: float | None


@dataclass(frozen=True, slots=True)
class WorkView:
    """What an agent computes of a model, for one request."""

    agent: str
    computing_ms: float
    share: float


@dataclass(frozen=True, slots=True)
class FailureView:
    """So many requests have ended with that error."""

    error: str
    count: int


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model, its plan and its requests."""

    name: str
    state: str
    problems: tuple[str, ...]
    sha256: str
    epoch: int
    planner: str
    objective: str
    wire: str
    agents: tuple[str, ...]
    blocks: int | None
    replicas: int | None
    tail_agent: str
    work: tuple[WorkView, ...]
    latency_ms: float | None
    latency_p95_ms: float | None
    predicted_ms: float | None
    bound_ms: float | None
    alone_ms: float | None
    alone_agent: str
    per_second: float | None
    under_way: int | None
    waiting: int | None
    answered: int | None
    failed: tuple[FailureView, ...]
    last_error: str


@dataclass(frozen=True, slots=True)
class OrchestratorView:
    """`present` where one is online; `dropped` counts messages that made no sense to it."""

    present: bool
    state: str
    detail: str
    uptime_s: float | None
    dropped: int | None


@dataclass(frozen=True, slots=True)
class RequestsView:
    """Of all models together, since the orchestrator is there."""

    per_second: float
    under_way: int
    waiting: int
    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class GroupView:
    """All of it; agents and models in the order of their names."""

    orchestrator: OrchestratorView
    requests: RequestsView | None
    agents: tuple[AgentView, ...]
    models: tuple[ModelView, ...]


def group_view(observed: Observed) -> GroupView:
    """How a group does."""
    metrics, state = observed.metrics, observed.orchestrator
    present = state.state != "offline"
    orchestrator = OrchestratorView(
        present, state.state, state.detail if present else "",
        None if metrics is None else metrics.uptime, None if metrics is None else metrics.dropped,
    )  # fmt: skip
    models = tuple(_models(observed, metrics))
    return GroupView(orchestrator, None if metrics is None else _requests(metrics), _agents(observed, metrics), models)


def device_views(observed: Observed) -> tuple[DeviceView, ...]:
    """What each agent is, in the order of their names."""
    told = _told(observed.metrics)
    names = _model_names(observed)
    return tuple(_device(observed, name, told.get(name), names) for name in _names(observed, told))


def _told(metrics: GroupMetrics | None) -> dict[str, AgentMetrics]:
    """What the orchestrator tells of agents; of what cannot be an agent's name, nothing."""
    return {} if metrics is None else {each.agent: each for each in metrics.agents if is_agent_name(each.agent)}


def _names(observed: Observed, told: Mapping[str, AgentMetrics]) -> list[str]:
    return sorted({*observed.states, *observed.infos, *told})


def _state(observed: Observed, name: str, told: AgentMetrics | None) -> AgentState:
    """What the agent says itself; where that may not be read, what the orchestrator says of it."""
    own = observed.states.get(name)
    if own is not None:
        return own
    return AgentState(UNKNOWN, "") if told is None else AgentState(told.state, "", told.detail)


def _agents(observed: Observed, metrics: GroupMetrics | None) -> tuple[AgentView, ...]:
    told = _told(metrics)
    shares = _shares(metrics)
    return tuple(_agent(observed, name, told.get(name), shares.get(name)) for name in _names(observed, told))


def _agent(observed: Observed, name: str, told: AgentMetrics | None, share: float | None) -> AgentView:
    info, state = observed.infos.get(name), _state(observed, name, told)
    # Without a limit of its memory it has not said yet how it is; one that is gone is in no state at all.
    how = told if told is not None and told.memory_limit and state.is_present else None
    return AgentView(
        name, state.state, tuple(_problems(state, info, told)),
        _board(info, told),
        None if info is None else info.cores,
        None if how is None else how.load,
        None if how is None else how.temperature,
        None if how is None else how.throttled,
        None if how is None else how.memory_resident,
        how.memory_limit if how is not None else info.memory_bytes if info is not None else None,
        share,
        None if how is None else how.tiles,
        None if how is None else how.tile_ms,
        None if how is None else how.bytes_sent,
        None if how is None else how.bytes_received,
        _link(observed, name, told),
    )  # fmt: skip


def _device(observed: Observed, name: str, told: AgentMetrics | None, model_names: Mapping[str, str]) -> DeviceView:
    info, state = observed.infos.get(name), _state(observed, name, told)
    return DeviceView(
        name, state.state, tuple(_problems(state, info, told)),
        _board(info, told),
        None if info is None else info.cores,
        None if info is None else info.threads,
        info.cpu_share if info is not None and info.cpu_share else None,
        None if info is None else info.memory_bytes,
        "" if info is None else info.runtime,
        "" if info is None else info.runtime_version,
        "" if info is None else info.kernel_path,
        "" if info is None else info.version,
        _link(observed, name, told),
        () if info is None else tuple(sorted(model_names.get(sha256, sha256) for sha256 in info.models)),
        None if told is None else told.silent,
    )  # fmt: skip


def _board(info: AgentInfo | None, told: AgentMetrics | None) -> str:
    return info.board if info is not None else told.board if told is not None else ""


def _problems(state: AgentState, info: AgentInfo | None, told: AgentMetrics | None) -> Iterator[str]:
    """Why the agent is not as it should be; nothing where it is."""
    if not state.is_present:
        return
    if state.detail:
        yield state.detail
    if info is None and (told is None or not told.board):
        yield "it has not said what it is"
    if told is None:
        return
    if told.problem:
        yield told.problem
    if told.throttled and not state.detail:
        yield "its processor is held back"
    if told.temperature is not None and told.temperature >= HOT and not state.detail:
        yield f"it is {told.temperature:.0f} °C hot"
    if told.memory_limit and told.memory_resident > LITTLE_MEMORY * told.memory_limit and not state.detail:
        yield f"it uses {100 * told.memory_resident / told.memory_limit:.0f} % of its memory"


def _link(observed: Observed, name: str, told: AgentMetrics | None) -> LinkView | None:
    """By the orchestrator, or by what the agent itself has measured."""
    link: Link | None = None if told is None else told.link
    if link is None and (profile := observed.profiles.get(name)) is not None:
        link = profile.link
    if link is None:
        return None
    link = bounded(link)
    return LinkView(
        round(1e3 * link.latency, 3),
        round(8e-6 * link.up, 3),
        round(8e-6 * link.down, 3),
        round(1e3 * link.message_seconds, 3),
        round(1e9 * link.byte_seconds, 3),
    )


def _shares(metrics: GroupMetrics | None) -> dict[str, float]:
    """Each agent's part of the computing for one request to each model; the parts sum to 1 where any is known."""
    return {} if metrics is None else _parts(work for model in metrics.models for work in model.work)


def _parts(work: Iterable[Work]) -> dict[str, float]:
    times: dict[str, float] = {}
    for each in work:
        times[each.agent] = times.get(each.agent, 0.0) + max(0.0, each.ms)
    whole = sum(times.values())
    return {agent: ms / whole for agent, ms in times.items()} if 0 < whole < math.inf else {}


def _work(work: tuple[Work, ...]) -> tuple[WorkView, ...]:
    """Shares are not those that came, which are rounded: they sum to 1."""
    parts = _parts(work)
    return tuple(WorkView(each.agent, each.ms, parts.get(each.agent, 0.0)) for each in work)


def _model_names(observed: Observed) -> dict[str, str]:
    """By SHA-256."""
    metrics = observed.metrics
    named = {info.sha256: name for name, info in observed.models.items()}
    return named if metrics is None else {**named, **{each.sha256: each.name for each in metrics.models}}


def _models(observed: Observed, metrics: GroupMetrics | None) -> Iterator[ModelView]:
    told = {} if metrics is None else {each.name: each for each in metrics.models if is_model_name(each.name)}
    for name in sorted({*observed.models, *told}):
        info, plan = observed.models.get(name), observed.plans.get(name)
        if name in told:
            # That of an epoch before says nothing of the plan in force.
            yield _told_model(told[name], plan if plan is not None and plan.epoch == told[name].epoch else None, info)
        elif info is not None:
            yield _said_model(name, info, observed.orchestrator.state)


def _told_model(model: ModelMetrics, plan: PlanInfo | None, info: ModelInfo | None) -> ModelView:
    agents = plan.agents if plan is not None else info.agents if info is not None else ()
    return ModelView(
        model.name, model.phase, tuple(_model_problems(model)), model.sha256, model.epoch, model.planner,
        model.objective, model.wire, agents,
        None if plan is None else len(plan.blocks),
        None if plan is None else plan.replicas,
        "" if plan is None else plan.tail_agent,
        _work(model.work), model.latency_ms, model.latency_p95_ms, model.predicted_ms, model.bound_ms, model.alone_ms,
        model.alone_agent, model.per_second, model.under_way, model.waiting, model.answered,
        tuple(FailureView(each.code, each.count) for each in model.failed), model.last_error,
    )  # fmt: skip


def _said_model(name: str, info: ModelInfo, orchestrator: str) -> ModelView:
    """A model of which nothing is told but that it is, or was, served."""
    state = UNKNOWN if orchestrator != "offline" else "not served"
    return ModelView(
        name, state, (), info.sha256, info.epoch, "", "", "", info.agents, None, None, "", (), None, None, None,
        None, None, "", None, None, None, None, (), "",
    )  # fmt: skip


def _model_problems(model: ModelMetrics) -> Iterator[str]:
    """Why a model is not served as it should be; nothing where it is."""
    if model.phase != "serving" and model.detail:
        yield model.detail
    if model.latency_ms is None or model.objective == "throughput":
        return
    if model.predicted_ms and not model.waiting and model.latency_ms > MUCH_LATER * model.predicted_ms:
        yield f"answers take {model.latency_ms / model.predicted_ms:.1f} × as long as predicted"
    if model.bound_ms and model.latency_ms < MUCH_SOONER * model.bound_ms:
        yield "answers come sooner than the bound allows: what was measured does not hold any more"


def _requests(metrics: GroupMetrics) -> RequestsView:
    models = metrics.models
    return RequestsView(
        round(sum(min(model.per_second, MOST_PER_SECOND) for model in models), 3),
        sum(model.under_way for model in models),
        sum(model.waiting for model in models),
        sum(model.answered for model in models),
        sum(failures.count for model in models for failures in model.failed),
    )
