"""`Plan`: who computes which tile of which block, and who runs the tail. The one result of every planner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from legion_iot.errors import ModelError
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import HEIGHT, WIDTH, Interval, Region


@dataclass(frozen=True, slots=True)
class Tile:
    """The part of a block one agent computes, in rows and columns of the block's reference map."""

    agent: str
    region: Region


@dataclass(frozen=True, slots=True)
class Block:
    """Fused layers: units `first` to `last`, both included, run by each tile's agent without any exchange."""

    first: int
    last: int
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How one network is run by a group: blocks in order, and the agent that runs what follows the trunk."""

    planner: str
    blocks: tuple[Block, ...]
    tail_agent: str

    @property
    def agents(self) -> tuple[str, ...]:
        """Every agent with work, in order of first appearance."""
        names = [tile.agent for block in self.blocks for tile in block.tiles]
        return tuple(dict.fromkeys([*names, self.tail_agent]))


def check(plan: Plan, network: Network) -> None:
    """Raises ModelError unless the blocks follow each other over the whole trunk and tiles partition each block."""
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
        if sum(tile.area for tile in tiles) != whole.area or any(
            a.intersection(b).area for i, a in enumerate(tiles) for b in tiles[:i]
        ):
            raise ModelError(f"the tiles of block {number} overlap or leave a gap")
    if expected != len(network.units):
        raise ModelError(f"the plan ends at unit {expected}, the trunk has {len(network.units)}")


def tile_outputs(network: Network, block: Block, tile: Tile) -> dict[int, Region]:
    """The regions of the block's output tensors that belong to a tile.

    Tensors of another size than the reference map are divided at the same fractions, so that the tiles of a block
    partition every one of its outputs. A region is empty where a tensor has too few rows for the tile to own any.
    """
    reference = Region.whole(network.graph.tensors[network.units[block.last].reference])
    regions = {}
    for tensor in network.makes(network.block_ops(block.first, block.last)):
        shape = network.graph.tensors[tensor].shape
        regions[tensor] = Region(
            _scaled(tile.region.rows, len(reference.rows), shape[HEIGHT]),
            _scaled(tile.region.columns, len(reference.columns), shape[WIDTH]),
        )
    return regions


def _scaled(interval: Interval, size: int, other: int) -> Interval:
    return Interval(interval.start * other // size, interval.stop * other // size)


def to_json(plan: Plan) -> Mapping[str, object]:
    """A form of the plan for people and other programs; regions as [row, row, column, column], half open."""
    return {
        "planner": plan.planner,
        "tail_agent": plan.tail_agent,
        "blocks": [
            {
                "units": [block.first, block.last],
                "tiles": [
                    {
                        "agent": tile.agent,
                        "rows": [tile.region.rows.start, tile.region.rows.stop],
                        "columns": [tile.region.columns.start, tile.region.columns.stop],
                    }
                    for tile in block.tiles
                ],
            }
            for block in plan.blocks
        ],
    }
