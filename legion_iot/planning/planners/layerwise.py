"""Planner `layerwise`: every unit is a block of its own, in strips by speed, scattered and gathered by a hub.

Source: Mao et al., MoDNN: Local Distributed Mobile Computing System for Deep Neural Network, DATE 2017. Spends: what
`learn` asks.
"""

from __future__ import annotations

from legion_iot.planning.hub import fastest, hub_plan, strips_by_speed
from legion_iot.planning.learning import learn
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Costs, Planning, Problem


def layerwise(problem: Problem) -> Planning:
    """Strip heights are in proportion to the predicted speed over the whole trunk."""
    costs = yield from learn(problem)
    return layerwise_plan(problem, costs)


def layerwise_plan(problem: Problem, costs: Costs) -> Plan:
    """One block for each unit; the hub is the fastest device."""
    division = tuple((unit.index, unit.index) for unit in problem.network.units)
    return hub_plan("layerwise", problem, fastest(problem, costs), strips_by_speed(problem, costs), division)
