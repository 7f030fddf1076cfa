"""Grids share a map out fairly, and are taken where they make the slowest device's tile smaller."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.grids import grid, gridded
from legion_iot.planning.links import Link
from legion_iot.planning.memory import plan_memory_bytes
from legion_iot.planning.plan import Block, Plan, check
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.refine import refined
from legion_iot.planning.strips import strip_tiles, strips
from tests.planning.problems import case

SIX = dict.fromkeys(("ant", "bee", "cat", "dog", "elk", "fox"), 1e7)
FAST = Link(1e-6, 1e10, 1e10)


def square(kernel: int) -> Network:
    """Two convolutions of a map of 14 × 14."""
    net = GraphBuilder("square")
    x = net.conv2d(net.input((1, 14, 14, 8)), 8, kernel, activation="relu")
    return divide(net.finish(net.conv2d(x, 8, kernel)))


def in_strips(network: Network) -> Plan:
    last = len(network.units) - 1
    rows = strips(14, dict.fromkeys(SIX, 1.0))
    return Plan("strips", (Block(0, last, strip_tiles(network, last, rows)),), "ant")


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    shares=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    data=st.data(),
)
def test_a_grid_covers_the_map_once_and_shares_it_out_as_asked(
    height: int, width: int, shares: list[int], data: st.DataObject
) -> None:
    down = data.draw(st.integers(1, len(shares)))
    speeds = {str(number): float(share) for number, share in enumerate(shares)}
    regions = list(grid(Region(Interval(0, height), Interval(0, width)), speeds, down).values())
    times_covered = np.zeros((height, width), int)
    for region in regions:
        times_covered[region.rows.start : region.rows.stop, region.columns.start : region.columns.stop] += 1
    assert (times_covered == 1).all()
    for region, share in zip(regions, shares, strict=True):
        row = sum(s for r, s in zip(regions, shares, strict=True) if r.rows == region.rows)
        if len(region.rows):
            assert abs(len(region.columns) - width * share / row) <= 1
            assert abs(len(region.rows) - height * row / sum(shares)) <= 1
    assert len({region.rows for region in regions}) <= down


def test_six_devices_on_fourteen_rows_take_seven_by_five() -> None:
    """Nothing to exchange and nothing computed twice: the slowest has 35 elements of the map, and as a strip 42."""
    network = square(1)
    given_case = case(network, SIX, lambda name: FAST, overhead=0.0)
    before, ranking = in_strips(network), Ranking(given_case.problem, given_case.costs)
    better = refined(ranking, before)
    check(better, network)
    assert {len(tile.region.columns) for tile in better.blocks[0].tiles} != {14}
    saved = (42 - 35) * 2 * 2 * 8 * 8 / 1e7  # two convolutions of 8 × 8 channels, two operations each
    assert given_case.seconds(before) - given_case.seconds(better) >= 0.99 * saved


def test_strips_stay_where_messages_cost_more_than_a_grid_saves() -> None:
    """The tiles of a grid have more neighbours, and a message takes longer than all computing."""
    network = square(3)
    given_case = case(network, SIX, lambda name: Link(1e-3, 1e10, 1e10, message_seconds=1.0))
    units = tuple(Block(k, k, in_strips(network).blocks[0].tiles) for k in range(len(network.units)))
    plan = Plan("strips", units, "ant")
    assert gridded(Ranking(given_case.problem, given_case.costs), plan) == []


def test_a_grid_that_exceeds_a_devices_memory_is_not_taken() -> None:
    network = square(1)
    before = in_strips(network)
    needed = plan_memory_bytes(network, before)
    least = min(needed, key=lambda name: needed[name])  # 14 × 2 elements: no tile of a grid of two rows is so small
    given_case = case(network, SIX, lambda name: FAST, {least: needed[least]}, overhead=0.0)
    assert gridded(Ranking(given_case.problem, given_case.costs), before) == []
