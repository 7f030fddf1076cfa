"""The builder's ops do in the runtime what numpy says they do, and its seeded weights never change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from legion_iot.model import tflite, weights
from legion_iot.model.builder import LEAKY_SLOPE, GraphBuilder
from legion_iot.model.graph import Graph

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
Values = npt.NDArray[Any]


def run(graph: Graph, picture: Values, directory: Path) -> list[Values]:
    path = directory / "model.tflite"
    tflite.write_file(graph, path)
    runtime = interpreter.Interpreter(str(path), num_threads=1)
    runtime.allocate_tensors()
    runtime.set_tensor(runtime.get_input_details()[0]["index"], picture)
    runtime.invoke()
    return [runtime.get_tensor(detail["index"]) for detail in runtime.get_output_details()]


def windows(x: Values, kernel: int, stride: int, dilation: int = 1, *, same: bool, fill: float) -> Values:
    """All windows of one picture: [rows, columns, kernel, kernel, channels], padded as TensorFlow pads."""
    reach = (kernel - 1) * dilation + 1
    if same:
        pads = []
        for length in x.shape[:2]:
            total = max(0, (-(-length // stride) - 1) * stride + reach - length)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, (*pads, (0, 0)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (reach, reach), axis=(0, 1))
    return view[::stride, ::stride, :, ::dilation, ::dilation].transpose(0, 1, 3, 4, 2)


def random(shape: tuple[int, ...], seed: int = 1) -> Values:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


Window = dict[str, Any]
WINDOWS: list[Window] = [
    {"kernel": 3, "stride": 1, "padding": "same"},
    {"kernel": 3, "stride": 2, "padding": "same"},
    {"kernel": 3, "stride": 2, "padding": "valid"},
    {"kernel": 5, "stride": 2, "padding": "same"},
    {"kernel": 3, "stride": 1, "padding": "same", "dilation": 2},
    {"kernel": 1, "stride": 1, "padding": "valid"},
]


def patches_of(picture: Values, window: Window) -> Values:
    same = window["padding"] == "same"
    return windows(picture[0], window["kernel"], window["stride"], window.get("dilation", 1), same=same, fill=0.0)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_conv2d(window: Window, tmp_path: Path) -> None:
    picture = random((1, 11, 14, 4))
    given, bias = random((6, window["kernel"], window["kernel"], 4), 2), random((6,), 3)
    net = GraphBuilder("one")
    y = net.conv2d(net.input(picture.shape), 6, activation="relu6", weights=given, bias=bias, **window)
    (actual,) = run(net.finish(y), picture, tmp_path)
    assert actual.shape == net.shape(y)
    expected = np.einsum("rchwd,ohwd->rco", patches_of(picture, window), given) + bias
    np.testing.assert_allclose(actual[0], np.clip(expected, 0, 6), atol=1e-5)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_depthwise_conv2d(window: Window, tmp_path: Path) -> None:
    picture, kernel = random((1, 11, 14, 4)), window["kernel"]
    given, bias = random((1, kernel, kernel, 8), 2), random((8,), 3)
    net = GraphBuilder("one")
    y = net.depthwise_conv2d(net.input(picture.shape), multiplier=2, weights=given, bias=bias, **window)
    (actual,) = run(net.finish(y), picture, tmp_path)
    assert actual.shape == net.shape(y)
    grouped = given[0].reshape(kernel, kernel, 4, 2)
    expected = np.einsum("rchwd,hwdm->rcdm", patches_of(picture, window), grouped)
    np.testing.assert_allclose(actual[0], expected.reshape(*expected.shape[:2], 8) + bias, atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_pools(padding: Any, tmp_path: Path) -> None:
    picture = random((1, 9, 10, 3))
    net = GraphBuilder("pools")
    x = net.input(picture.shape)
    graph = net.finish(net.max_pool(x, 3, 2, padding), net.average_pool(x, 3, 2, padding))
    largest, mean = run(graph, picture, tmp_path)
    same = padding == "same"
    np.testing.assert_allclose(largest[0], windows(picture[0], 3, 2, same=same, fill=-np.inf).max((2, 3)), atol=1e-6)
    patches = windows(picture[0], 3, 2, same=same, fill=np.nan)
    np.testing.assert_allclose(mean[0], np.nanmean(patches, axis=(2, 3)), atol=1e-6)


def test_every_other_op(tmp_path: Path) -> None:
    picture = random((1, 4, 6, 2))
    net = GraphBuilder("rest", seed=5)
    x = net.input(picture.shape)
    outputs = {
        "leaky": (net.activation(x, "leaky_relu"), np.where(picture > 0, picture, LEAKY_SLOPE * picture)),
        "logistic": (net.activation(x, "logistic"), 1 / (1 + np.exp(-picture))),
        "relu": (net.activation(x, "relu"), np.maximum(picture, 0)),
        "add": (net.add(x, net.activation(x, "relu")), picture + np.maximum(picture, 0)),
        "concat": (net.concat((x, net.activation(x, "relu6"))), np.concatenate((picture, np.maximum(picture, 0)), 3)),
        "pad": (net.pad(x, (1, 2), (0, 3)), np.pad(picture, ((0, 0), (1, 2), (0, 3), (0, 0)))),
        "mean": (net.global_mean(x), picture.mean(axis=(1, 2))),
        "reshape": (net.reshape(x, (1, 48)), picture.reshape(1, 48)),
        "softmax": (net.softmax(x), np.exp(picture) / np.exp(picture).sum(axis=-1, keepdims=True)),
        "blocks": (
            net.space_to_depth(x, 2),
            picture.reshape(1, 2, 2, 3, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(1, 2, 3, 8),
        ),
    }
    given, bias = random((5, 48), 7), random((5,), 8)
    flat = net.fully_connected(net.reshape(x, (1, 48)), 5, activation="relu", weights=given, bias=bias)
    outputs["dense"] = (flat, np.maximum(picture.reshape(1, 48) @ given.T + bias, 0))
    actual = run(net.finish(*(index for index, _ in outputs.values())), picture, tmp_path)
    for (name, (index, expected)), value in zip(outputs.items(), actual, strict=True):
        assert value.shape == net.shape(index), name
        np.testing.assert_allclose(value, expected, atol=1e-5, err_msg=name)


def test_upsampling(tmp_path: Path) -> None:
    picture = random((1, 3, 4, 2))
    net = GraphBuilder("up", seed=5)
    x = net.input(picture.shape)
    given = random((3, 2, 2, 2), 4)
    graph = net.finish(net.resize_bilinear(x, 6, 8), net.transpose_conv(x, 3, 2, stride=2, weights=given))
    resized, grown = run(graph, picture, tmp_path)
    # Doubling with half-pixel centres: the first row is the first source row, the second a quarter of the way on.
    rows = picture[:, 0] * 0.75 + picture[:, 1] * 0.25
    np.testing.assert_allclose(resized[:, 1, 0], rows[:, 0], atol=1e-6)
    np.testing.assert_allclose(resized[:, 0, 0], picture[:, 0, 0], atol=1e-6)
    # Kernel and stride of 2 do not overlap: every source pixel fills its own 2×2 block.
    expected = np.einsum("brcd,ohwd->brhcwo", picture, given).reshape(1, 6, 8, 3)
    np.testing.assert_allclose(grown, expected, atol=1e-5)


def test_written_and_read_again_it_is_the_same_network(tmp_path: Path) -> None:
    net = GraphBuilder("again", seed=2)
    x = net.conv2d(net.input((1, 8, 8, 3)), 16, 3, activation="leaky_relu")
    graph = net.finish(net.softmax(net.fully_connected(net.global_mean(x), 7)))
    tflite.write_file(graph, tmp_path / "a.tflite")
    again = tflite.open_file(tmp_path / "a.tflite")
    assert [op.kind for op in again.ops] == ["CONV_2D", "LEAKY_RELU", "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    for before, after in zip(graph.tensors, again.tensors, strict=True):
        assert (before.name, before.shape, before.dtype) == (after.name, after.shape, after.dtype)
        if before.is_constant:
            np.testing.assert_array_equal(before.values(), after.values())


def test_impossible_shapes_are_refused() -> None:
    net = GraphBuilder("wrong")
    x = net.input((1, 5, 5, 3))
    with pytest.raises(ValueError, match="does not fit"):
        net.conv2d(x, 4, 7, padding="valid")
    with pytest.raises(ValueError, match="cannot be added"):
        net.add(x, net.max_pool(x, 2))
    with pytest.raises(ValueError, match="joined"):
        net.concat((x, net.max_pool(x, 2)))
    with pytest.raises(ValueError, match="divide"):
        net.space_to_depth(x, 2)
    with pytest.raises(ValueError, match="reshaped"):
        net.reshape(x, (1, 7))
    with pytest.raises(ValueError, match="must have the shape"):
        net.conv2d(x, 4, 3, weights=np.zeros((3, 3, 3, 4), np.float32))
    with pytest.raises(ValueError, match="bias"):
        net.conv2d(x, 4, 3, bias=np.zeros(3, np.float32))


def test_seeded_numbers_are_these_for_ever() -> None:
    # Computed once from PCG64's raw stream; a change here means that other machines build other networks.
    assert weights.uniform((4,), 1.0, seed=0, stream=1).tolist() == [
        0.04431414604187012,
        0.7794774770736694,
        0.9858964681625366,
        0.11427605152130127,
    ]
    np.testing.assert_array_equal(weights.uniform((5,), 2.0, 7, 3), weights.uniform((5,), 2.0, 7, 3))
    assert not np.array_equal(weights.uniform((5,), 2.0, 7, 3), weights.uniform((5,), 2.0, 7, 4))
    assert not np.array_equal(weights.uniform((5,), 2.0, 7, 3), weights.uniform((5,), 2.0, 8, 3))


def test_drawn_weights_keep_the_second_moment() -> None:
    drawn = weights.he_uniform((64, 3, 3, 64), 576, weights.KEPT_BY_RELU, 0, 1)
    assert drawn.dtype == np.float32
    assert float(drawn.var()) == pytest.approx(2 / 576, rel=0.02)
    assert abs(float(drawn.mean())) < 1e-3
