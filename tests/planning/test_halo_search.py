"""The search finds the cheapest of all ways, costed one by one with plain loops over devices and rows."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.cut import tile_inputs
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.families import Family, families
from legion_iot.planning.halo_search import HaloSearch
from legion_iot.planning.links import Link
from legion_iot.planning.memory import Limits
from legion_iot.planning.plan import Block, check, tile_outputs
from legion_iot.planning.problem import Device, Group, Problem
from legion_iot.planning.strips import map_height, whole_map
from legion_iot.planning.tables import StripTables
from tests.planning.problems import Arithmetic
from tests.planning.test_balanced import divisions
from tests.runtime.networks import NETWORKS


def five_units() -> Network:
    """Five units whose costs are straight in the rows, so that tables hold them exactly; with strides and halos."""
    net = GraphBuilder("five")
    x = net.conv2d(net.input((1, 24, 8, 3)), 4, 3, activation="relu")
    x = net.conv2d(x, 6, 3, stride=2, activation="relu")
    x = net.conv2d(x, 6, 5)
    x = net.conv2d(net.max_pool(x, 2), 8, 3)
    return divide(net.finish(net.softmax(net.fully_connected(net.global_mean(x), 3))))


class ByHand:
    """The cost of a way, from regions of tiles."""

    def __init__(self, problem: Problem, costs: Arithmetic, choices: list[Family]) -> None:
        self.problem, self.costs, self.choices = problem, costs, choices
        self.network, self.devices = problem.network, problem.group.devices

    def strip(self, family: int, last: int, device: int) -> Interval:
        rows = self.choices[family][last]
        start, stop = int(rows.start[device]), int(rows.stop[device])
        return Interval(start, stop) if stop > start else Interval(0, 0)

    def owned(self, first: int, last: int, family: int, device: int) -> dict[int, Interval]:
        region = Region(self.strip(family, last, device), whole_map(self.network, last).columns)
        wanted = tile_outputs(self.network, Block(first, last, ()), region)
        return {t: r.rows for t, r in wanted.items() if r.area}

    def needs(self, first: int, last: int, family: int, device: int) -> dict[int, Interval]:
        owned = self.owned(first, last, family, device)
        columns = {t: Region.whole(self.network.graph.tensors[t]).columns for t in owned}
        wanted = {t: Region(rows, columns[t]) for t, rows in owned.items()}
        found = tile_inputs(self.network, self.network.block_ops(first, last), wanted)
        return {t: region.rows for t, region in found.items()}

    def row_bytes(self, tensor: int) -> int:
        model = self.network.graph.tensors[tensor]
        return model.nbytes // model.shape[1]

    def arrivals(self, needs: list[dict[int, Interval]], held: list[dict[int, Interval]]) -> list[float]:
        """Seconds until each device has the rows it lacks, of those that somebody holds."""
        count = len(self.devices)
        got, given = [0.0] * count, [0.0] * count
        for target, source in itertools.permutations(range(count), 2):
            for tensor, rows in needs[target].items():
                part = len(rows.intersection(held[source].get(tensor, Interval(0, 0)))) * self.row_bytes(tensor)
                got[target] += part
                given[source] += part
        loaded = max(size / d.link.up for size, d in zip(given, self.devices, strict=True))
        loaded = max(loaded, sum(got) / self.problem.group.broker)
        far = max((d.link.latency for size, d in zip(given, self.devices, strict=True) if size), default=0.0)
        return [
            d.link.latency + far + max(size / d.link.down, loaded) if size else 0.0
            for size, d in zip(got, self.devices, strict=True)
        ]

    def from_orchestrator(self, needs: list[dict[int, Interval]]) -> list[float]:
        sizes = [sum(len(rows) * self.row_bytes(t) for t, rows in need.items()) for need in needs]
        link = self.problem.group.orchestrator
        shared = sum(sizes) / min(link.up, self.problem.group.broker)
        return [
            d.link.latency + link.latency + max(size / d.link.down, shared) if size else 0.0
            for size, d in zip(sizes, self.devices, strict=True)
        ]

    def seconds(self, division: list[tuple[int, int]], way: tuple[int, ...], tail: int) -> float:
        every, total = range(len(self.devices)), 0.0
        inputs = set(self.network.graph.inputs)
        held: list[dict[int, Interval]] = [{} for _ in every]
        for (first, last), family in zip(division, way, strict=True):
            needs = [self.needs(first, last, family, d) for d in every]
            sent = self.from_orchestrator([{t: r for t, r in n.items() if t in inputs} for n in needs])
            moved = self.arrivals([{t: r for t, r in n.items() if t not in inputs} for n in needs], held)
            columns = whole_map(self.network, last).columns
            total += max(
                max(sent[d], moved[d])
                + self.costs.tile_seconds(
                    self.devices[d].name, first, last, Region(self.strip(family, last, d), columns)
                )
                for d in every
                if len(self.strip(family, last, d))
            )
            held = [self.owned(first, last, family, d) for d in every]
        read = self.network.reads(self.network.tail)
        whole = {t: Interval(0, self.network.graph.tensors[t].shape[1]) for t in read}
        total += self.arrivals([whole if d == tail else {} for d in every], held)[tail]
        device = self.devices[tail]
        return total + self.costs.tail_seconds(device.name) + device.link.latency


@pytest.mark.parametrize("seed", range(6))
def test_no_way_is_cheaper(seed: int) -> None:
    draw, network = random.Random(seed), five_units()
    assert len(network.units) == 5
    names = ("ant", "bee", "cat")[: 2 + seed % 2]
    rates = [1e4, 1e5, 1e6]
    devices = tuple(
        Device(name, name, Link(draw.choice([1e-4, 1e-2]), draw.choice(rates), draw.choice(rates))) for name in names
    )
    group = Group(devices, Link(1e-3, 1e6, 1e6), broker=draw.choice([1e5, math.inf]))
    problem = Problem(network, group)
    costs = Arithmetic(network, {name: 10.0 ** draw.randint(6, 7) for name in names})
    tables = StripTables(problem, costs)
    choices = families(tables, Limits.none(problem))
    choices = draw.sample(choices, min(3, len(choices)))
    seconds, plan = HaloSearch(problem, costs, tables, choices).best(range(len(choices)), range(len(names)))
    check(plan, network)
    hand = ByHand(problem, costs, choices)
    every = {
        (tuple(division), way, tail): hand.seconds(division, way, tail)
        for division in divisions(5)
        for way in itertools.product(range(len(choices)), repeat=len(division))
        for tail in range(len(names))
    }

    assert seconds == pytest.approx(min(every.values()), rel=1e-6)
    division = tuple((block.first, block.last) for block in plan.blocks)
    mine = [value for (cuts, _, tail), value in every.items() if cuts == division and names[tail] == plan.tail_agent]
    assert min(mine) == pytest.approx(seconds, rel=1e-6)


@pytest.mark.parametrize("name", ["chain", "residual", "scales", "mixed"])
def test_families_divide_every_map(name: str) -> None:
    network = NETWORKS[name]
    links = {"ant": Link(1e-3, 1e6, 1e6), "bee": Link(1e-3, 1e4, 1e4), "cat": Link(1e-3, 1e6, 1e6)}
    problem = Problem(network, Group(tuple(Device(n, n, link) for n, link in links.items()), Link(1e-3, 1e6, 1e6)))
    tables = StripTables(problem, Arithmetic(network, {"ant": 1e9, "bee": 1e7, "cat": 1e8}))
    for limits in (Limits.none(problem), Limits((2, len(network.units), 1), (1.0, 1.0, 0.5))):
        for family in families(tables, limits):
            for unit in network.units:
                height, rows = map_height(network, unit.index), family[unit.index]
                most = limits.most_rows(unit.index, height)
                end = 0
                for start, stop, cap in zip(rows.start, rows.stop, most, strict=True):
                    if stop > start:
                        assert start == end
                        assert stop - start <= cap
                        end = stop
                assert end == height
