"""Planner `aofl`: fused blocks by dynamic programming, in strips of equal height, scattered and gathered by a hub.

Source: Zhou et al., Adaptive Parallel Execution of Deep Neural Networks on Heterogeneous Edge Devices, SEC 2019 (AOFL:
adaptive optimally fused-layer). Spends: what `learn` asks.
"""

from __future__ import annotations

from legion_iot.planning.hub import fastest, hub_costs, hub_plan
from legion_iot.planning.learning import learn
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Costs, Planning, Problem
from legion_iot.planning.shortest_path import best_division
from legion_iot.planning.strips import map_height, strips
from legion_iot.planning.tables import StripTables


def aofl(problem: Problem) -> Planning:
    """The division of least predicted cost; exact."""
    costs = yield from learn(problem)
    return aofl_plan(problem, costs)


def aofl_plan(problem: Problem, costs: Costs) -> Plan:
    """The hub is the fastest device."""
    hub = fastest(problem, costs)
    equal = dict.fromkeys(problem.group.names, 1.0)
    rows = [strips(map_height(problem.network, unit.index), equal) for unit in problem.network.units]
    division = best_division(hub_costs(problem, StripTables(problem, costs), hub, rows))
    return hub_plan("aofl", problem, hub, rows, division)
