"""Planner `legion`, as published: unfused units are profiled once, and a formula tells what fused blocks take.

Every device runs every unit alone, once, on the strip it would get (heights by speed: what each board needs for the
whole trunk). The cost of every block follows from the matrices S, E, R and A (`matrices`), the blocks from an exact
shortest path. One wild card: the adjacent pair of blocks whose merging costs least is merged; both plans are really
run, and the better one is kept. All blocks are scattered from and gathered at the fastest device; S and R are what it
takes while the strips of all devices are under way.

Source: Choi, Lee, Kang and Park, Legion, ICCD 2021, doi 10.1109/ICCD53106.2021.00067. Spends: one run of the trunk per
board class, units × devices runs, and two of whole plans.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import numpy as np

from legion_iot.planning.costs import Predictor
from legion_iot.planning.hub import (
    Strips,
    gather_seconds,
    group_rows,
    hub_plan,
    made_bytes,
    scatter_seconds,
    strips_of_speeds,
    tile_run,
    tile_runs,
)
from legion_iot.planning.matrices import block_costs, enlargements
from legion_iot.planning.problem import Planning, PlanRun, Problem, Reading, TileRun, Wish
from legion_iot.planning.shortest_path import Division, best_division
from legion_iot.planning.strips import whole_map
from legion_iot.planning.tables import StripTables
from legion_iot.planning.whole import whole_plan


def legion(problem: Problem) -> Planning:
    """The better of two plans, both really run."""
    network = problem.network
    if not network.units:
        return whole_plan("legion", network, problem.group.names[0])
    speeds = yield from board_speeds(problem)
    hub, rows = max(speeds, key=lambda name: speeds[name]), strips_of_speeds(problem, speeds)
    runs = [run for unit in network.units for run in tile_runs(problem, unit.index, unit.index, rows[unit.index])]
    readings = yield tuple(runs)
    costs = published_costs(problem, hub, rows, readings)
    division = best_division(costs)
    plans = [hub_plan("legion", problem, hub, rows, division)]
    if len(division) > 1:
        plans.append(hub_plan("legion", problem, hub, rows, merged(costs, division)))
    measured = yield tuple(PlanRun(plan) for plan in plans)
    return min(plans, key=lambda plan: measured[PlanRun(plan)].seconds)


def board_speeds(problem: Problem) -> Generator[tuple[Wish, ...], Mapping[Wish, Reading], dict[str, float]]:
    """Trunks per second of each device, from one run of the whole trunk on one device of each board class."""
    last = len(problem.network.units) - 1
    speaker = {device.board: device.name for device in reversed(problem.group.devices)}
    run = {board: TileRun(name, 0, last, whole_map(problem.network, last)) for board, name in speaker.items()}
    readings = yield tuple(run.values())
    return {device.name: 1 / max(readings[run[device.board]].seconds, 1e-9) for device in problem.group.devices}


def published_costs(
    problem: Problem, hub: str, rows: Sequence[Strips], readings: Mapping[Wish, Reading]
) -> list[list[float]]:
    """T[first][last] in seconds, by the published formula; infinite below the diagonal."""
    network, group = problem.network, problem.group
    predictor = Predictor.of(problem)
    tables = StripTables(problem, predictor)
    count, devices = len(network.units), len(group.devices)
    send, run, get = np.zeros((devices, count)), np.zeros((devices, count)), np.zeros((devices, count))
    for unit in range(count):
        strip = group_rows(group, rows[unit])
        needs = next(iter(tables.spans(unit, strip))).needs
        sent = sum((need.count * tables.row_bytes(t) for t, need in needs.items()), np.zeros(devices))
        send[:, unit] = scatter_seconds(group, hub if unit else None, sent)
        get[:, unit] = gather_seconds(group, hub, made_bytes(tables, unit, unit, strip))
        for number, name in enumerate(group.names):
            reading = readings.get(tile_run(problem, name, unit, unit, rows[unit]))
            run[number, unit] = reading.seconds if reading else 0.0
    table: list[list[float]] = block_costs(
        send, run, get, enlargements(predictor.tile_rows, group.names, rows)
    ).tolist()
    return table


def merged(costs: Sequence[Sequence[float]], division: Division) -> Division:
    """The division with one adjacent pair of blocks merged: the pair for which that costs least, or saves most."""

    def extra(place: int) -> float:
        (first, middle), (after, last) = division[place], division[place + 1]
        return costs[first][last] - costs[first][middle] - costs[after][last]

    place = min(range(len(division) - 1), key=extra)
    block = (division[place][0], division[place + 1][1])
    return (*division[:place], block, *division[place + 2 :])
