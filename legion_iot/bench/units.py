"""What each unit of a network costs, for people and planners to look at."""

from __future__ import annotations

from dataclasses import dataclass

from legion_iot.model.blocks import Network
from legion_iot.model.cut import tile_regions
from legion_iot.model.geometry import Interval, Region


@dataclass(frozen=True, slots=True)
class UnitDescription:
    """One unit. `receptive_field` are the rows and columns of the network's input that one output pixel depends on,

    as far as they lie inside the image; how it grows tells how large halos of fused layers become.
    """

    index: int
    ops: tuple[str, ...]
    output_shape: tuple[int, ...]
    mflop: float
    weight_bytes: int
    live_tensors: int
    live_bytes: int
    receptive_field: tuple[int, int]


def describe_units(network: Network) -> list[UnitDescription]:
    """All units of the trunk, in order."""
    graph = network.graph
    return [
        UnitDescription(
            unit.index,
            tuple(graph.ops[op].label for op in unit.ops),
            graph.tensors[unit.reference].shape,
            unit.flops / 1e6,
            _weight_bytes(network, unit.ops),
            len(unit.live),
            unit.live_bytes,
            _receptive_field(network, unit.index),
        )
        for unit in network.units
    ]


def _weight_bytes(network: Network, ops: tuple[int, ...]) -> int:
    """Stored bytes of the constants the ops read, directly or behind constant ops."""
    graph, producers = network.graph, network.graph.producers()
    pending = [t for op in ops for t in graph.ops[op].inputs if t in network.constants]
    seen: set[int] = set()
    total = 0
    while pending:
        tensor = pending.pop()
        if tensor in seen or tensor < 0:
            continue
        seen.add(tensor)
        data = graph.tensors[tensor].data
        if data is not None:
            total += data.size
        elif tensor in producers:
            pending += graph.ops[producers[tensor]].inputs
    return total


def _receptive_field(network: Network, last: int) -> tuple[int, int]:
    """Rows and columns of the first input that the middle pixel of the unit's output depends on."""
    unit = network.units[last]
    whole = Region.whole(network.graph.tensors[unit.reference])
    row, column = len(whole.rows) // 2, len(whole.columns) // 2
    pixel = Region(Interval(row, row + 1), Interval(column, column + 1))
    regions = tile_regions(network, network.block_ops(0, last), {unit.reference: pixel})
    field = regions.get(network.graph.inputs[0])
    return (len(field.rows), len(field.columns)) if field else (0, 0)
