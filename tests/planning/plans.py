"""Random plans: blocks and rectangular tiles, with no respect for speed."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Sequence

from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.plan import Block, Plan, Tile

AGENTS = ("ant", "bee", "cat", "dog", "elk")


def cuts(size: int, parts: int, draw: random.Random) -> list[Interval]:
    """Up to `parts` intervals of at least one row that follow each other over `size`."""
    inner = sorted(draw.sample(range(1, size), min(parts - 1, size - 1)))
    return [Interval(a, b) for a, b in zip([0, *inner], [*inner, size], strict=True)]


def random_plan(network: Network, draw: random.Random, agents: Sequence[str] = AGENTS) -> Plan:
    """Blocks of random length; tiles in rows, or in rows and columns; agents in random order, some idle.

    One in two has a hub, some tiles are computed in parts, and one in three has replicas.
    """
    replicas = tuple(_random_turn(network, draw, agents) for _ in range(draw.choice((0, 0, 1, 2))))
    return dataclasses.replace(_random_turn(network, draw, agents), replicas=replicas)


def _random_turn(network: Network, draw: random.Random, agents: Sequence[str]) -> Plan:
    count = len(network.units)
    bounds = [0, *sorted(draw.sample(range(1, count), draw.randrange(count))), count] if count else [0]
    blocks = []
    for first, end in itertools.pairwise(bounds):
        shape = network.graph.tensors[network.units[end - 1].reference].shape
        rows = cuts(shape[1], min(draw.randrange(1, 4), len(agents)), draw)
        parts = draw.choice((1, 1, 2)) if len(rows) < 3 else 1
        columns = cuts(shape[2], min(parts, len(agents) // len(rows)), draw)
        regions = [Region(r, c) for r in rows for c in columns]
        drawn = draw.sample(agents, len(regions))
        blocks.append(Block(first, end - 1, tuple(_tile(a, r, draw) for a, r in zip(drawn, regions, strict=True))))
    return Plan("random", tuple(blocks), draw.choice(agents), draw.choice(("", draw.choice(agents))))


def _tile(agent: str, region: Region, draw: random.Random) -> Tile:
    rows = region.rows
    if len(rows) < 3 or draw.random() < 0.5:
        return Tile(agent, region)
    cut = [rows.start, *sorted(draw.sample(range(rows.start + 1, rows.stop), 2)), rows.stop]
    parts = [Region(Interval(a, b), region.columns) for a, b in itertools.pairwise(cut)]
    draw.shuffle(parts)
    return Tile(agent, region, tuple(parts))
