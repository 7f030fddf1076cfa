"""Planner `fss`, the full searching scheme: every block is really run on the group, then the best division is taken.

Blocks are those of planner `legion`: strips by speed, scattered from and gathered at the fastest device. It is the
yardstick of what that kind of plan can reach, and of what finding it costs.

Source: Choi, Lee, Kang and Park, Legion, ICCD 2021. Spends: one run of the trunk per board class, and N(N + 1) / 2
blocks × devices.
"""

from __future__ import annotations

from legion_iot.planning.costs import Predictor
from legion_iot.planning.hub import hub_costs, hub_plan, strips_of_speeds, tile_runs
from legion_iot.planning.planners.legion import board_speeds
from legion_iot.planning.problem import Planning, Problem, TileRun
from legion_iot.planning.shortest_path import best_division
from legion_iot.planning.tables import StripTables
from legion_iot.planning.whole import whole_plan


def fss(problem: Problem) -> Planning:
    """The division of least measured cost."""
    network = problem.network
    if not network.units:
        return whole_plan("fss", network, problem.group.names[0])
    speeds = yield from board_speeds(problem)
    hub, rows = max(speeds, key=lambda name: speeds[name]), strips_of_speeds(problem, speeds)
    count = len(network.units)
    runs = [
        run for last in range(count) for first in range(last + 1) for run in tile_runs(problem, first, last, rows[last])
    ]
    readings = yield tuple(runs)
    measured = {run: reading for run, reading in readings.items() if isinstance(run, TileRun)}
    costs = hub_costs(problem, StripTables(problem, Predictor.of(problem)), hub, rows, measured)
    return hub_plan("fss", problem, hub, rows, best_division(costs))
