"""Units, cuts, trunk and tail of small networks whose right answer can be read off."""

from __future__ import annotations

import numpy as np
import pytest

from legion_iot.errors import ModelError
from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.graph import Graph, Op, Tensor

from .random_networks import RandomNetwork


def kinds(network: Network) -> list[list[str]]:
    return [[network.graph.ops[op].kind for op in unit.ops] for unit in network.units]


def test_a_chain_has_a_unit_per_layer_and_one_live_tensor() -> None:
    net = GraphBuilder("chain", seed=1)
    x = net.input((1, 16, 16, 3))
    x = net.max_pool(net.conv2d(x, 4, kernel=3, activation="relu"), 2)
    x = net.activation(net.conv2d(x, 4, kernel=3), "leaky_relu")
    network = divide(net.finish(x))
    assert kinds(network) == [["CONV_2D"], ["MAX_POOL_2D"], ["CONV_2D", "LEAKY_RELU"]]
    assert [len(unit.live) for unit in network.units] == [1, 1, 1]
    assert [unit.live_bytes for unit in network.units] == [4 * 16 * 16 * 4, 4 * 8 * 8 * 4, 4 * 8 * 8 * 4]
    assert network.tail == ()
    assert network.ended_by == ""


def test_a_residual_block_is_one_unit() -> None:
    net = GraphBuilder("residual", seed=1)
    x = net.conv2d(net.input((1, 16, 16, 3)), 4, kernel=3)
    y = net.conv2d(net.conv2d(x, 4, kernel=3, activation="relu"), 4, kernel=3)
    network = divide(net.finish(net.conv2d(net.add(x, y), 2)))
    assert kinds(network) == [["CONV_2D"], ["CONV_2D", "CONV_2D", "ADD"], ["CONV_2D"]]


def test_a_long_skip_does_not_stop_cuts_but_counts_at_each() -> None:
    """An encoder-decoder: the skip is live at every cut until it is read."""
    net = GraphBuilder("skip", seed=1)
    skip = net.conv2d(net.input((1, 16, 16, 3)), 4, kernel=3)
    x = skip
    for _ in range(14):
        x = net.conv2d(x, 4, kernel=3)
    network = divide(net.finish(net.conv2d(net.concat([skip, x]), 2)))
    live = [len(unit.live) for unit in network.units]
    assert live[0] == 1
    assert live[1:4] == [2, 2, 2]
    assert live[-1] == 1
    one = 4 * 16 * 16 * 4
    assert network.units[1].live_bytes == 2 * one


def test_heads_at_several_scales_stay_in_the_trunk_and_are_divided_by_the_tallest() -> None:
    net = GraphBuilder("heads", seed=1)
    a = net.conv2d(net.input((1, 32, 32, 3)), 4, kernel=3)
    b = net.conv2d(a, 4, kernel=3, stride=2)
    heads = [net.conv2d(a, 2), net.conv2d(b, 2)]
    flat = [net.reshape(h, (1, int(np.prod(net.shape(h))))) for h in heads]
    network = divide(net.finish(*flat))
    assert {network.graph.ops[op].kind for op in network.tail} == {"RESHAPE"}
    assert sum(len(unit.ops) for unit in network.units) == 4
    last = network.units[-1]
    assert len(last.live) == 2
    assert network.graph.tensors[last.reference].shape[1] == max(
        network.graph.tensors[t].shape[1] for op in last.ops for t in network.graph.ops[op].outputs
    )


def test_squeeze_and_excite_ends_the_trunk_and_says_so() -> None:
    net = GraphBuilder("squeeze", seed=1)
    x = net.conv2d(net.input((1, 16, 16, 3)), 4, kernel=3)
    network = divide(net.finish(net.softmax(net.fully_connected(net.global_mean(x), 3))))
    assert kinds(network) == [["CONV_2D"]]
    assert network.ended_by == "MEAN reduces over the whole image"


def test_an_op_that_reads_the_tail_is_in_the_tail() -> None:
    """A gate computed from the whole image, multiplied back: the multiplication cannot be in the trunk."""
    network = RandomNetwork(0, "float32", ops=0)
    source = network.maps[0]
    axes = network._constant(np.array([1, 2], np.int32))
    gate = network._map(1, 1, source.channels, "float32")
    network._emit("MEAN", (source.index, axes), (gate.index,), "ReducerOptions", keep_dims=True)
    gated = network._map(source.height, source.width, source.channels, "float32")
    network._emit("MUL", (source.index, gate.index), (gated.index,), "MulOptions", fused_activation_function=0)
    network.maps += [gate, gated]
    divided = divide(network.graph())
    assert divided.units == ()
    assert [divided.graph.ops[op].kind for op in divided.tail] == ["MEAN", "MUL"]
    assert "whole image" in divided.ended_by


def test_constants_behind_ops_are_constants() -> None:
    graph = _half_precision()
    network = divide(graph)
    assert [graph.ops[op].kind for op in network.constant_ops] == ["DEQUANTIZE"]
    assert kinds(network) == [["CONV_2D"]]


def _half_precision() -> Graph:
    def constant(values: np.ndarray) -> Tensor:  # type: ignore[type-arg]
        return Tensor("c", values.shape, str(values.dtype), values.reshape(-1).view(np.uint8))

    tensors = (
        Tensor("in", (1, 4, 4, 1), "float32"),
        constant(np.ones((1, 3, 3, 1), np.float16)),
        Tensor("weights", (1, 3, 3, 1), "float32"),
        constant(np.zeros(1, np.float32)),
        Tensor("out", (1, 4, 4, 1), "float32"),
    )
    options = {
        "padding": 0, "stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1,
        "fused_activation_function": 0,
    }  # fmt: skip
    ops = (
        Op("DEQUANTIZE", (1,), (2,), "DequantizeOptions"),
        Op("CONV_2D", (0, 2, 3), (4,), "Conv2DOptions", options),
    )
    return Graph(tensors, ops, (0,), (4,))


def test_a_claimed_shape_that_is_not_the_ops_is_not_trusted() -> None:
    graph = _half_precision()
    wrong = (*graph.tensors[:4], Tensor("out", (1, 5, 4, 1), "float32"))
    network = divide(Graph(wrong, graph.ops, graph.inputs, graph.outputs))
    assert network.units == ()
    assert "the file claims" in network.ended_by


def test_outputs_that_nothing_computes_are_refused() -> None:
    graph = _half_precision()
    with pytest.raises(ModelError, match="is a constant"):
        divide(Graph(graph.tensors, graph.ops, graph.inputs, (4, 3)))
    tensors = (*graph.tensors, Tensor("lost", (1, 4, 4, 1), "float32"))
    with pytest.raises(ModelError, match="'lost' is never computed"):
        divide(Graph(tensors, graph.ops, graph.inputs, (4, 5)))


def test_the_random_networks_hold_every_op_of_the_trunk() -> None:
    """The property tests prove what they contain: this says that they contain it."""
    found = {op.kind for seed in range(300) for op in RandomNetwork(seed, ("float32", "int8")[seed % 2]).ops}
    assert found >= {
        "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D", "ADD", "SUB", "MUL", "CONCATENATION", "PAD",
        "PADV2", "MIRROR_PAD", "RELU", "RELU6", "LEAKY_RELU", "PRELU", "ELU", "HARD_SWISH", "LOGISTIC", "TANH",
        "QUANTIZE", "DEQUANTIZE", "RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR", "TRANSPOSE_CONV", "SPACE_TO_DEPTH",
        "DEPTH_TO_SPACE", "SLICE", "STRIDED_SLICE", "SPLIT", "SOFTMAX",
    }  # fmt: skip
