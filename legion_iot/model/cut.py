"""Cut a (block, tile) out of a network as a static `.tflite` sub-model, and the tail as another.

A tile's sub-model computes given regions of the block's output tensors from regions of its input tensors, and nothing
else. Going back over the block, each op's output region tells the input regions it needs (`geometry`); where two ops
read one tensor, the hull of their needs is computed once and the smaller one is a SLICE of it. Going forward, every op
is written with static shapes in the form that gives the same bits as the whole model: SAME padding becomes a PAD on the
sides where the tile touches the image's border, followed by the op with VALID padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import ModelError
from legion_iot.model.blocks import Network, region_flops
from legion_iot.model.geometry import HEIGHT, SAME, WIDTH, ClippedWindow, Interval, Need, Region
from legion_iot.model.graph import Graph, Op, Tensor
from legion_iot.model.locality import BINARY, slice_bounds

VALID = 1  # Padding of the TFLite schema


@dataclass(frozen=True, slots=True, eq=False)
class SubModel:
    """A static sub-model: its graph, and which region of which tensor of the network each input and output is."""

    graph: Graph
    inputs: tuple[tuple[int, Region], ...]
    outputs: tuple[tuple[int, Region], ...]


def tile_regions(network: Network, ops: Sequence[int], wanted: Mapping[int, Region]) -> dict[int, Region]:
    """For every feature map that takes part: the region a tile computes or, for what it only reads, needs.

    `wanted` are the regions of the block's output tensors. Regions are empty for nothing at all, never negative.
    """
    needed = dict(wanted)
    for index in reversed(ops):
        op, geometry = network.graph.ops[index], network.geometries[index]
        asked = [needed[t] for t in op.outputs if t in needed and needed[t].area]
        if not asked:
            continue
        produced = asked[0]
        for other in asked[1:]:
            produced = produced.hull(other)
        for tensor in op.outputs:
            needed[tensor] = produced
        source = Region(geometry.rows.need(produced.rows).source, geometry.columns.need(produced.columns).source)
        for position in geometry.maps:
            tensor = op.inputs[position]
            needed[tensor] = needed[tensor].hull(source) if tensor in needed else source
    return needed


def tile_inputs(network: Network, ops: Sequence[int], wanted: Mapping[int, Region]) -> dict[int, Region]:
    """The regions of earlier feature maps that a tile needs, without building its sub-model."""
    regions = tile_regions(network, ops, wanted)
    return {tensor: regions[tensor] for tensor in network.reads(tuple(ops)) if tensor in regions}


def tile_flops(network: Network, ops: Sequence[int], wanted: Mapping[int, Region]) -> int:
    """Floating point operations of a tile, redundant halo rows included."""
    regions, graph = tile_regions(network, ops, wanted), network.graph
    made = [(graph.ops[index], regions.get(graph.ops[index].outputs[0])) for index in ops]
    return sum(region_flops(graph, op, region) for op, region in made if region is not None)


def block_flops_from_each_start(network: Network, last: int, region: Region) -> list[int]:
    """Floating point operations of the tile `region` of unit `last`, for each first unit 0..last of its block.

    Redundant halo rows are included. One walk back over the trunk serves all starts.
    """
    graph = network.graph
    needed = {network.units[last].reference: region}
    totals, total = [0] * (last + 1), 0
    for unit in reversed(network.units[: last + 1]):
        needed.update(tile_regions(network, unit.ops, needed))
        for index in unit.ops:
            produced = needed.get(graph.ops[index].outputs[0])
            if produced is not None:
                total += region_flops(graph, graph.ops[index], produced)
        totals[unit.index] = total
    return totals


def cut_tile(network: Network, ops: Sequence[int], wanted: Mapping[int, Region]) -> SubModel:
    """The sub-model that computes `wanted` (tensor → region inside the image, not empty) of the block `ops`."""
    wanted = {tensor: region for tensor, region in wanted.items() if region.area}
    if not wanted:
        raise ModelError("a tile without a single row has no sub-model; leave the device out of the block")
    return _TileBuilder(network, ops, wanted).build()


def cut_tail(network: Network) -> SubModel:
    """Everything after the trunk as one sub-model, on whole tensors; it computes the outputs the trunk does not."""
    made = {tensor for op in network.tail for tensor in network.graph.ops[op].outputs}
    outputs = [tensor for tensor in network.graph.outputs if tensor in made]
    return _extract(network, network.tail, outputs)


def _extract(network: Network, ops: Sequence[int], outputs: Sequence[int]) -> SubModel:
    """The ops as they are, with the tensors and constant ops they need."""
    graph = network.graph
    inputs = network.reads(tuple(ops))
    chosen = sorted({*ops, *_constant_ops_for(network, ops)})
    kept = sorted({t for op in chosen for t in (*graph.ops[op].inputs, *graph.ops[op].outputs) if t >= 0} | set(inputs))
    local = {tensor: position for position, tensor in enumerate(kept)} | {-1: -1}
    sub = Graph(
        tensors=tuple(graph.tensors[t] for t in kept),
        ops=tuple(
            dataclasses.replace(
                graph.ops[op],
                inputs=tuple(local[t] for t in graph.ops[op].inputs),
                outputs=tuple(local[t] for t in graph.ops[op].outputs),
                intermediates=(),
            )
            for op in chosen
        ),
        inputs=tuple(local[t] for t in inputs),
        outputs=tuple(local[t] for t in outputs),
        name=graph.name,
    )
    whole = [(t, whole_or_flat(graph.tensors[t])) for t in (*inputs, *outputs)]
    return SubModel(sub, tuple(whole[: len(inputs)]), tuple(whole[len(inputs) :]))


def whole_or_flat(tensor: Tensor) -> Region:
    """All of a tensor: rows × columns of a feature map, one row of elements for anything else."""
    if len(tensor.shape) == 4 and tensor.shape[0] == 1:
        return Region.whole(tensor)
    return Region(Interval(0, 1), Interval(0, int(np.prod(tensor.shape, dtype=np.int64))))


def _constant_ops_for(network: Network, ops: Sequence[int]) -> set[int]:
    """The constant ops whose results `ops` read, directly or through other constant ops."""
    producers = network.graph.producers()
    found: set[int] = set()
    pending = [t for op in ops for t in network.graph.ops[op].inputs]
    while pending:
        producer = producers.get(pending.pop())
        if producer in network.constant_ops and producer not in found:
            found.add(producer)
            pending += network.graph.ops[producer].inputs
    return found


class _TileBuilder:
    """Writes the ops of one tile, forward, with the regions found by going backward."""

    def __init__(self, network: Network, ops: Sequence[int], wanted: Mapping[int, Region]) -> None:
        self.network = network
        self.graph = network.graph
        self.ops = ops
        self.wanted = wanted
        self.regions = tile_regions(network, ops, wanted)
        self.tensors: list[Tensor] = []
        self.written: list[Op] = []
        self.held: dict[int, tuple[int, Region]] = {}  # feature map → its local tensor and the region that holds
        self.constants: dict[int, int] = {}  # constant of the network → local tensor
        self.slices: dict[tuple[int, Region], int] = {}

    def build(self) -> SubModel:
        inputs = [t for t in self.network.reads(tuple(self.ops)) if t in self.regions]
        for tensor in inputs:
            self.held[tensor] = (self._map(tensor, self.regions[tensor]), self.regions[tensor])
        first = len(inputs)
        for index in self.ops:
            if self.graph.ops[index].outputs[0] in self.regions:
                self._write(index)
        outputs = []
        for tensor, region in self.wanted.items():
            local = self._view(tensor, region)
            # The runtime wants an output that some op writes, and no tensor twice.
            outputs.append(
                self._slice(local, self._origin(region), region) if local < first or local in outputs else local
            )
        graph = Graph(tuple(self.tensors), tuple(self.written), tuple(range(first)), tuple(outputs))
        return SubModel(graph, tuple((t, self.regions[t]) for t in inputs), tuple(self.wanted.items()))

    # --- tensors ---

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _map(self, tensor: int, region: Region, channels: int | None = None) -> int:
        """A local feature map with the dtype and quantisation of the network's."""
        model = self.graph.tensors[tensor]
        shape = (1, len(region.rows), len(region.columns), model.shape[-1] if channels is None else channels)
        return self._add(Tensor(model.name, shape, model.dtype, None, model.quantization))

    def _literal(self, values: Sequence[int] | npt.NDArray[Any], shape: tuple[int, ...] | None = None) -> int:
        array = np.asarray(values, dtype=np.int32)
        return self._add(
            Tensor(f"literal_{len(self.tensors)}", shape or array.shape, "int32", array.ravel().view(np.uint8))
        )

    def _constant(self, tensor: int) -> int:
        """The local copy of a constant, together with the constant ops that compute it."""
        if tensor < 0:
            return -1
        if tensor not in self.constants:
            model = self.graph.tensors[tensor]
            if not model.is_constant:
                producer = self.graph.ops[self.graph.producers()[tensor]]
                inputs = tuple(self._constant(t) for t in producer.inputs)
                for output in producer.outputs:
                    self.constants[output] = self._add(self.graph.tensors[output])
                outputs = tuple(self.constants[t] for t in producer.outputs)
                self.written.append(dataclasses.replace(producer, inputs=inputs, outputs=outputs, intermediates=()))
            else:
                self.constants[tensor] = self._add(model)
        return self.constants[tensor]

    def _spread_constant(self, tensor: int, region: Region) -> int:
        """A constant that meets a feature map element by element: of its rows and columns, those of the region."""
        if tensor < 0:
            return -1
        model = self.graph.tensors[tensor]
        rank = len(model.shape)
        height = model.shape[rank - 3] if rank >= 3 else 1
        width = model.shape[rank - 2] if rank >= 2 else 1
        if height == 1 and width == 1:
            return self._constant(tensor)
        if not model.is_constant:
            raise ModelError(f"constant {model.name!r} has rows and is computed by an op; that form cannot be tiled")
        index: list[slice] = [slice(None)] * rank
        if height > 1:
            index[rank - 3] = slice(region.rows.start, region.rows.stop)
        if width > 1:
            index[rank - 2] = slice(region.columns.start, region.columns.stop)
        part = np.ascontiguousarray(model.values()[tuple(index)])
        data = part.reshape(-1).view(np.uint8)
        return self._add(dataclasses.replace(model, shape=part.shape, data=data, shape_signature=()))

    def _origin(self, region: Region) -> tuple[int, int]:
        return region.rows.start, region.columns.start

    def _view(self, tensor: int, region: Region) -> int:
        """The local tensor that holds exactly `region` of a feature map."""
        local, held = self.held[tensor]
        if held == region:
            return local
        if (tensor, region) not in self.slices:
            self.slices[tensor, region] = self._slice(local, self._origin(held), region)
        return self.slices[tensor, region]

    def _slice(self, local: int, origin: tuple[int, int], region: Region) -> int:
        source = self.tensors[local]
        size = (1, len(region.rows), len(region.columns), source.shape[-1])
        begin = (0, region.rows.start - origin[0], region.columns.start - origin[1], 0)
        output = self._add(dataclasses.replace(source, shape=size))
        version = {"int8": 2, "uint8": 2, "int16": 4}.get(source.dtype, 1)
        self.written.append(
            Op("SLICE", (local, self._literal(begin), self._literal(size)), (output,), "SliceOptions", version=version)
        )
        return output

    # --- ops ---

    def _write(self, index: int) -> None:
        op, geometry = self.graph.ops[index], self.network.geometries[index]
        produced = self.regions[op.outputs[0]]
        rows, columns = geometry.rows.need(produced.rows), geometry.columns.need(produced.columns)
        source, result = Region(rows.source, columns.source), Region(rows.result, columns.result)
        inputs = [
            self._view(t, source) if p in geometry.maps else self._parameter(op, p, produced)
            for p, t in enumerate(op.inputs)
        ]
        op = self._localised(op, geometry, inputs, rows, columns, result)
        if op.kind in ("PAD", "PADV2", "MIRROR_PAD") and not self._pads_anything(op, inputs):
            self.held[op.outputs[0]] = (inputs[0], result)
        else:
            outputs = [self._map(t, result) for t in op.outputs]
            self.written.append(dataclasses.replace(op, inputs=tuple(inputs), outputs=tuple(outputs), intermediates=()))
            for tensor, local in zip(op.outputs, outputs, strict=True):
                self.held[tensor] = (local, result)

    def _parameter(self, op: Op, position: int, region: Region) -> int:
        if op.kind in SPREADING:
            return self._spread_constant(op.inputs[position], region)
        if (op.kind, position) in _REWRITTEN:
            return -1  # written anew for the tile's sizes
        return self._constant(op.inputs[position])

    def _localised(self, op: Op, geometry: Any, inputs: list[int], rows: Need, columns: Need, result: Region) -> Op:
        """`op` with the options of its tile; replaces in `inputs` what depends on the tile's sizes."""
        size = (len(result.rows), len(result.columns))
        if op.kind in ("PAD", "PADV2", "MIRROR_PAD"):
            pads = self.graph.tensors[op.inputs[1]].values().reshape(4, 2).astype(np.int32).copy()
            pads[HEIGHT], pads[WIDTH] = (rows.before, rows.after), (columns.before, columns.after)
            inputs[1] = self._literal(pads)
        elif op.kind in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
            if any((rows.before, rows.after, columns.before, columns.after)):
                inputs[0] = self._padded(inputs[0], rows, columns)
            inputs[1] = self._literal(size)
        elif op.kind in ("SLICE", "STRIDED_SLICE"):
            op = self._localised_slice(op, inputs)
        elif op.kind == "TRANSPOSE_CONV":
            channels = self.graph.tensors[op.outputs[0]].shape[-1]
            inputs[0] = self._literal((1, *size, channels))
            op = _with_options(op, padding=VALID)
        elif op.options.get("padding") == SAME and not isinstance(geometry.rows, ClippedWindow):
            if any((rows.before, rows.after, columns.before, columns.after)):
                inputs[0] = self._padded(inputs[0], rows, columns)
            op = _with_options(op, padding=VALID)
        return op

    def _localised_slice(self, op: Op, inputs: list[int]) -> Op:
        """The rows and columns to keep are the tile's already; what is left are steps, and a choice of channels."""
        begin, end, steps = slice_bounds(self.graph, op)
        rows, columns = self.tensors[inputs[0]].shape[1:3]
        inputs[1] = self._literal((0, 0, 0, begin[3]))
        if op.kind == "SLICE":
            inputs[2] = self._literal((1, rows, columns, end[3] - begin[3]))
            return op
        inputs[2] = self._literal((1, rows, columns, end[3]))
        inputs[3] = self._literal(steps)
        return _with_options(op, begin_mask=0, end_mask=0)

    def _padded(self, local: int, rows: Need, columns: Need) -> int:
        """`local` with what SAME padding adds at the image's border, in the value that changes nothing."""
        source = self.tensors[local]
        height = source.shape[HEIGHT] + rows.before + rows.after
        width = source.shape[WIDTH] + columns.before + columns.after
        output = self._add(dataclasses.replace(source, shape=(1, height, width, source.shape[-1])))
        pads = self._literal(np.array(((0, 0), (rows.before, rows.after), (columns.before, columns.after), (0, 0))))
        version = {"int8": 2, "int16": 3}.get(source.dtype, 1)
        self.written.append(Op("PAD", (local, pads), (output,), "PadOptions", version=version))
        return output

    def _pads_anything(self, op: Op, inputs: list[int]) -> bool:
        return bool(self.tensors[inputs[1]].values().any())


# Constants of these ops meet the feature map element by element.
SPREADING = BINARY | {"PRELU", "CONCATENATION"}

# (op, position) of parameters that depend on the tile's sizes.
_REWRITTEN = frozenset({
    ("PAD", 1), ("PADV2", 1), ("MIRROR_PAD", 1), ("RESIZE_BILINEAR", 1), ("RESIZE_NEAREST_NEIGHBOR", 1),
    ("TRANSPOSE_CONV", 0), ("SLICE", 1), ("SLICE", 2), ("STRIDED_SLICE", 1), ("STRIDED_SLICE", 2), ("STRIDED_SLICE", 3),
})  # fmt: skip


def _with_options(op: Op, **changes: Any) -> Op:
    return dataclasses.replace(op, options=MappingProxyType({**op.options, **changes}))
