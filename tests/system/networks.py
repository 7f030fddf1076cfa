"""Networks the project has never seen, as a user would bring them: plain `.tflite` files, without our metadata."""

from __future__ import annotations

from pathlib import Path

from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder


def residual_classifier(path: Path) -> Path:
    """Odd sizes, strides, a projection shortcut, a depthwise layer, and ten classes at the end."""
    net = GraphBuilder("stranger", seed=7)
    x = net.conv2d(net.input((1, 61, 83, 3)), 13, 5, stride=2, padding="same", activation="relu")
    for channels, stride in ((13, 1), (21, 2), (21, 1)):
        shortcut = x
        if stride != 1 or net.shape(x)[3] != channels:
            shortcut = net.conv2d(x, channels, 1, stride=stride, padding="same")
        y = net.conv2d(x, channels, 3, stride=stride, padding="same", activation="relu")
        x = net.add(net.conv2d(y, channels, 3, padding="same"), shortcut, activation="relu")
    x = net.depthwise_conv2d(x, 3, padding="same", activation="relu6")
    x = net.fully_connected(net.global_mean(net.max_pool(x, 2)), 10)
    return _write(net, net.softmax(x), path)


def picture_to_picture(path: Path) -> Path:
    """A map of the input's size: what `describe` takes for a picture."""
    net = GraphBuilder("edges", seed=3)
    x = net.input((1, 48, 64, 3))
    for _ in range(4):
        x = net.conv2d(x, 8, 3, padding="same", activation="relu")
    return _write(net, net.conv2d(x, 1, 1), path)


def two_inputs(path: Path) -> Path:
    """What no single picture can feed."""
    net = GraphBuilder("pair")
    return _write(net, net.add(net.input((1, 8, 8, 3), "left"), net.input((1, 8, 8, 3), "right")), path)


def _write(net: GraphBuilder, output: int, path: Path) -> Path:
    tflite.write_file(net.finish(output), path)
    return path
