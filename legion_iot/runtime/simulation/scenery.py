"""What a simulated group computes, and by which plans: a tall map, so that many agents find work in it."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass

from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.planning.plan import Block, Plan
from legion_iot.planning.strips import map_height, strip_tiles, strips

WIDTH = 2
TEAM = 24  # agents that share one request in a large group, at most


def tall_network(rows: int) -> Network:
    """Four convolutions and a classifier on a map of so many rows."""
    net = GraphBuilder("tall")
    x = net.conv2d(net.input((1, rows, WIDTH, 1)), 2, 3, activation="relu")
    x = net.conv2d(x, 2, 3, stride=2, activation="relu")
    x = net.conv2d(x, 2, 3, activation="relu")
    x = net.conv2d(x, 1, 3)
    return divide(net.finish(net.fully_connected(net.global_mean(x), 3)))


@dataclass(frozen=True, slots=True)
class Teams:
    """How a plan shares the work out: a request goes to one team of `size` agents, in so many `blocks` of units.

    With a `hub`, the first agent of each team gathers every block's output.
    """

    size: int
    blocks: int
    hub: bool

    @classmethod
    def drawn(cls, draw: random.Random, agents: int) -> Teams:
        """Any teams for so many agents."""
        return cls(draw.randint(1, min(agents, TEAM)), draw.randint(1, 3), draw.random() < 0.3)

    @property
    def network(self) -> Network:
        """A network with work for everybody in a team."""
        return tall_network(max(16, 4 * self.size))

    def make_plan(self, network: Network, speeds: Mapping[str, float]) -> Plan:
        """A plan for agents of these speeds."""
        names = sorted(speeds)
        turns = [
            self._turn(network, {name: speeds[name] for name in names[start : start + self.size]})
            for start in range(0, len(names), self.size)
        ]
        return dataclasses.replace(turns[0], replicas=tuple(turns[1:]))

    def _turn(self, network: Network, speeds: Mapping[str, float]) -> Plan:
        count = len(network.units)
        cuts = sorted({round(count * number / self.blocks) for number in range(self.blocks + 1)})
        blocks = tuple(
            Block(first, end - 1, strip_tiles(network, end - 1, strips(map_height(network, end - 1), speeds)))
            for first, end in itertools.pairwise(cuts)
        )
        first_name = next(iter(speeds))
        return Plan("teams", blocks, first_name, first_name if self.hub else "")
