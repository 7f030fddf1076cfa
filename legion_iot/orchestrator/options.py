"""What an orchestrator is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from legion_iot.planning.planners.balanced import MakePlan, balanced
from legion_iot.planning.problem import Objective, Planner
from legion_iot.transport.connection import BrokerAddress
from legion_iot.wire.dtypes import EXACT

if TYPE_CHECKING:
    from legion_iot.orchestrator.watchers import Watcher


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that is to be served, by its name."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class OrchestratorOptions:
    """What the orchestrator serves, to whom, from how many agents on, and by which plan."""

    broker: BrokerAddress
    models: tuple[ModelFile, ...]
    base_topic: str = "legion"
    least_agents: int = 1
    wire: str = EXACT  # how float32 maps travel between agents
    make_plan: MakePlan = balanced  # from known speeds, until the planner has found one
    planner: Planner | None = None  # None: `make_plan`, once the speeds are measured
    objective: Objective = "latency"
    state_directory: Path | None = None  # where measurements are kept for later; None forgets them
    watchers: tuple[Watcher, ...] = ()
