"""Networks the project has never seen, as a user would bring them: plain `.tflite` files, without our metadata."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from flatbuffers import flexbuffers

from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.graph import Bytes, Op, Tensor


def residual_classifier(path: Path, seed: int = 7) -> Path:
    """Odd sizes, strides, a projection shortcut, a depthwise layer, and ten classes at the end."""
    net = GraphBuilder("stranger", seed=seed)
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


def without_trunk(path: Path) -> Path:
    """A classifier that looks at all pixels at once."""
    net = GraphBuilder("flat", seed=1)
    x = net.reshape(net.input((1, 16, 16, 3)), (1, 768))
    return _write(net, net.softmax(net.fully_connected(x, 10)), path)


def open_sizes(path: Path) -> Path:
    """Rows and columns are the user's choice."""
    net = GraphBuilder("open", seed=4)
    x = net.conv2d(net.input((1, 32, 32, 3)), 8, 3, padding="same", activation="relu")
    graph = net.finish(net.conv2d(net.max_pool(x, 2), 4, 3, padding="same"))
    tensors = list(graph.tensors)
    source = graph.inputs[0]
    tensors[source] = dataclasses.replace(tensors[source], shape_signature=(1, -1, -1, 3))
    tflite.write_file(dataclasses.replace(graph, tensors=tuple(tensors)), path)
    return path


def detector(path: Path) -> Path:
    """Heads at two scales and the runtime's post-processing, a custom op whose outputs have no shape in the file."""
    net = GraphBuilder("detector", seed=2)
    x = net.conv2d(net.input((1, 64, 64, 3)), 8, 3, stride=2, padding="same", activation="relu")
    fine = net.conv2d(x, 16, 3, stride=2, padding="same", activation="relu6")
    coarse = net.conv2d(fine, 16, 3, stride=2, padding="same", activation="relu")
    boxes, classes, count = [], [], 0
    for scale in (fine, coarse):
        cells = net.shape(scale)[1] * net.shape(scale)[2]
        boxes.append(net.reshape(net.conv2d(scale, 4, 3, padding="same"), (1, cells, 4)))
        classes.append(net.reshape(net.conv2d(scale, 5, 1), (1, cells, 5)))
        count += cells
    graph = net.finish(*boxes, *classes)
    tensors, ops = list(graph.tensors), list(graph.ops)

    def add(name: str, shape: tuple[int, ...], data: Bytes | None = None) -> int:
        tensors.append(Tensor(name, shape, "float32", data, has_rank=bool(shape)))
        return len(tensors) - 1

    joined = []
    for name, parts, width in (("boxes", boxes, 4), ("classes", classes, 5)):
        joined.append(add(name, (1, count, width)))
        options = {"axis": 1, "fused_activation_function": 0}
        ops.append(Op("CONCATENATION", tuple(parts), (joined[-1],), "ConcatenationOptions", options))
    scores = add("scores", (1, count, 5))
    ops.append(Op("LOGISTIC", (joined[1],), (scores,)))
    anchors = np.random.default_rng(0).uniform(0.1, 0.9, (count, 4)).astype(np.float32)
    inputs = (joined[0], scores, add("anchors", (count, 4), anchors.reshape(-1).view(np.uint8)))
    outputs = tuple(add(f"TFLite_Detection_PostProcess:{i}", ()) for i in range(4))
    ops.append(
        Op("CUSTOM", inputs, outputs, custom_code="TFLite_Detection_PostProcess", custom_options=_detection_options())
    )
    tflite.write_file(dataclasses.replace(graph, tensors=tuple(tensors), ops=tuple(ops), outputs=outputs), path)
    return path


def _detection_options() -> Bytes:
    builder = flexbuffers.Builder()
    with builder.Map():
        for name in ("max_detections", "max_classes_per_detection", "num_classes", "detections_per_class"):
            builder.Key(name)
            builder.Int({"max_detections": 10, "num_classes": 4, "detections_per_class": 100}.get(name, 1))
        for name in ("nms_score_threshold", "nms_iou_threshold", "y_scale", "x_scale", "h_scale", "w_scale"):
            builder.Key(name)
            builder.Float({"nms_score_threshold": 0.1, "nms_iou_threshold": 0.6}.get(name, 5.0))
        builder.Key("use_regular_nms")
        builder.Bool(False)
    return np.frombuffer(bytes(builder.Finish()), np.uint8)
