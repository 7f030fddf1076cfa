"""What networks and their ops cost: multiply-accumulates, floating point operations, parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

from legion_iot.model.graph import Graph, Op

# Tensor positions of the weights; every other op's arithmetic is negligible beside these.
_WEIGHTS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}
_UNPACKING = {"DEQUANTIZE", "DENSIFY"}

# Devices are not equally good at all arithmetic: a depthwise convolution reads as much for a tenth of the work.
ARITHMETIC_CLASSES = ("conv", "depthwise", "dense", "other")
_CLASSES = {"CONV_2D": "conv", "TRANSPOSE_CONV": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}


def arithmetic_class(kind: str) -> str:
    """Which of `ARITHMETIC_CLASSES` an op of this kind belongs to."""
    return _CLASSES.get(kind, "other")


def multiply_accumulates(graph: Graph) -> int:
    """Multiply-accumulates of one run: convolutions and fully connected layers; a GFLOP is half a billion of them."""
    return sum(_op_macs(graph, op) for op in graph.ops)


def parameters(graph: Graph) -> int:
    """Trained numbers: the elements of all weights and biases, however they are stored."""
    producers = graph.producers()
    taken: set[int] = set()
    for op in graph.ops:
        if op.kind in _WEIGHTS:
            origins = (_origin(graph, producers, index) for index in op.inputs[1:] if index >= 0)
            taken.update(index for index in origins if graph.tensors[index].is_constant)
    return sum(math.prod(graph.tensors[index].shape) for index in taken)


def _origin(graph: Graph, producers: Mapping[int, int], tensor: int) -> int:
    """Where a constant is stored that ops unpack before its use."""
    while tensor in producers and graph.ops[producers[tensor]].kind in _UNPACKING:
        tensor = graph.ops[producers[tensor]].inputs[0]
    return tensor


def _op_macs(graph: Graph, op: Op) -> int:
    if op.kind == "TRANSPOSE_CONV":  # each input element meets the whole kernel, also where the output is cropped
        return math.prod(graph.tensors[op.inputs[2]].shape[:3]) * math.prod(graph.tensors[op.inputs[1]].shape)
    return math.prod(graph.tensors[op.outputs[0]].shape) * products_per_output(graph, op)


def products_per_output(graph: Graph, op: Op) -> int:
    """Multiply-accumulates for one element of the op's output; 0 where it has no weights."""
    if op.kind not in _WEIGHTS:
        return 0
    kernel = graph.tensors[op.inputs[1]].shape
    if op.kind == "DEPTHWISE_CONV_2D":
        return math.prod(kernel[1:3])  # [1, height, width, channels]
    products = math.prod(kernel[1:])  # [channels, height, width, depth], or [units, depth]
    if op.kind == "TRANSPOSE_CONV":
        return products // max(1, int(op.options["stride_h"]) * int(op.options["stride_w"]))
    return products


def op_flops(graph: Graph, op: Op, elements: int) -> int:
    """Floating point operations for that many elements of the op's output; a multiply-accumulate counts as two.

    Pooling counts its window, anything else one for each element: their time is small, but not nothing.
    """
    if op.kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        return elements * int(op.options["filter_height"]) * int(op.options["filter_width"])
    return elements * max(1, 2 * products_per_output(graph, op))
