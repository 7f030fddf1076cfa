"""`Plan`: who computes which tile of which block, and who runs the tail. The one result of every planner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from legion_iot.errors import ModelError
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Interval, Region


@dataclass(frozen=True, slots=True)
class Tile:
    """The part of a block one agent computes, in rows and columns of the block's reference map.

    `parts` divide the region where it is computed in several goes, in this order: what others wait for first. Without
    parts it is computed at once.
    """

    agent: str
    region: Region
    parts: tuple[Region, ...] = ()

    @property
    def goes(self) -> tuple[Region, ...]:
        """The regions that are computed one after the other."""
        return self.parts or (self.region,)


@dataclass(frozen=True, slots=True)
class Block:
    """Fused layers: units `first` to `last`, both included, run by each tile's agent without any exchange."""

    first: int
    last: int
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How one network is run by a group: blocks in order, and the agent that runs what follows the trunk.

    With a `hub`, the whole output of every block is gathered at that agent, and the next block's input scattered from
    it; without one, feature maps stay where they were made, and only what somebody lacks travels.
    `replicas` are further plans for the same network: each request is run by this plan or by one of them.
    """

    planner: str
    blocks: tuple[Block, ...]
    tail_agent: str
    hub: str = ""
    replicas: tuple[Plan, ...] = ()

    @property
    def turns(self) -> tuple[Plan, ...]:
        """This plan and its replicas: the ways a request can go."""
        return (self, *self.replicas)

    @property
    def agents(self) -> tuple[str, ...]:
        """Every agent with work, in order of first appearance."""
        names = []
        for plan in self.turns:
            names += [tile.agent for block in plan.blocks for tile in block.tiles]
            names += [plan.tail_agent, *([plan.hub] if plan.hub else [])]
        return tuple(dict.fromkeys(names))

    @property
    def is_alone(self) -> bool:
        """Whether one agent does all the work."""
        return len(self.agents) == 1


def check(plan: Plan, network: Network) -> None:
    """Raises ModelError unless the blocks follow each other over the whole trunk and tiles partition each block.

    The same holds for each replica, which has none of its own.
    """
    for replica in plan.replicas:
        if replica.replicas:
            raise ModelError("a replica of a plan has replicas")
        check(replica, network)
    expected = 0
    for number, block in enumerate(plan.blocks):
        if block.first != expected or block.last < block.first:
            raise ModelError(f"block {number} covers units {block.first}–{block.last}, but unit {expected} comes next")
        expected = block.last + 1
        if expected > len(network.units):
            break
        whole = Region.whole(network.graph.tensors[network.units[block.last].reference])
        tiles = [tile.region for tile in block.tiles]
        agents = [tile.agent for tile in block.tiles]
        if len(set(agents)) != len(agents):
            raise ModelError(f"block {number} gives one agent two tiles")
        if any(not tile.area or tile not in whole for tile in tiles):
            raise ModelError(f"block {number} has a tile that is empty or lies outside the feature map")
        if not _partition(whole, tiles):
            raise ModelError(f"the tiles of block {number} overlap or leave a gap")
        if not all(_partition(tile.region, tile.goes) for tile in block.tiles):
            raise ModelError(f"block {number} has a tile whose parts overlap or leave a gap")
    if expected != len(network.units):
        raise ModelError(f"the plan ends at unit {expected}, the trunk has {len(network.units)}")


def _partition(whole: Region, parts: Sequence[Region]) -> bool:
    """Whether the parts are inside the whole, not empty, and cover each element of it once."""
    if any(not part.area or part not in whole for part in parts):
        return False
    if all(part.columns == whole.columns for part in parts):  # strips, of which there may be a thousand
        rows = sorted((part.rows.start, part.rows.stop) for part in parts)
        ends = [whole.rows.start, *(stop for _, stop in rows)]
        return [start for start, _ in rows] == ends[:-1] and ends[-1] == whole.rows.stop
    overlap = any(a.intersection(b).area for i, a in enumerate(parts) for b in parts[:i])
    return not overlap and sum(part.area for part in parts) == whole.area


def tile_outputs(network: Network, block: Block, region: Region) -> dict[int, Region]:
    """The regions of the block's output tensors that belong to a tile, or to a part of one.

    Tensors of another size than the reference map are divided at the same fractions, so that the tiles of a block
    partition every one of its outputs. A region is empty where a tensor has too few rows for the tile to own any.
    """
    made = network.makes(network.block_ops(block.first, block.last))
    return scaled_outputs(network, made, network.units[block.last].reference, region)


def scaled_outputs(network: Network, made: Iterable[int], reference_map: int, region: Region) -> dict[int, Region]:
    """`region` of the map `reference_map` at the same fractions of each tensor made."""
    tensors = network.graph.tensors
    reference = Region.whole(tensors[reference_map])
    return {tensor: scaled(region, reference, Region.whole(tensors[tensor])) for tensor in made}


def scaled(region: Region, whole: Region, other: Region) -> Region:
    """`region` of a map, all of which is `whole`, at the same fractions of another one."""
    return Region(
        _scaled(region.rows, len(whole.rows), len(other.rows)),
        _scaled(region.columns, len(whole.columns), len(other.columns)),
    )


def _scaled(interval: Interval, size: int, other: int) -> Interval:
    return Interval(interval.start * other // size, interval.stop * other // size)


def to_json(plan: Plan) -> Mapping[str, object]:
    """A form of the plan for people and other programs; rows and columns as [first, end], half open."""
    return {
        "planner": plan.planner,
        "tail_agent": plan.tail_agent,
        "hub": plan.hub,
        "blocks": [
            {"units": [block.first, block.last], "tiles": [_tile_json(tile) for tile in block.tiles]}
            for block in plan.blocks
        ],
        "replicas": [to_json(replica) for replica in plan.replicas],
    }


def _tile_json(tile: Tile) -> Mapping[str, object]:
    return {"agent": tile.agent, **_region_json(tile.region), "parts": [_region_json(part) for part in tile.parts]}


def _region_json(region: Region) -> dict[str, object]:
    return {
        "rows": [region.rows.start, region.rows.stop],
        "columns": [region.columns.start, region.columns.stop],
    }
