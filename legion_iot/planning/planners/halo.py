"""Planner `halo`: feature maps stay where they were made, and only the rows that a device lacks travel.

A shortest path over cuts and families of strip bounds (`halo_search`) yields candidates: over all families, and over
each of them alone, which is over subsets of the devices. The estimate chooses among them, and tries small changes to
the best one, and grids (`refine`). Where a candidate exceeds a device's memory, that device may take less, and the
search is repeated.

Spends: what `learn` asks.
"""

from __future__ import annotations

from collections.abc import Iterator

from legion_iot.errors import AgentError
from legion_iot.planning.families import families
from legion_iot.planning.halo_search import HaloSearch
from legion_iot.planning.learning import learn
from legion_iot.planning.memory import Limits, fits, tail_memory_bytes, too_little_memory
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Costs, Planning, Problem
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.refine import refined
from legion_iot.planning.tables import StripTables
from legion_iot.planning.whole import whole_plan

MOST_SEARCHES = 24  # until everything fits


def halo(problem: Problem) -> Planning:
    """Raises AgentError where no plan is found that fits the devices' memory."""
    costs = yield from learn(problem)
    return halo_plan(problem, costs)


def halo_plan(problem: Problem, costs: Costs) -> Plan:
    """The best plan found; deterministic, and never slower than one device by the estimate."""
    ranking = Ranking(problem, costs)
    return refined(ranking, coarse_halo_plan(ranking))


def coarse_halo_plan(ranking: Ranking) -> Plan:
    """The best plan that is not refined yet."""
    problem = ranking.problem
    found = [plan for plan in _candidates(problem, ranking.costs) if fits(problem.network, plan, problem.group)]
    if not found:
        raise too_little_memory(problem.network)
    return ranking.best(found)


def _candidates(problem: Problem, costs: Costs) -> Iterator[Plan]:
    """Plans worth an estimate; not all of them fit the memory."""
    network, group = problem.network, problem.group
    yield from (whole_plan("halo", network, name) for name in group.names)
    if not network.units:
        return
    tables, limits = StripTables(problem, costs), Limits.none(problem)
    tails = _able_tails(problem)
    for _ in range(MOST_SEARCHES):
        try:
            choices = families(tables, limits)
        except AgentError:
            return
        search = HaloSearch(problem, costs, tables, choices)
        every = range(len(choices))
        plans = [search.best(every, tails)[1], *(search.best([family], tails)[1] for family in every)]
        yield from plans
        over = next((plan for plan in plans if not fits(network, plan, group)), None)
        if over is None:
            return
        limits = limits.tightened(problem, over)


def _able_tails(problem: Problem) -> list[int]:
    """Devices with the memory for the tail. Raises AgentError where there is none."""
    needed = tail_memory_bytes(problem.network) if problem.network.tail else 0
    devices = enumerate(problem.group.devices)
    able = [number for number, device in devices if device.memory_bytes is None or device.memory_bytes >= needed]
    if not able:
        raise too_little_memory(problem.network)
    return able
