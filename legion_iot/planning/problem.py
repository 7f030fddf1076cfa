"""What a planner is given, and what it may ask for: a network, a group of devices with their links, and measurements.

A planner is a generator. It yields wishes in batches, gets a reading for each, and returns its plan; so the same
planner runs on a live group, which takes minutes to answer, and on a recorded trace, which counts what was looked at.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from legion_iot.errors import AgentError
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Region
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Plan
from legion_iot.planning.samples import Samples
from legion_iot.planning.traffic import EXACT

Objective = Literal["latency", "throughput"]


@dataclass(frozen=True, slots=True)
class Device:
    """One agent: devices of one `board` class are taken to be equally fast. `memory_bytes` is None without a limit."""

    name: str
    board: str
    link: Link
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The devices of a plan, the orchestrator's own link, and what the broker's link carries in each direction.

    Raises AgentError without any device, or where two have one name.
    """

    devices: tuple[Device, ...]
    orchestrator: Link
    broker: float = float("inf")  # bytes per second

    def __post_init__(self) -> None:
        if not self.devices:
            raise AgentError("no agent is online to plan for; start agents with: legion-agent --broker URL")
        if len(set(self.names)) != len(self.devices):
            raise AgentError(f"two devices of the group have one name: {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(device.name for device in self.devices)

    def __getitem__(self, name: str) -> Device:
        return next(device for device in self.devices if device.name == name)


def measured_group(devices: Sequence[Device], orchestrator: Link) -> Group:
    """The group of devices whose links were each measured by itself.

    What handling messages takes is a property of the class of board, as what computing takes is: each device gets the
    median of what those of its class have found. Raises AgentError as `Group` does.
    """
    found: dict[str, list[Link]] = {}
    for device in devices:
        if device.link.takes_processor:
            found.setdefault(device.board, []).append(device.link)
    shared = {
        board: {
            "message_seconds": statistics.median(link.message_seconds for link in links),
            "byte_seconds": statistics.median(link.byte_seconds for link in links),
        }
        for board, links in found.items()
    }
    return Group(tuple(replace(d, link=replace(d.link, **shared.get(d.board, {}))) for d in devices), orchestrator)


@dataclass(frozen=True, slots=True)
class TileRun:
    """Run units `first` to `last` on `device` for `region` of the block's reference map, once it is warm."""

    device: str
    first: int
    last: int
    region: Region


@dataclass(frozen=True, slots=True)
class TailRun:
    """Run the tail on `device`, once it is warm."""

    device: str


@dataclass(frozen=True, slots=True)
class PlanRun:
    """Run requests through the whole group by `plan`."""

    plan: Plan


Wish = TileRun | TailRun | PlanRun


@dataclass(frozen=True, slots=True)
class Reading:
    """The median of what was measured, and the standard deviation of a single run around it; both in seconds.

    For a `PlanRun`, seconds are the latency or, where throughput is the objective, the time between answers.
    """

    seconds: float
    deviation: float = 0.0


class Costs(Protocol):
    """Seconds of computing, predicted or measured; equal arguments give equal answers."""

    def tile_seconds(self, device: str, first: int, last: int, region: Region) -> float:
        """The tile `region` of the block of units `first` to `last`, redundant halo rows included."""
        ...

    def tail_seconds(self, device: str) -> float:
        """The tail; 0 where the network has none."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A network to be planned for a group, and what was measured before.

    `wire` is the dtype in which float32 maps travel between agents.
    """

    network: Network
    group: Group
    objective: Objective = "latency"
    samples: Samples = field(default_factory=Samples)  # what is known already
    wire: str = EXACT


Planning = Generator[tuple[Wish, ...], Mapping[Wish, Reading], Plan]
Planner = Callable[[Problem], Planning]


def carry_out(planning: Planning, measure: Callable[[tuple[Wish, ...]], Mapping[Wish, Reading]]) -> Plan:
    """The plan of a planner whose wishes `measure` answers at once, batch by batch."""
    readings: Mapping[Wish, Reading] | None = None
    while True:
        try:
            wishes = next(planning) if readings is None else planning.send(readings)
        except StopIteration as end:
            plan: Plan = end.value
            return plan
        readings = measure(wishes)
