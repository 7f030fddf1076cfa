"""Units that run alike have one signature, those that do not have two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from legion_iot.model import tflite
from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.signatures import tail_signature, unit_signatures
from legion_iot.model.synthetic import NETWORKS
from tests.model.random_networks import RandomNetwork
from tests.runtime.networks import GRAPHS


def test_vgg_repeats_itself() -> None:
    """Counted by hand from the layer table: 3 + 3 + 3 + 3 + 2, since the last stage repeats its one convolution."""
    sixteen = unit_signatures(divide(NETWORKS["vgg16"](0)))
    nineteen = unit_signatures(divide(NETWORKS["vgg19"](0)))
    assert (len(sixteen), len(set(sixteen))) == (18, 14)
    assert (len(nineteen), set(nineteen)) == (21, set(sixteen))


def test_weights_and_names_do_not_count() -> None:
    one, other = divide(NETWORKS["resnet18"](0)), divide(NETWORKS["resnet18"](7))
    assert unit_signatures(one) == unit_signatures(other)
    assert tail_signature(one) == tail_signature(other)
    tensors = tuple(dataclasses.replace(t, name=f"renamed/{t.name}") for t in one.graph.tensors)
    assert unit_signatures(divide(dataclasses.replace(one.graph, tensors=tensors))) == unit_signatures(one)


@pytest.mark.parametrize("name", [*GRAPHS, "mobilenet-v2", "yolov2"])
def test_a_file_has_the_signatures_of_what_was_written(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]() if name in GRAPHS else NETWORKS[name](0)
    tflite.write_file(graph, tmp_path / "model.tflite")
    built, read = divide(graph), divide(tflite.open_file(tmp_path / "model.tflite"))
    assert unit_signatures(read) == unit_signatures(built)
    assert tail_signature(read) == tail_signature(built)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_signatures_are_stable_on_random_networks(dtype: str) -> None:
    for seed in range(40):
        first, again = (divide(RandomNetwork(seed, dtype).graph()) for _ in range(2))
        signatures = unit_signatures(first)
        assert signatures == unit_signatures(again)
        assert all(len(text) == 16 for text in signatures)


def one_unit(build: Callable[[GraphBuilder, int], int], shape: tuple[int, ...] = (1, 16, 12, 8)) -> str:
    net = GraphBuilder("one")
    return unit_signatures(divide(net.finish(build(net, net.input(shape)))))[0]


def convolution(**options: object) -> Callable[[GraphBuilder, int], int]:
    return lambda net, x: net.conv2d(x, **{"channels": 8, "kernel": 3, **options})  # type: ignore[arg-type]


def test_height_does_not_count_but_width_and_channels_do() -> None:
    base = one_unit(convolution())
    assert one_unit(convolution(), (1, 33, 12, 8)) == base
    assert one_unit(convolution(), (1, 16, 13, 8)) != base
    assert one_unit(convolution(), (1, 16, 12, 9)) != base


def test_whatever_decides_time_counts() -> None:
    builds = [
        convolution(),
        convolution(kernel=5),
        convolution(kernel=(3, 1)),
        convolution(kernel=(1, 3)),
        convolution(stride=2),
        convolution(dilation=2),
        convolution(padding="valid"),
        convolution(channels=16),
        convolution(activation="relu"),
        convolution(activation="leaky_relu"),
        lambda net, x: net.depthwise_conv2d(x, 3),
        lambda net, x: net.max_pool(x, 2),
        lambda net, x: net.average_pool(x, 2),
        lambda net, x: net.max_pool(x, 3, 1, padding="same"),
        lambda net, x: net.conv2d(net.pad(x, (1, 1), (1, 1)), 8, 3, padding="valid"),
        lambda net, x: net.conv2d(net.pad(x, (1, 1), (2, 2)), 8, 3, padding="valid"),
        lambda net, x: net.resize_bilinear(x, 32, 24),
        lambda net, x: net.resize_bilinear(x, 64, 24),
        lambda net, x: net.add(net.conv2d(x, 8, 3), x),
        lambda net, x: net.add(net.conv2d(x, 8, 3), net.conv2d(x, 8, 1)),
    ]
    signatures = [one_unit(build) for build in builds]
    assert len(set(signatures)) == len(builds)


def tailed(height: int) -> Network:
    net = GraphBuilder("tailed")
    x = net.conv2d(net.input((1, height, 8, 3)), 4, 3)
    return divide(net.finish(net.fully_connected(net.global_mean(x), 5)))


def test_a_tail_counts_with_its_whole_shapes() -> None:
    assert tail_signature(tailed(8)) == tail_signature(tailed(8)) != tail_signature(tailed(9))
    assert unit_signatures(tailed(8)) == unit_signatures(tailed(9))
    assert tail_signature(divide(NETWORKS["yolov2"](0))) == ""
