"""All that the orchestrator's machine remembers of a model and the agents that compute it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from legion_iot.model.blocks import Network
from legion_iot.planning.links import Link
from legion_iot.planning.memory import network_bytes
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners.balanced import MakePlan, balanced
from legion_iot.planning.problem import Objective
from legion_iot.planning.routing import Routing
from legion_iot.runtime.epochs import Epochs
from legion_iot.runtime.requests import Requests
from legion_iot.runtime.selection import Selection
from legion_iot.runtime.shared import Shared
from legion_iot.wire.dtypes import EXACT
from legion_iot.wire.messages import AgentInfo, ModelReference, TileTiming

MOST_AGENTS = 4096  # whose names are remembered


@dataclass(slots=True)
class AgentRecord:
    """What is known of one agent.

    `task` is what it was told to do, `busy_since` when. It gets no work while it is `excluded` or `suspected`, each the
    reason, nor once it is `draining`. `worked_at` is when it last reported a step; `patience` is how much more time
    than others it is given, `suspected_at` when it last had too little; `strikes` counts requests that it has failed,
    not long ago, and `sound` the steps since. It has become `slowdown` times slower than its class, in so many
    `changes`, the last of them at `changed_at`.
    """

    session: str = ""
    online: bool = False
    draining: bool = False
    info: AgentInfo | None = None
    link: Link | None = None
    task: str = ""
    busy_since: float = 0.0
    excluded: str = ""
    suspected: str = ""
    suspected_at: float = -math.inf
    worked_at: float = -math.inf
    patience: float = 1.0
    strikes: int = 0
    sound: int = 0
    slowdown: float = 1.0
    changes: int = 0
    changed_at: float = -math.inf
    assigned: int = 0  # the epoch of the last assignment that gave it steps, as long as that is retained

    @property
    def is_member(self) -> bool:
        """Whether it is there, has said what it is, and may be given work."""
        away = self.excluded or self.suspected or self.draining
        return self.online and self.info is not None and not away


@dataclass(slots=True)
class State:
    """All the orchestrator remembers of one model. Only `step` changes it.

    `epoch` numbers the newest plan; `shared` is what it has in common with the machines of other models. `wire` is how
    float32 maps travel between agents. `started` is set with the first plan: only before it do `least_agents` have to
    be there. `make_plan` makes a plan without measuring. `nan_allowed` says that the model itself has made NaN;
    `alone` is a plan that some agent could not load beside the one before.
    `link_up` is since when the broker can be reached, infinite while it cannot; `seen` is the time of the last event.
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
    nan_allowed: bool = False
    alone: Plan | None = None
    link_up: float = -math.inf
    seen: float = math.inf
    dropped: int = 0
    epoch: int = field(init=False)
    network_bytes: int = field(init=False)  # that any part of the network takes, at most
    epochs: Epochs = field(default_factory=Epochs)
    requests: Requests = field(init=False)
    selection: Selection = field(init=False)

    def __post_init__(self) -> None:
        self.epoch = next(self.shared.epochs)
        self.network_bytes = network_bytes(self.network)
        self.requests = Requests(self.network)
        self.selection = Selection(self.network, self.make_plan, self.shared, self.objective, self.wire)
        self.shared.join(self)

    def members(self) -> list[str]:
        """The agents that may be given work."""
        return sorted(name for name, record in self.agents.items() if record.is_member)

    @property
    def plan(self) -> Plan | None:
        """The plan in force."""
        return None if self.epochs.force is None else self.epochs.force.plan

    @property
    def routing(self) -> Routing | None:
        """That of the plan in force."""
        return None if self.epochs.force is None else self.epochs.force.routing

    @property
    def packs(self) -> Mapping[str, tuple[str, ...]]:
        """For each sender, those to whom its maps go packed by the plan in force."""
        return {} if self.epochs.force is None else self.epochs.force.packs

    @property
    def timings(self) -> Mapping[tuple[int, str], deque[TileTiming]]:
        """By step and agent, of the plan in force."""
        return {} if self.epochs.force is None else self.epochs.force.timings
