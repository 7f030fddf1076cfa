"""What planning has to know about the units and the tail of a network, beside their regions: work, bytes, signature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from legion_iot.model.arithmetic import ARITHMETIC_CLASSES, arithmetic_class, op_flops
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import HEIGHT
from legion_iot.model.graph import NUMPY_DTYPES, Tensor
from legion_iot.model.signatures import tail_signature, unit_signatures


@dataclass(frozen=True, slots=True)
class Layer:
    """What a unit or a tail computes, for one row of the unit's reference map or for the whole tail.

    `flops` are floating point operations by arithmetic class, `read_bytes` and `made_bytes` what comes from outside and
    what something outside needs.
    """

    signature: str
    rows: int
    flops: tuple[tuple[str, float], ...]
    read_bytes: float
    made_bytes: float

    @property
    def total(self) -> float:
        """Floating point operations, one at least."""
        return max(1.0, sum(flops for _, flops in self.flops))

    @property
    def kind(self) -> str:
        """The class with most of the arithmetic."""
        return max(self.flops, key=lambda item: item[1])[0] if self.flops else ARITHMETIC_CLASSES[-1]


@dataclass(frozen=True, slots=True)
class NetworkLayers:
    """The units and the tail of a network, as boards know them."""

    units: tuple[Layer, ...]
    tail: Layer | None

    @classmethod
    def of(cls, network: Network) -> NetworkLayers:
        signatures = unit_signatures(network)
        heights = [network.graph.tensors[unit.reference].shape[HEIGHT] for unit in network.units]
        units = tuple(
            _layer(network, signature, unit.ops, height)
            for signature, unit, height in zip(signatures, network.units, heights, strict=True)
        )
        if not network.tail:
            return cls(units, None)
        return cls(units, _layer(network, tail_signature(network), network.tail, 1))

    @property
    def by_signature(self) -> dict[str, Layer]:
        """Each different unit, and the tail."""
        return {layer.signature: layer for layer in (*self.units, *([self.tail] if self.tail else []))}


def _layer(network: Network, signature: str, ops: tuple[int, ...], rows: int) -> Layer:
    tensors = network.graph.tensors
    read, made = (sum(_nbytes(tensors[t]) for t in ts) / rows for ts in (network.reads(ops), network.makes(ops)))
    return Layer(signature, rows, _flops(network, ops, rows), read, made)


def _nbytes(tensor: Tensor) -> int:
    return tensor.nbytes if tensor.dtype in NUMPY_DTYPES else 0


def _flops(network: Network, ops: Sequence[int], rows: int) -> tuple[tuple[str, float], ...]:
    graph = network.graph
    sums: dict[str, float] = {}
    for index in ops:
        op = graph.ops[index]
        name = arithmetic_class(op.kind)
        sums[name] = sums.get(name, 0.0) + op_flops(graph, op, math.prod(graph.tensors[op.outputs[0]].shape)) / rows
    return tuple(sums.items())
