"""Groups with any links, and costs that follow a formula: seconds by arithmetic, and a fixed part for each unit."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from legion_iot.model.blocks import Network
from legion_iot.model.cut import tile_flops
from legion_iot.model.geometry import Region
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Block, tile_outputs
from legion_iot.planning.problem import Device, Group
from tests.planning.plans import AGENTS


@dataclass(frozen=True)
class FlopCosts:
    """`speeds` in FLOP per second and `fixed` seconds per unit, by device."""

    network: Network
    speeds: Mapping[str, float]
    fixed: Mapping[str, float]
    tail: Mapping[str, float]

    def tile_seconds(self, device: str, first: int, last: int, region: Region) -> float:
        block = Block(first, last, ())
        outputs = {t: r for t, r in tile_outputs(self.network, block, region).items() if r.area}
        flops = tile_flops(self.network, self.network.block_ops(first, last), outputs)
        return flops / self.speeds[device] + self.fixed[device] * (last - first + 1)

    def tail_seconds(self, device: str) -> float:
        return self.tail[device] if self.network.tail else 0.0


def random_link(draw: random.Random) -> Link:
    """From slow to fast, both directions apart; one in two without latency."""
    return Link(draw.choice((0.0, draw.uniform(0, 0.01))), 10 ** draw.uniform(3, 6), 10 ** draw.uniform(3, 6))


def random_group(draw: random.Random, names: Sequence[str] = AGENTS) -> Group:
    """A group of devices that have nothing in common; one in two has a broker that is no bottleneck."""
    devices = tuple(Device(name, name, random_link(draw)) for name in names)
    return Group(devices, random_link(draw), draw.choice((float("inf"), 10 ** draw.uniform(3, 6))))


def with_handling(group: Group, draw: random.Random) -> Group:
    """The same group, with messages that cost the processors of about one participant in two."""

    def handled(link: Link) -> Link:
        seconds = draw.choice(((0.0, 0.0), (draw.uniform(0, 0.01), 10 ** draw.uniform(-7, -4))))
        return dataclasses.replace(link, message_seconds=seconds[0], byte_seconds=seconds[1])

    devices = tuple(dataclasses.replace(device, link=handled(device.link)) for device in group.devices)
    return dataclasses.replace(group, devices=devices, orchestrator=handled(group.orchestrator))


def random_costs(network: Network, draw: random.Random, names: Sequence[str] = AGENTS) -> FlopCosts:
    """Devices up to a hundred times as fast as each other."""
    return FlopCosts(
        network,
        {name: 10 ** draw.uniform(5, 7) for name in names},
        {name: draw.choice((0.0, draw.uniform(0, 0.01))) for name in names},
        {name: draw.uniform(0, 0.02) for name in names},
    )
