"""Legion's formula as the paper gives it, with plain loops; and `fss` against running every division."""

from __future__ import annotations

import dataclasses
import math

import pytest

from legion_iot.model.blocks import Network
from legion_iot.model.cut import tile_inputs
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.hub import strips_of_speeds, tile_runs
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Block, tile_outputs
from legion_iot.planning.planners import planners
from legion_iot.planning.planners.legion import merged, published_costs
from legion_iot.planning.problem import Group, PlanRun, Problem
from legion_iot.planning.strips import strip_tiles, whole_map
from tests.planning.problems import Case, Recorder, case
from tests.planning.test_balanced import divisions
from tests.planning.test_halo_search import five_units

SPEEDS = {"ant": 3e6, "bee": 1e6, "cat": 1e6}
HUB = "ant"


def rows_needed(network: Network, first: int, last: int, rows: Interval) -> dict[int, int]:
    """Input rows of unit `first` for a strip of unit `last`, by tensor."""
    region = Region(rows, whole_map(network, last).columns)
    ops = network.block_ops(first, last)
    wanted = {t: r for t, r in tile_outputs(network, Block(first, last, ()), region).items() if r.area}
    found = tile_inputs(network, ops, wanted)
    return {t: len(found[t].rows) for t in network.reads(network.units[first].ops) if t in found}


def published(given: Case, first: int, last: int, strips: list[dict[str, Interval]]) -> float:
    """T[i, j] = max_d ( S_d[i]·A_d[i,j] + Σ_{k=i..j} E_d[k]·A_d[k,j] + R_d[j] ), of a chain of units."""
    network, group = given.problem.network, given.problem.group
    hub = group[HUB].link if first else group.orchestrator
    tensors = network.graph.tensors

    def input_bytes(unit: int, device: str) -> int:
        needed = rows_needed(network, unit, unit, strips[unit][device])
        return sum(count * tensors[t].nbytes // tensors[t].shape[1] for t, count in needed.items())

    def output_bytes(unit: int, device: str) -> int:
        tensor = tensors[network.units[unit].reference]
        return len(strips[unit][device]) * tensor.nbytes // tensor.shape[1]

    worst = 0.0
    for device in group.devices:
        name = device.name
        if not len(strips[last][name]):
            continue
        ratio = {}
        for k in range(first, last + 1):
            fused = sum(rows_needed(network, k, last, strips[last][name]).values())
            alone = sum(rows_needed(network, k, k, strips[k][name]).values())
            ratio[k] = max(1.0, fused / alone)
        away = [other.name for other in group.devices if other.name != HUB or not first]
        send = 0.0
        if name in away:
            every = sum(input_bytes(first, other) for other in away) / hub.up
            send = hub.latency + device.link.latency + max(input_bytes(first, name) / device.link.down, every)
        run = {
            k: given.costs.tile_seconds(name, k, k, Region(strips[k][name], whole_map(network, k).columns))
            for k in range(first, last + 1)
        }
        get = 0.0
        if name != HUB:
            every = sum(output_bytes(last, other) for other in SPEEDS if other != HUB) / group[HUB].link.down
            get = group[HUB].link.latency + device.link.latency
            get += max(output_bytes(last, name) / device.link.up, every)
        worst = max(worst, send * ratio[first] + sum(run[k] * ratio[k] for k in run) + get)
    return worst


def test_the_cost_of_every_block_is_the_published_one() -> None:
    network = five_units()
    links = {"ant": Link(1e-4, 2e6, 1e6), "bee": Link(2e-4, 1e6, 2e6), "cat": Link(1e-3, 1e5, 1e5)}
    given = case(network, SPEEDS, links.__getitem__)
    rows = strips_of_speeds(given.problem, SPEEDS)
    runs = [run for unit in network.units for run in tile_runs(given.problem, unit.index, unit.index, rows[unit.index])]
    costs = published_costs(given.problem, HUB, rows, given.answer(tuple(runs)))
    for last in range(5):
        for first in range(5):
            if first > last:
                assert math.isinf(costs[first][last])
            else:
                exact = published(given, first, last, [dict(strip) for strip in rows])
                assert costs[first][last] == pytest.approx(exact, rel=1e-9), (first, last)


def test_the_pair_whose_merging_costs_least_is_merged() -> None:
    infinite = math.inf
    costs = [
        [1.0, 9.0, 20.0],
        [infinite, 1.0, 3.0],
        [infinite, infinite, 1.0],
    ]  # merging the first two costs 7 more, merging the last two costs 1 more
    assert merged(costs, ((0, 0), (1, 1), (2, 2))) == ((0, 0), (1, 2))


def test_legion_keeps_the_better_of_the_two_it_ran() -> None:
    """The second plan is made to run in no time at all: it wins, whatever the formula said."""
    given = case(five_units(), SPEEDS)
    recorder = Recorder(given)
    first = recorder.plan(planners["legion"])
    ran = [wish.plan for wish in recorder.asked if isinstance(wish, PlanRun)]
    assert len(ran) == 2
    assert given.seconds(first) == min(given.seconds(plan) for plan in ran)
    assert {plan.hub for plan in ran} == {HUB}


def test_fss_finds_the_best_division_where_links_cost_nothing() -> None:
    """Then a plan takes the sum over its blocks of the slowest tile; every division is tried."""
    network = five_units()
    quick = Link(0.0, 1e15, 1e15)
    given = case(network, SPEEDS, lambda name: quick, overhead=3e-3)
    group = Group(given.problem.group.devices, quick)
    given = dataclasses.replace(given, problem=Problem(network, group))
    plan = given.plan(planners["fss"])
    total = {name: given.costs.tile_seconds(name, 0, 4, whole_map(network, 4)) for name in SPEEDS}
    rows = strips_of_speeds(given.problem, {name: 1 / seconds for name, seconds in total.items()})

    def seconds(division: list[tuple[int, int]]) -> float:
        return sum(
            max(
                given.costs.tile_seconds(tile.agent, first, last, tile.region)
                for tile in strip_tiles(network, last, rows[last])
            )
            for first, last in division
        )

    found = [(block.first, block.last) for block in plan.blocks]
    assert 1 < len(found) < 5, "neither one block nor one for each unit: there is something to find"
    assert seconds(found) == pytest.approx(min(seconds(division) for division in divisions(5)), rel=1e-9)
