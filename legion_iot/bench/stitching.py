"""Run a network as tiles on this machine and stitch them, beside the whole model.

The expected values come from the runtime alone: the network's own file, once as it is and once with the tensors at the
cuts as further outputs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.model import tflite
from legion_iot.model.blocks import Network
from legion_iot.model.cut import SubModel, cut_tail, cut_tile
from legion_iot.model.geometry import HEIGHT, WIDTH, Interval, Region
from legion_iot.model.graph import Tensor
from legion_iot.runtime.exchange import wire_between
from legion_iot.wire.messages import Fragment
from legion_iot.wire.tensors import Assembly, as_map, bounds, fragments, read_fragment, region_of
from legion_iot_agent.interpreter import Interpreter

Array = npt.NDArray[Any]
Fractions = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a block is divided: bounds of the tiles' rows and columns as fractions of the map, from 0 to 1.

    Bounds may coincide, also after rounding: the tile between them is then empty.
    """

    rows: Fractions
    columns: Fractions = (0.0, 1.0)

    @classmethod
    def even(cls, rows: int, columns: int = 1) -> Tiling:
        return cls(tuple(i / rows for i in range(rows + 1)), tuple(i / columns for i in range(columns + 1)))

    def regions(self, tensor: Tensor) -> list[Region]:
        """The region of each tile, row by row; together they partition the map."""
        rows = _bounds(self.rows, tensor.shape[HEIGHT])
        columns = _bounds(self.columns, tensor.shape[WIDTH])
        return [Region(r, c) for r in rows for c in columns]


def _bounds(fractions: Fractions, size: int) -> list[Interval]:
    edges = [round(fraction * size) for fraction in fractions]
    return [Interval(start, stop) for start, stop in itertools.pairwise(edges)]


class Bench:
    """Runs parts of one network from files below `directory`, on one kernel path."""

    def __init__(self, network: Network, directory: Path, xnnpack: bool = True) -> None:
        self.network = network
        self._directory = directory
        self._xnnpack = xnnpack

    def run_whole(self, inputs: Sequence[Array], watched: Sequence[int] = ()) -> tuple[list[Array], dict[int, Array]]:
        """The whole model's outputs, and the values of `watched` tensors, on the network's inputs."""
        graph = self.network.graph
        path = self._directory / "whole.tflite"
        tflite.write_file(dataclasses.replace(graph, outputs=(*graph.outputs, *watched)), path)
        results = self.run_file(path, inputs)
        count = len(graph.outputs)
        return results[:count], dict(zip(watched, results[count:], strict=True))

    def run_file(self, path: Path, inputs: Sequence[Array]) -> list[Array]:
        """The outputs of a model file."""
        return Interpreter(path, xnnpack=self._xnnpack).run(inputs)

    def run_block(self, ops: tuple[int, ...], tiling: Tiling, values: Mapping[int, Array]) -> dict[int, Array]:
        """The block's output tensors, stitched from tiles that read their inputs from `values` (whole tensors)."""
        tensors = self.network.graph.tensors
        made = self.network.makes(ops)
        stitched = {t: np.zeros(tensors[t].shape, tensors[t].numpy_dtype) for t in made}
        tiles = zip(*(tiling.regions(tensors[t]) for t in made), strict=True)
        for regions in tiles:
            wanted = {t: region for t, region in zip(made, regions, strict=True) if region.area}
            if wanted:
                sub = cut_tile(self.network, ops, wanted)
                for (tensor, region), part in zip(sub.outputs, self.run_sub_model(sub, values), strict=True):
                    stitched[tensor][_place(region)] = part
        return stitched

    def run_tail(self, values: Mapping[int, Array]) -> dict[int, Array]:
        """The outputs the tail makes, from whole tensors."""
        if not self.network.tail:
            return {}
        tail = cut_tail(self.network)
        results = self.run_file(self._write(tail), [values[t] for t, _ in tail.inputs])
        return {tensor: result for (tensor, _), result in zip(tail.outputs, results, strict=True)}

    def run_sub_model(self, sub: SubModel, values: Mapping[int, Array]) -> list[Array]:
        parts = [np.ascontiguousarray(values[tensor][_place(region)]) for tensor, region in sub.inputs]
        return self.run_file(self._write(sub), parts)

    def _write(self, sub: SubModel) -> Path:
        path = self._directory / "part.tflite"
        tflite.write_file(sub.graph, path)
        return path


def over_the_wire(values: Array, wire: str) -> Array:
    """A whole tensor as it comes out of the fragments that carry it from one agent to another."""
    form = wire_between(str(values.dtype), "another agent", wire)
    if not form:
        return values
    held = as_map(values)
    region = Region(Interval(0, held.shape[0]), Interval(0, held.shape[1]))
    header = Fragment("", 1, 0, 0, 0, bounds(region), held.shape[2], str(held.dtype), form)
    whole = Assembly(region, held.shape[2], header.dtype)
    for piece in fragments(header, held, region):
        whole.put(region_of(piece.header.region), read_fragment(piece.header, piece.body))
    return whole.values.reshape(values.shape)


def _place(region: Region) -> tuple[slice, slice, slice]:
    """The region as an index into a feature map of shape (1, height, width, channels)."""
    rows, columns = region.rows, region.columns
    return slice(None), slice(rows.start, rows.stop), slice(columns.start, columns.stop)
