"""How much memory tiles and plans need on each device: an estimate, from weights and feature maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from legion_iot.errors import AgentError
from legion_iot.model.blocks import Network
from legion_iot.model.cut import tile_regions, whole_or_flat
from legion_iot.model.geometry import Region
from legion_iot.model.graph import NUMPY_DTYPES
from legion_iot.planning.plan import Block, Plan, tile_outputs
from legion_iot.planning.problem import Group, Problem

FILLED = 0.8  # of a device's memory: beyond it, weights leave too little room for feature maps
SHRINK = 0.7  # of a device's rows are left where its feature maps need too much


def tile_memory_bytes(network: Network, first: int, last: int, region: Region) -> int:
    """Bytes of the weights of units `first` to `last`, and of the feature maps that a tile of them has at once.

    The runtime keeps its own copy of the weights and pages those of the file in and out; its arena reuses the room of
    maps that nothing reads any more.
    """
    ops = network.block_ops(first, last)
    wanted = tile_outputs(network, Block(first, last, ()), region)
    regions = tile_regions(network, ops, {tensor: part for tensor, part in wanted.items() if part.area})
    size = {tensor: _pixel_bytes(network, tensor) * part.area for tensor, part in regions.items()}
    return weight_bytes(network, ops) + _peak(network, ops, size, set(wanted))


def tail_memory_bytes(network: Network) -> int:
    """Bytes of the tail's weights, and of the tensors it has at once."""
    made = [tensor for op in network.tail for tensor in network.graph.ops[op].outputs]
    size = {t: _tensor_bytes(network, t) for t in (*network.reads(network.tail), *made)}
    return weight_bytes(network, network.tail) + _peak(network, network.tail, size, set(network.graph.outputs))


def weight_bytes(network: Network, ops: Iterable[int]) -> int:
    """Bytes of the constants that the ops read, each once."""
    graph = network.graph
    read = {tensor for op in ops for tensor in graph.ops[op].inputs if tensor in network.constants}
    return sum(_tensor_bytes(network, tensor) for tensor in read)


def plan_memory_bytes(network: Network, plan: Plan) -> Mapping[str, int]:
    """Bytes that each agent of a plan needs: all its tiles are loaded at once, parts and replicas each on their own."""
    needed: Counter[str] = Counter()
    for turn in plan.turns:
        for block in turn.blocks:
            for tile in block.tiles:
                needed[tile.agent] += sum(
                    tile_memory_bytes(network, block.first, block.last, region) for region in tile.goes
                )
        if network.tail:
            needed[turn.tail_agent] += tail_memory_bytes(network)
    return needed


@dataclass(frozen=True, slots=True)
class Limits:
    """What a search may give each device so that plans keep within its memory.

    Device d gets tiles of blocks that end before unit `units[d]`, of at most `shares[d]` of a map's rows. Early units
    are kept longest: they have the fewest weights, and gain most from being shared.
    """

    units: tuple[int, ...]
    shares: tuple[float, ...]

    @classmethod
    def none(cls, problem: Problem) -> Limits:
        """Every device may take everything."""
        count = len(problem.group.devices)
        return cls((len(problem.network.units),) * count, (1.0,) * count)

    def most_rows(self, last: int, height: int) -> npt.NDArray[np.int64]:
        """The most rows of each device in a block that ends with unit `last`, whose map has `height` rows."""
        shares = np.where(np.array(self.units) > last, self.shares, 0.0)
        most: npt.NDArray[np.int64] = np.ceil(shares * height).astype(np.int64)
        return most

    def tightened(self, problem: Problem, plan: Plan) -> Limits:
        """With less for each device whose memory the plan exceeds: fewer rows, or fewer units where weights fill it."""
        network = problem.network
        needed = plan_memory_bytes(network, plan)
        units, shares = list(self.units), list(self.shares)
        for number, device in enumerate(problem.group.devices):
            most = device.memory_bytes
            if most is None or needed.get(device.name, 0) <= most:
                continue
            mine = [block for block in plan.blocks if any(tile.agent == device.name for tile in block.tiles)]
            weights = [weight_bytes(network, network.block_ops(block.first, block.last)) for block in mine]
            if plan.tail_agent == device.name:
                most -= tail_memory_bytes(network)
            if sum(weights) < most * FILLED:
                rows = max(_share(network, block, device.name) for block in mine)
                shares[number] = min(shares[number], rows) * SHRINK
            else:
                units[number] = _units_within(network, units[number], most * FILLED)
        return Limits(tuple(units), tuple(shares))


def _share(network: Network, block: Block, agent: str) -> float:
    """The part of a block's reference map that is the agent's tile."""
    whole = Region.whole(network.graph.tensors[network.units[block.last].reference])
    return sum(tile.region.area for tile in block.tiles if tile.agent == agent) / whole.area


def _units_within(network: Network, before: int, most: float) -> int:
    """The most first units whose weights fit, but fewer than `before`."""
    total, count = 0, 0
    for unit in network.units[: max(0, before - 1)]:
        total += weight_bytes(network, unit.ops)
        if total > most:
            break
        count += 1
    return count


def fits(network: Network, plan: Plan, group: Group) -> bool:
    """Whether every agent has the memory for its part of the plan."""
    limits = {device.name: device.memory_bytes for device in group.devices}
    if all(limits[name] is None for name in plan.agents):
        return True
    needed = plan_memory_bytes(network, plan)
    return all((most := limits[name]) is None or size <= most for name, size in needed.items())


def _tensor_bytes(network: Network, tensor: int) -> int:
    """Bytes of a tensor; 0 for what travels nowhere and has no fixed size (strings)."""
    model = network.graph.tensors[tensor]
    if model.data is not None:
        return int(model.data.size)
    return model.nbytes if model.dtype in NUMPY_DTYPES else 0


def _pixel_bytes(network: Network, tensor: int) -> int:
    """Bytes of one pixel of a feature map."""
    model = network.graph.tensors[tensor]
    return model.nbytes // whole_or_flat(model).area


def _peak(network: Network, ops: Sequence[int], size: Mapping[int, int], leaving: set[int]) -> int:
    """The most bytes of maps that are live at once while the ops run in order."""
    last_read: dict[int, int] = {}
    for position, op in enumerate(ops):
        for tensor in network.graph.ops[op].inputs:
            last_read[tensor] = position
    live = sum(size[t] for t in network.reads(tuple(ops)) if t in size)
    peak = live
    for position, op in enumerate(ops):
        made = [t for t in network.graph.ops[op].outputs if t in size]
        live += sum(size[t] for t in made)
        peak = max(peak, live)
        done = {t for t in (*network.graph.ops[op].inputs, *made) if t in size and t not in leaving}
        live -= sum(size[t] for t in done if last_read.get(t, position) == position)
    return peak


def too_little_memory(network: Network) -> AgentError:
    """That no plan fits the devices' memory."""
    size = weight_bytes(network, (op for op in range(len(network.graph.ops)) if op not in network.constant_ops))
    return AgentError(
        f"no plan fits the agents' memory (the network has {size / 1e6:.0f} MB of weights); "
        "add devices, or raise their memory limits"
    )
