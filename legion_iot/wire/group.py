"""What the orchestrator says of its group, for people and programs that look on: how it does, and by which plans.

Times are in milliseconds, as people read them; where a figure is not known, it is None.
"""

from __future__ import annotations

from dataclasses import dataclass

from legion_iot.planning.links import Link
from legion_iot.wire.retained import RegionBounds


@dataclass(frozen=True, slots=True)
class AgentMetrics:
    """One agent, as the orchestrator has last heard of it.

    `problem` says why it gets no work, or what is odd about its figures. `tile_ms` is the mean time of a step in this
    session, `silent` the seconds since it last said how it is; bytes are those of payloads. The rest is as in
    `Metrics`, 0 where none has come yet.
    """

    agent: str
    state: str
    detail: str = ""
    problem: str = ""
    board: str = ""
    load: float = 0.0
    temperature: float | None = None
    throttled: bool = False
    memory_resident: int = 0
    memory_limit: int = 0
    tiles: int = 0
    tile_ms: float | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    link: Link | None = None
    silent: float | None = None


@dataclass(frozen=True, slots=True)
class Failures:
    """How many requests have ended with an error of that code."""

    code: str
    count: int


@dataclass(frozen=True, slots=True)
class Work:
    """What an agent computes of a model: the median time per request, and its share in that of all agents."""

    agent: str
    ms: float
    share: float


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """One model: its plan in force, and its requests since the orchestrator serves it.

    Latencies are the median and the 95th percentile of the last 100 answers, `per_second` counts answers of the last
    minute. `predicted_ms`, `bound_ms` (what no plan could be below) and `alone_ms` (the fastest agent alone) are by
    what has been measured. `last_error` is code and reason of the newest failure.
    """

    name: str
    sha256: str
    phase: str
    detail: str
    epoch: int
    planner: str
    objective: str
    wire: str
    work: tuple[Work, ...] = ()
    predicted_ms: float | None = None
    bound_ms: float | None = None
    alone_ms: float | None = None
    alone_agent: str = ""
    latency_ms: float | None = None
    latency_p95_ms: float | None = None
    answered: int = 0
    failed: tuple[Failures, ...] = ()
    waiting: int = 0
    under_way: int = 0
    per_second: float = 0.0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class GroupMetrics:
    """Retained on `orchestrator/metrics`, about every 2 s: the group as the orchestrator sees it.

    `uptime` is in seconds; `dropped` counts messages that made no sense to it.
    """

    session: str
    uptime: float
    dropped: int
    agents: tuple[AgentMetrics, ...]
    models: tuple[ModelMetrics, ...]


@dataclass(frozen=True, slots=True)
class PlanTile:
    """Which region of the block's output an agent computes."""

    agent: str
    region: RegionBounds


@dataclass(frozen=True, slots=True)
class PlanBlock:
    """A fused-layer block, of its first to its last unit, and its tiles; of the plan's `replica`."""

    units: tuple[int, int]
    tiles: tuple[PlanTile, ...]
    replica: int = 0


@dataclass(frozen=True, slots=True)
class PlanBar:
    """What a participant is predicted to do, in milliseconds after the request; see `planning.estimate.Bar`."""

    participant: str
    kind: str  # "compute", "send" or "receive"
    step: int | None
    block: int | None
    start_ms: float
    end_ms: float
    bytes: int
    peer: str
    replica: int


@dataclass(frozen=True, slots=True)
class AloneTime:
    """What an agent is predicted to take for a request all by itself."""

    agent: str
    ms: float


@dataclass(frozen=True, slots=True)
class PlanInfo:
    """Retained on `models/<model>/plan`: the plan in force, and what it is predicted to take.

    Once the group has a moment, it is said again with `bound_ms`. `replicas` counts the ways a request can go. Of plans
    with very many transfers, nothing is predicted; bars beyond the first 2,000 are left out. `alone` are those agents
    that have the memory for the whole model.
    """

    model: str
    epoch: int
    planner: str
    objective: str
    wire: str
    agents: tuple[str, ...]
    blocks: tuple[PlanBlock, ...]
    tail_agent: str
    replicas: int = 1
    predicted_ms: float | None = None
    interval_ms: float | None = None
    bound_ms: float | None = None
    alone_ms: float | None = None
    alone_agent: str = ""
    bars: tuple[PlanBar, ...] = ()
    alone: tuple[AloneTime, ...] = ()
