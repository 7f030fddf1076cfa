"""How much memory tiles and plans need on each device: an estimate, from weights and feature maps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from legion_iot.errors import AgentError
from legion_iot.model.blocks import Network
from legion_iot.model.cut import tile_regions, whole_or_flat
from legion_iot.model.geometry import Region
from legion_iot.model.graph import NUMPY_DTYPES, Graph, Op
from legion_iot.planning.plan import Block, Plan, tile_outputs
from legion_iot.planning.problem import Group, Problem

FILLED = 0.8  # of a device's memory: beyond it, weights leave too little room for feature maps
SHRINK = 0.7  # of a device's rows are left where its feature maps need too much
REQUESTS = 4  # under way at once
_POINTER = 8  # bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a sub-model takes in bytes: `loaded` once, and `moving`, what comes in and goes out, for each request."""

    loaded: int
    moving: int


def footprint(network: Network, ops: Sequence[int], wanted: Mapping[int, Region], *, xnnpack: bool = True) -> Footprint:
    """Of the ops as a sub-model that makes the regions `wanted`, by tensor.

    Loaded are the weights, of which XNNPACK keeps a copy of its own, while the builtin kernels read the file's pages;
    the feature maps that are there at once, since the arena reuses the room of what nothing reads any more; and what
    slides a window over a map needs to find its elements: XNNPACK keeps pointers to them for each pixel of the output
    (`_pointer_bytes`), the builtin convolutions a copy of them all, while they run.
    """
    graph = network.graph
    regions = tile_regions(network, ops, {tensor: part for tensor, part in wanted.items() if part.area})
    size = {tensor: _pixel_bytes(network, tensor) * part.area for tensor, part in regions.items()}
    made = [index for index in ops if graph.ops[index].outputs[0] in regions]  # what a tile has no rows of is not in it
    windows = {}
    for index in made:
        op = graph.ops[index]
        pixel = _pointer_bytes(graph, op) if xnnpack else _copied_bytes(network, op)
        windows[index] = regions[op.outputs[0]].area * pixel
    held = weight_bytes(network, made) + (_unpacked_bytes(network, made) + sum(windows.values()) if xnnpack else 0)
    staying = {tensor for tensor in (*network.reads(tuple(ops)), *wanted) if tensor in size}
    peak = _peak(network, ops, size, staying, {} if xnnpack else windows)
    return Footprint(held + peak, sum(size[tensor] for tensor in staying))


def tail_footprint(network: Network) -> Footprint:
    """Of the tail: its weights, and the tensors it has at once."""
    made = [tensor for op in network.tail for tensor in network.graph.ops[op].outputs]
    size = {t: _tensor_bytes(network, t) for t in (*network.reads(network.tail), *made)}
    held = weight_bytes(network, network.tail) + _unpacked_bytes(network, network.tail)
    staying = {tensor for tensor in (*network.reads(network.tail), *network.graph.outputs) if tensor in size}
    return Footprint(held + _peak(network, network.tail, size, staying, {}), sum(size[tensor] for tensor in staying))


def tile_memory_bytes(network: Network, first: int, last: int, region: Region) -> int:
    """Bytes that a tile of units `first` to `last` takes once it is loaded."""
    return _tile_footprint(network, first, last, region).loaded


def _tile_footprint(network: Network, first: int, last: int, region: Region) -> Footprint:
    wanted = tile_outputs(network, Block(first, last, ()), region)
    return footprint(network, network.block_ops(first, last), wanted)


def tail_memory_bytes(network: Network) -> int:
    """Bytes that the tail takes once it is loaded."""
    return tail_footprint(network).loaded


def _pointer_bytes(graph: Graph, op: Op) -> int:
    """Bytes that XNNPACK keeps for each pixel of an op's output, to find the elements of the input it is made of.

    Where windows overlap, those of depthwise convolutions and pools share pointers along a row. Source: XNNPACK,
    src/indirection.c.
    """
    match op.kind:
        case "CONV_2D" | "DEPTHWISE_CONV_2D" | "TRANSPOSE_CONV":
            height, width = graph.tensors[op.inputs[1]].shape[1:3]
        case "MAX_POOL_2D" | "AVERAGE_POOL_2D":
            height, width = int(op.options["filter_height"]), int(op.options["filter_width"])
        case "RESIZE_BILINEAR":
            return 4 * _POINTER + 8  # of the neighbours, and two weights
        case _:
            return 0
    rows, columns = int(op.options["stride_h"]), int(op.options["stride_w"])
    match op.kind:
        case "TRANSPOSE_CONV":
            return math.ceil(height * width / (rows * columns)) * _POINTER
        case "CONV_2D":
            return 0 if height == width == rows == columns == 1 else height * width * _POINTER
        case _:
            return height * min(width, columns) * _POINTER


def _copied_bytes(network: Network, op: Op) -> int:
    """Bytes that the builtin kernels copy for each pixel of a convolution's output; others copy nothing."""
    if op.kind != "CONV_2D":
        return 0
    height, width = network.graph.tensors[op.inputs[1]].shape[1:3]
    return height * width * _pixel_bytes(network, op.inputs[0])


def _unpacked_bytes(network: Network, ops: Sequence[int]) -> int:
    """Bytes of weights that other ops unpack from the form in which the file holds them."""
    tensors = network.graph.tensors
    read = {t for op in ops for t in network.graph.ops[op].inputs if t in network.constants and tensors[t].data is None}
    return sum(_tensor_bytes(network, tensor) for tensor in read)


def weight_bytes(network: Network, ops: Iterable[int]) -> int:
    """Bytes of the constants that the ops read, each once."""
    graph = network.graph
    read = {tensor for op in ops for tensor in graph.ops[op].inputs if tensor in network.constants}
    return sum(_tensor_bytes(network, tensor) for tensor in read)


def needed_bytes(footprints: Collection[Footprint]) -> int:
    """Bytes of all these sub-models, loaded at once, and of the requests under way, each at one of them."""
    return sum(each.loaded for each in footprints) + REQUESTS * max((each.moving for each in footprints), default=0)


def network_bytes(network: Network) -> int:
    """Bytes of all weights and all feature maps of a network."""
    return sum(_tensor_bytes(network, tensor) for tensor in range(len(network.graph.tensors)))


def plan_memory_bytes(network: Network, plan: Plan) -> Mapping[str, int]:
    """Bytes that each agent of a plan needs: all its tiles are loaded at once, parts and replicas each on their own."""
    parts: defaultdict[str, list[Footprint]] = defaultdict(list)
    for turn in plan.turns:
        for block in turn.blocks:
            for tile in block.tiles:
                for region in tile.goes:
                    parts[tile.agent].append(_tile_footprint(network, block.first, block.last, region))
        if network.tail:
            parts[turn.tail_agent].append(tail_footprint(network))
    return {agent: needed_bytes(each) for agent, each in parts.items()}


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


def _peak(
    network: Network, ops: Sequence[int], size: Mapping[int, int], staying: set[int], while_running: Mapping[int, int]
) -> int:
    """The most bytes of maps that are there at once while the ops run in order, and of what each op needs to run.

    What comes in and goes out is `staying`: it has room of its own all the time.
    """
    last_read: dict[int, int] = {}
    for position, op in enumerate(ops):
        for tensor in network.graph.ops[op].inputs:
            last_read[tensor] = position
    live = peak = sum(size[tensor] for tensor in staying)
    for position, op in enumerate(ops):
        made = [t for t in network.graph.ops[op].outputs if t in size and t not in staying]
        live += sum(size[t] for t in made)
        peak = max(peak, live + while_running.get(op, 0))
        done = {t for t in (*network.graph.ops[op].inputs, *made) if t in size and t not in staying}
        live -= sum(size[t] for t in done if last_read.get(t, position) == position)
    return peak


def too_little_memory(network: Network) -> AgentError:
    """That no plan fits the devices' memory."""
    size = weight_bytes(network, (op for op in range(len(network.graph.ops)) if op not in network.constant_ops))
    return AgentError(
        f"no plan fits the agents' memory (the network has {size / 1e6:.0f} MB of weights); "
        "add devices, or raise their memory limits"
    )
