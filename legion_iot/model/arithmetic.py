"""What a network costs: its multiply-accumulates and its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

from legion_iot.model.graph import Graph, Op

# Tensor positions of the weights; every other op's arithmetic is negligible beside these.
_WEIGHTS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}
_UNPACKING = {"DEQUANTIZE", "DENSIFY"}


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
    if op.kind not in _WEIGHTS:
        return 0
    kernel = graph.tensors[op.inputs[1]].shape
    if op.kind == "FULLY_CONNECTED":
        rows = math.prod(graph.tensors[op.outputs[0]].shape[:-1])
        return rows * math.prod(kernel)
    if op.kind == "TRANSPOSE_CONV":
        batch, height, width, _ = graph.tensors[op.inputs[2]].shape
        return batch * height * width * math.prod(kernel)
    batch, height, width, channels = graph.tensors[op.outputs[0]].shape
    # A depthwise kernel is [1, h, w, channels], a full one [channels, h, w, depth].
    per_output = math.prod(kernel[1:3]) if op.kind == "DEPTHWISE_CONV_2D" else math.prod(kernel[1:])
    return batch * height * width * channels * per_output
