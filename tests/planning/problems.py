"""Problems for planners: costs by arithmetic, groups of unlike devices, and an answer to every wish."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hypothesis import strategies as st

from legion_iot.model.blocks import Network, divide
from legion_iot.model.cut import tile_flops
from legion_iot.model.geometry import Region
from legion_iot.planning.estimate import estimate
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Block, Plan, tile_outputs
from legion_iot.planning.problem import (
    Costs,
    Device,
    Group,
    Objective,
    Planner,
    PlanRun,
    Problem,
    Reading,
    TailRun,
    TileRun,
    Wish,
    carry_out,
)
from tests.model.random_networks import RandomNetwork
from tests.runtime.networks import NETWORKS


@dataclass(frozen=True)
class Arithmetic:
    """Seconds are operations over the board's speed, and a fixed part for each unit."""

    network: Network
    speeds: Mapping[str, float]  # by device, operations per second
    overhead: float = 1e-5

    def tile_seconds(self, device: str, first: int, last: int, region: Region) -> float:
        wanted = tile_outputs(self.network, Block(first, last, ()), region)
        ops = self.network.block_ops(first, last)
        flops = tile_flops(self.network, ops, {t: part for t, part in wanted.items() if part.area})
        return self.overhead * (last - first + 1) + flops / self.speeds[device]

    def tail_seconds(self, device: str) -> float:
        return 1e4 / self.speeds[device] if self.network.tail else 0.0


@dataclass(frozen=True)
class Case:
    """A problem, and what is true in it."""

    problem: Problem
    costs: Arithmetic

    def plan(self, planner: Planner) -> Plan:
        return carry_out(planner(self.problem), self.answer)

    def seconds(self, plan: Plan, costs: Costs | None = None) -> float:
        """What the problem's objective counts, by the true costs unless told otherwise."""
        found = estimate(self.problem.network, plan, self.problem.group, costs or self.costs)
        return found.latency if self.problem.objective == "latency" else found.interval

    def answer(self, wishes: tuple[Wish, ...]) -> dict[Wish, Reading]:
        return {wish: Reading(self._seconds(wish)) for wish in wishes}

    def _seconds(self, wish: Wish) -> float:
        match wish:
            case TileRun(device, first, last, region):
                return self.costs.tile_seconds(device, first, last, region)
            case TailRun(device):
                return self.costs.tail_seconds(device)
            case PlanRun(plan):
                return self.seconds(plan)


class Recorder:
    """Answers as the case does, and notes what was asked."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.asked: list[Wish] = []

    def answer(self, wishes: tuple[Wish, ...]) -> dict[Wish, Reading]:
        self.asked += wishes
        return self.case.answer(wishes)

    def plan(self, planner: Planner) -> Plan:
        return carry_out(planner(self.case.problem), self.answer)

    def count(self, kind: type[Wish]) -> int:
        return sum(isinstance(wish, kind) for wish in self.asked)


def case(
    network: Network,
    speeds: Mapping[str, float],
    links: Callable[[str], Link] = lambda name: Link(1e-4, 12.5e6, 12.5e6),
    memory: Mapping[str, int] | None = None,
    objective: Objective = "latency",
    overhead: float = 1e-5,
) -> Case:
    """Devices of these speeds; those of one speed are of one board."""
    limits = memory or {}
    devices = tuple(Device(name, f"board-{speed:g}", links(name), limits.get(name)) for name, speed in speeds.items())
    group = Group(devices, Link(1e-4, 125e6, 125e6))
    return Case(Problem(network, group, objective), Arithmetic(network, speeds, overhead))


NAMES = ("ant", "bee", "cat", "dog", "elk")


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """One of the small networks of every kind, or a random one."""
    if draw(st.booleans()):
        return NETWORKS[draw(st.sampled_from(sorted(NETWORKS)))]
    return divide(RandomNetwork(draw(st.integers(0, 400)), ops=draw(st.integers(2, 10))).graph())


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Speeds and links that differ wildly."""
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    speeds = {name: 10.0 ** draw(st.integers(6, 10)) for name in names}
    rates = st.sampled_from((1e4, 1e6, 12.5e6, 125e6))
    links = {name: Link(draw(st.sampled_from((1e-5, 1e-3, 0.1))), draw(rates), draw(rates)) for name in names}
    objective: Objective = draw(st.sampled_from(("latency", "throughput")))
    return case(draw(networks()), speeds, links.__getitem__, objective=objective)
