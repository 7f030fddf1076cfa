"""How a group does, counted as it happens, and told in `GroupMetrics`."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from legion_iot.orchestrator.latencies import at_95_percent
from legion_iot.orchestrator.serving import ServedModel
from legion_iot.runtime.orchestrator_state import MOST_AGENTS, State
from legion_iot.wire.group import AgentMetrics, Failures, GroupMetrics, ModelMetrics, PlanInfo, Work
from legion_iot.wire.messages import AgentInfo, AgentState, Metrics, Result

INTERVAL = 2.0  # seconds between two of them,
SECONDS_PER_AGENT = 0.02  # or so many for each agent, where that is more
LATENCIES = 100  # answers that latency is told of
RATE_SECONDS = 60.0
MOST_ANSWERS = 100_000  # that are counted in a minute


@dataclass(slots=True)
class _Counts:
    """What became of one model's requests."""

    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))
    answered_at: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_ANSWERS))
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    last_error: str = ""


class GroupCounts:
    """Counts requests, and keeps what agents last said of how they are; times are monotonic, in seconds."""

    def __init__(self, session: str, begun: float) -> None:
        self._session, self._begun = session, begun
        self._counts: dict[str, _Counts] = {}
        self._metrics: dict[str, tuple[Metrics, float]] = {}  # and when they came

    def heard(self, agent: str, metrics: Metrics, now: float) -> None:
        """An agent says how it is."""
        if agent in self._metrics or len(self._metrics) < MOST_AGENTS:
            self._metrics[agent] = metrics, now

    def ended(self, result: Result, now: float) -> None:
        """A request of a model that is served has ended."""
        counts = self._counts.setdefault(result.model, _Counts())
        if result.ok:
            counts.answered += 1
            counts.latencies_ms.append(result.latency_ms)
            counts.answered_at.append(now)
        else:
            counts.failed[result.error] += 1
            counts.last_error = f"{result.error}: {result.reason}"

    def interval(self) -> float:
        """Seconds from one message to the next."""
        return max(INTERVAL, SECONDS_PER_AGENT * len(self._metrics))

    def group(
        self,
        states: Mapping[str, AgentState],
        infos: Mapping[str, AgentInfo],
        models: Mapping[str, ServedModel],
        dropped: int,
        now: float,
    ) -> GroupMetrics:
        """All of it; models that are served no more are forgotten."""
        self._counts = {name: counts for name, counts in self._counts.items() if name in models}
        self._metrics = {name: metrics for name, metrics in self._metrics.items() if name in states}
        machines = [model.state for model in models.values()]
        agents = (self._agent(name, state, infos.get(name), machines, now) for name, state in sorted(states.items()))
        told = (self._model(model, now) for _, model in sorted(models.items()))
        dropped += sum(machine.dropped for machine in machines)
        return GroupMetrics(self._session, round(now - self._begun, 1), dropped, tuple(agents), tuple(told))

    def _agent(
        self, name: str, state: AgentState, info: AgentInfo | None, machines: Iterable[State], now: float
    ) -> AgentMetrics:
        records = [machine.agents[name] for machine in machines if name in machine.agents]
        link = next((record.link for record in records if record.link is not None), None)
        problem = next(_problems(name, machines), "")
        said = AgentMetrics(
            name, state.state, state.detail, problem, "" if info is None else info.board, link=link
        )  # fmt: skip
        metrics, heard = self._metrics.get(name, (None, 0.0))
        if metrics is None or metrics.session != state.session or not state.is_present:
            return said
        return replace(
            said,
            load=metrics.load,
            temperature=metrics.temperature,
            throttled=metrics.throttled,
            memory_resident=metrics.memory_resident,
            memory_limit=metrics.memory_limit,
            tiles=metrics.tiles,
            tile_ms=round(1e3 * metrics.computing / metrics.tiles, 3) if metrics.tiles else None,
            bytes_sent=metrics.bytes_sent,
            bytes_received=metrics.bytes_received,
            silent=round(now - heard, 1),
        )

    def _model(self, model: ServedModel, now: float) -> ModelMetrics:
        counts, state = self._counts.get(model.reference.name, _Counts()), model.state
        while counts.answered_at and counts.answered_at[0] < now - RATE_SECONDS:
            counts.answered_at.popleft()
        plan = model.plan_info or PlanInfo(model.reference.name, 0, "", "", "", (), (), "")
        latencies = sorted(counts.latencies_ms)
        return ModelMetrics(
            model.reference.name, model.reference.sha256, state.phase, state.detail, plan.epoch, plan.planner,
            state.objective, state.wire, _work(state), plan.predicted_ms, plan.bound_ms, plan.alone_ms,
            plan.alone_agent,
            round(statistics.median(latencies), 3) if latencies else None,
            at_95_percent(latencies) if latencies else None,
            counts.answered, tuple(Failures(*failed) for failed in sorted(counts.failed.items())),
            len(state.requests.waiting), len(state.requests.under_way),
            round(len(counts.answered_at) / max(1.0, min(RATE_SECONDS, now - self._begun)), 3), counts.last_error,
        )  # fmt: skip


def _problems(agent: str, machines: Iterable[State]) -> Iterator[str]:
    for machine in machines:
        record = machine.agents.get(agent)
        if record is not None and record.online:
            yield from filter(None, (record.excluded, record.suspected, machine.selection.doubts.get(agent, "")))


def _work(state: State) -> tuple[Work, ...]:
    """What each agent of the plan in force has computed per request, by the last reports."""
    seconds: dict[str, float] = {}
    for (_, agent), timings in state.timings.items():
        seconds[agent] = seconds.get(agent, 0.0) + statistics.median(timing.seconds for timing in timings)
    total = sum(seconds.values())
    return tuple(
        Work(agent, round(1e3 * each, 3), round(each / total, 4) if total else 0.0)
        for agent, each in sorted(seconds.items())
    )
