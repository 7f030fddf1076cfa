"""The tables say of a strip what a walk back over its block says."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.cut import tile_inputs
from legion_iot.model.geometry import ClippedWindow, Interval, Padding, Region
from legion_iot.planning.costs import Predictor
from legion_iot.planning.plan import Block, tile_outputs
from legion_iot.planning.strips import map_height, strips, whole_map
from legion_iot.planning.tables import Rows, StripTables
from tests.planning.problems import NAMES, case, networks


def is_separable(network: Network) -> bool:
    """Whether the first row that each op needs depends on the first row asked for alone, and the last on the last."""
    rules = [network.geometries[op].rows for unit in network.units for op in unit.ops]
    return not any(isinstance(rule, (ClippedWindow, Padding)) for rule in rules)


@settings(max_examples=60, deadline=None)
@given(network=networks(), shares=st.lists(st.integers(0, 5), min_size=2, max_size=5), measured=st.booleans())
def test_needs_and_seconds_are_those_of_a_walk(network: Network, shares: list[int], measured: bool) -> None:
    if not network.units or not sum(shares) or not is_separable(network):
        return
    names = NAMES[: len(shares)]
    given_case = case(network, {name: 10.0 ** (9 + number % 2) for number, name in enumerate(names)})
    costs = Predictor.of(given_case.problem) if measured else given_case.costs
    tables = StripTables(given_case.problem, costs)
    last = len(network.units) - 1
    rows = strips(map_height(network, last), dict(zip(names, map(float, shares), strict=True)))
    start, stop = (np.array([getattr(rows[name], end) for name in names]) for end in ("start", "stop"))
    for span in tables.spans(last, Rows(start, stop).cleared()):
        ops = network.block_ops(span.first, last)
        for number, name in enumerate(names):
            region = Region(rows[name], whole_map(network, last).columns)
            wanted = tile_outputs(network, Block(span.first, last, ()), region)
            needed = tile_inputs(network, ops, {t: r for t, r in wanted.items() if r.area})
            for tensor in network.reads(ops):
                exact = len(needed[tensor].rows) if tensor in needed else 0
                found = int(span.needs[tensor].count[number]) if tensor in span.needs else 0
                assert found == exact
            if measured and region.area:
                assert np.isclose(span.seconds[number], costs.tile_seconds(name, span.first, last, region))
            elif not region.area:
                assert span.seconds[number] == 0


def test_costs_that_are_straight_in_the_rows_are_met_at_every_height() -> None:
    """Of units without a halo inside; 1×1 convolutions, on maps of up to 40 rows."""
    net = GraphBuilder("pointwise")
    x = net.conv2d(net.input((1, 40, 6, 3)), 4, 1, activation="relu")
    network = divide(net.finish(net.conv2d(net.max_pool(x, 2), 5, 1)))
    given_case = case(network, {"ant": 1e9, "bee": 1e7})
    tables = StripTables(given_case.problem, given_case.costs)
    for unit in network.units:
        whole = whole_map(network, unit.index)
        for rows in range(1, len(whole.rows) + 1):
            region = Region(Interval(0, rows), whole.columns)
            exact = [given_case.costs.tile_seconds(name, unit.index, unit.index, region) for name in ("ant", "bee")]
            assert np.allclose(tables.unit_seconds(unit.index, np.array([rows, rows])), exact)
