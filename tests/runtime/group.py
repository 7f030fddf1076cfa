"""Groups for tests: simulated ones that serve by a given plan."""

from __future__ import annotations

from collections.abc import Callable

from legion_iot.model.blocks import Network
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners.balanced import balanced
from legion_iot.runtime import orchestrator
from legion_iot.runtime.simulation.behaviour import Behaviour
from legion_iot.runtime.simulation.broker import Line
from legion_iot.runtime.simulation.group import Group
from legion_iot.runtime.simulation.oracle import Worker
from legion_iot.wire.messages import ModelReference
from tests.planning.plans import AGENTS


def at_least(blocks: int) -> orchestrator.MakePlan:
    """The balanced plan, of so many blocks at least."""
    return lambda network, speeds: balanced(network, speeds, blocks)


def given_plan(
    network: Network,
    plan: Plan,
    *,
    seed: int = 0,
    duplicates: float = 0.0,
    model: ModelReference | None = None,
    worker: Callable[[str], Worker | None] = lambda name: None,
) -> Group:
    """A group that serves by this plan; `worker` makes what an agent computes with."""
    group = Group(
        network, seed=seed, line=Line(duplicates=duplicates), model=model, least_agents=len(AGENTS),
        make_plan=lambda network, speeds: plan,
    )  # fmt: skip
    for number, name in enumerate(AGENTS):
        group.start(name, Behaviour(speed=1.0 + number), worker(name))
    group.run_until("serving")
    return group
