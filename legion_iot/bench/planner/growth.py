"""How long planning takes, and how that grows with units and devices; measurements are answered at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

from legion_iot.bench.planner.recorded_network import group_of
from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.cut import block_flops_from_each_start
from legion_iot.model.geometry import Region
from legion_iot.planning.plan import check
from legion_iot.planning.problem import (
    Group,
    Planner,
    Problem,
    Reading,
    Wish,
    carry_out,
)
from legion_iot.planning.rehearsal import Rehearsal

# FLOP per second and seconds per unit of the two kinds of device.
SPEEDS = {"F": (15e9, 20e-6), "O": (9e9, 50e-6)}
TAIL_SECONDS = 1e-3


def chain(units: int) -> Network:
    """A network of so many units: 3×3 convolutions, and a pool after each quarter of them."""
    net = GraphBuilder(f"chain of {units}", 0)
    x, channels = net.input((1, 224, 224, 3)), 16
    for number in range(1, units + 1):
        if number % max(2, units // 4) == 0:
            x, channels = net.max_pool(x, 2), min(64, channels * 2)
        else:
            x = net.conv2d(x, channels, 3, activation="relu")
    return divide(net.finish(net.softmax(net.fully_connected(net.global_mean(x), 10))))


class _MadeUp:
    """Costs that follow operations."""

    def __init__(self, network: Network, group: Group) -> None:
        self._network, self._group = network, group
        self._totals: dict[tuple[int, Region], list[int]] = {}

    def tile_seconds(self, device: str, first: int, last: int, region: Region) -> float:
        if (last, region) not in self._totals:
            self._totals[last, region] = block_flops_from_each_start(self._network, last, region)
        speed, fixed = SPEEDS[self._group[device].board]
        return self._totals[last, region][first] / speed + fixed * (last - first + 1)

    def tail_seconds(self, device: str) -> float:
        return TAIL_SECONDS


def planning_seconds(planner: Planner, network: Network, devices: int, rounds: int) -> tuple[float, int]:
    """Seconds of thinking, the median of some rounds, and the wishes of one of them; half the devices of each kind."""
    group = group_of((devices - devices // 2, devices // 2))
    rehearsal = Rehearsal(Problem(network, group), _MadeUp(network, group))
    found, wished = [], 0
    for _ in range(rounds):
        thinking, resumed, wished = 0.0, time.thread_time(), 0

        def measure(wishes: tuple[Wish, ...]) -> Mapping[Wish, Reading]:
            nonlocal thinking, resumed, wished
            thinking += time.thread_time() - resumed
            wished += len(wishes)
            readings = rehearsal.answers(wishes)
            resumed = time.thread_time()
            return readings

        plan = carry_out(planner(rehearsal.problem), measure)
        found.append(thinking + time.thread_time() - resumed)
        check(plan, network)
    return statistics.median(found), wished
