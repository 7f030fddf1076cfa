"""Builds a float32 NHWC `Graph` op by op, with given or seeded weights.

Every method that adds an op takes and returns tensor indices, so that a network reads like its layer table:

    net = GraphBuilder("tiny", seed=1)
    x = net.input((1, 32, 32, 3))
    x = net.conv2d(x, 8, kernel=3, activation="relu")
    graph = net.finish(net.softmax(net.fully_connected(net.global_mean(x), 10)))

Options carry the schema's field names and codes. Where TFLite can fuse an activation into the op before it, that is
done; LEAKY_RELU and LOGISTIC are ops of their own, as in files that converters write. SAME padding is TensorFlow's:
the odd row or column goes to the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from legion_iot.model import weights as seeded
from legion_iot.model.graph import Graph, Op, Quantization, Tensor

Activation = Literal["none", "relu", "relu6", "leaky_relu", "logistic"]
Padding = Literal["same", "valid"]
Size = int | tuple[int, int]
Values = npt.NDArray[Any]

PADDING_CODES: Mapping[str, int] = MappingProxyType({"same": 0, "valid": 1})
FUSED_CODES: Mapping[str, int] = MappingProxyType({"none": 0, "relu": 1, "relu6": 3})
LEAKY_SLOPE = 0.1  # the slope of Darknet and YOLO
BIAS_BOUND = 0.05  # small, and not zero: a wrong border shows only where zero padding differs from a value

_KEPT = MappingProxyType(
    {
        "none": 1.0,
        "relu": seeded.KEPT_BY_RELU,
        "relu6": seeded.KEPT_BY_RELU,
        "leaky_relu": 0.5 * (1 + LEAKY_SLOPE**2),
        "logistic": 1.0,
    }
)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _windows(length: int, kernel: int, stride: int, padding: Padding) -> int:
    """How many windows fit along one axis; ValueError where none does."""
    count = -(-length // stride) if padding == "same" else (length - kernel) // stride + 1
    if count < 1:
        raise ValueError(f"a window of {kernel} does not fit into {length} rows or columns")
    return count


class GraphBuilder:
    """Collects tensors and ops, and hands them over as an immutable `Graph`.

    The n-th constant drawn depends on `seed` and n alone. Wrong shapes raise ValueError: what is built here is
    written by us, never by a user.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        self._name = name
        self._seed = seed
        self._draws = 0
        self._tensors: list[Tensor] = []
        self._ops: list[Op] = []
        self._inputs: list[int] = []

    def input(
        self,
        shape: tuple[int, ...],
        name: str = "input",
        dtype: str = "float32",
        quantization: Quantization | None = None,
    ) -> int:
        """A feature map that comes from outside."""
        index = self._add(Tensor(name, shape, dtype, quantization=quantization))
        self._inputs.append(index)
        return index

    def constant(self, values: Values, name: str) -> int:
        """A stored array, kept as a view of its bytes."""
        solid = np.ascontiguousarray(values)
        return self._add(Tensor(name, solid.shape, solid.dtype.name, data=solid.reshape(-1).view(np.uint8)))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """The shape of a tensor added so far."""
        return self._tensors[tensor].shape

    def finish(
        self, *outputs: int, description: str = "", metadata: Mapping[str, npt.NDArray[np.uint8]] | None = None
    ) -> Graph:
        """The network, ending in `outputs`."""
        return Graph(
            tensors=tuple(self._tensors),
            ops=tuple(self._ops),
            inputs=tuple(self._inputs),
            outputs=outputs,
            name=self._name,
            description=description,
            metadata=MappingProxyType(dict(metadata or {})),
        )

    # Convolutions ---------------------------------------------------------------------------------------------------

    def conv2d(
        self,
        x: int,
        channels: int,
        kernel: Size = 1,
        *,
        stride: Size = 1,
        padding: Padding = "same",
        dilation: int = 1,
        activation: Activation = "none",
        weights: Values | None = None,
        bias: Values | None = None,
        gain: float = 1.0,
    ) -> int:
        """CONV_2D; `weights` are [out, rows, columns, in], `gain` scales drawn weights."""
        (kernel_h, kernel_w), (stride_h, stride_w) = _pair(kernel), _pair(stride)
        batch, height, width, depth = self.shape(x)
        form = (channels, kernel_h, kernel_w, depth)
        constants = self._weights(
            "conv2d", form, weights, bias, fan_in=kernel_h * kernel_w * depth, activation=activation, gain=gain
        )
        out = self._window_shape(
            (height, width), (kernel_h, kernel_w), (stride_h, stride_w), padding, dilation=dilation
        )
        options = {
            "padding": PADDING_CODES[padding],
            "stride_h": stride_h,
            "stride_w": stride_w,
            "dilation_h_factor": dilation,
            "dilation_w_factor": dilation,
        }
        return self._fused(
            "CONV_2D", (x, *constants), (batch, *out, channels), "Conv2DOptions", options, activation=activation
        )

    def depthwise_conv2d(
        self,
        x: int,
        kernel: Size,
        *,
        stride: Size = 1,
        padding: Padding = "same",
        multiplier: int = 1,
        dilation: int = 1,
        activation: Activation = "none",
        weights: Values | None = None,
        bias: Values | None = None,
        gain: float = 1.0,
    ) -> int:
        """DEPTHWISE_CONV_2D; `weights` are [1, rows, columns, in · multiplier]."""
        (kernel_h, kernel_w), (stride_h, stride_w) = _pair(kernel), _pair(stride)
        batch, height, width, depth = self.shape(x)
        channels = depth * multiplier
        form = (1, kernel_h, kernel_w, channels)
        constants = self._weights(
            "depthwise", form, weights, bias, fan_in=kernel_h * kernel_w, activation=activation, gain=gain
        )
        out = self._window_shape(
            (height, width), (kernel_h, kernel_w), (stride_h, stride_w), padding, dilation=dilation
        )
        options = {
            "padding": PADDING_CODES[padding],
            "stride_h": stride_h,
            "stride_w": stride_w,
            "depth_multiplier": multiplier,
            "dilation_h_factor": dilation,
            "dilation_w_factor": dilation,
        }
        return self._fused(
            "DEPTHWISE_CONV_2D",
            (x, *constants),
            (batch, *out, channels),
            "DepthwiseConv2DOptions",
            options,
            activation=activation,
            version=2 if dilation > 1 else 1,
        )

    def transpose_conv(
        self, x: int, channels: int, kernel: Size, *, stride: Size, weights: Values | None = None
    ) -> int:
        """TRANSPOSE_CONV with SAME padding and no bias: the map grows by `stride`; `weights` are [out, h, w, in]."""
        (kernel_h, kernel_w), (stride_h, stride_w) = _pair(kernel), _pair(stride)
        batch, height, width, depth = self.shape(x)
        form = (channels, kernel_h, kernel_w, depth)
        scope = f"transpose_conv{len(self._ops)}"
        # Every output element sees kernel / stride windows only.
        fan_in = max(1, kernel_h * kernel_w * depth // (stride_h * stride_w))
        kernel_index = self._stored(f"{scope}/weights", form, weights, fan_in=fan_in)
        out = (batch, height * stride_h, width * stride_w, channels)
        target = self.constant(np.array(out, np.int32), f"{scope}/shape")
        options = {"padding": PADDING_CODES["same"], "stride_h": stride_h, "stride_w": stride_w}
        return self._op("TRANSPOSE_CONV", (target, kernel_index, x), out, "TransposeConvOptions", options)

    def fully_connected(
        self,
        x: int,
        units: int,
        *,
        activation: Activation = "none",
        weights: Values | None = None,
        bias: Values | None = None,
        gain: float = 1.0,
    ) -> int:
        """FULLY_CONNECTED on [N, features]; `weights` are [units, features]."""
        batch, features = self.shape(x)
        constants = self._weights(
            "fully_connected", (units, features), weights, bias, fan_in=features, activation=activation, gain=gain
        )
        return self._fused(
            "FULLY_CONNECTED", (x, *constants), (batch, units), "FullyConnectedOptions", {}, activation=activation
        )

    # Windows and shapes ---------------------------------------------------------------------------------------------

    def max_pool(self, x: int, size: Size, stride: Size | None = None, padding: Padding = "valid") -> int:
        """MAX_POOL_2D; the stride is the window's size where none is given."""
        return self._pool("MAX_POOL_2D", x, size, stride, padding)

    def average_pool(self, x: int, size: Size, stride: Size | None = None, padding: Padding = "valid") -> int:
        """AVERAGE_POOL_2D; padded elements do not count."""
        return self._pool("AVERAGE_POOL_2D", x, size, stride, padding)

    def pad(self, x: int, rows: tuple[int, int], columns: tuple[int, int]) -> int:
        """PAD with zeros: (before, after) rows and columns."""
        batch, height, width, depth = self.shape(x)
        amounts = self.constant(np.array([(0, 0), rows, columns, (0, 0)], np.int32), f"pad{len(self._ops)}/amounts")
        return self._op("PAD", (x, amounts), (batch, height + sum(rows), width + sum(columns), depth), "PadOptions")

    def space_to_depth(self, x: int, block: int) -> int:
        """SPACE_TO_DEPTH: block × block pixels become channels of one."""
        batch, height, width, depth = self.shape(x)
        if height % block or width % block:
            raise ValueError(f"{height}×{width} does not divide into blocks of {block}")
        out = (batch, height // block, width // block, depth * block * block)
        return self._op("SPACE_TO_DEPTH", (x,), out, "SpaceToDepthOptions", {"block_size": block})

    def resize_bilinear(self, x: int, height: int, width: int) -> int:
        """RESIZE_BILINEAR with half-pixel centres, as TensorFlow 2 resizes."""
        batch, _, _, depth = self.shape(x)
        size = self.constant(np.array([height, width], np.int32), f"resize{len(self._ops)}/size")
        options = {"align_corners": False, "half_pixel_centers": True}
        out = (batch, height, width, depth)
        return self._op("RESIZE_BILINEAR", (x, size), out, "ResizeBilinearOptions", options, version=3)

    def global_mean(self, x: int) -> int:
        """MEAN over rows and columns: [N, H, W, C] → [N, C]."""
        batch, _, _, depth = self.shape(x)
        axes = self.constant(np.array([1, 2], np.int32), f"mean{len(self._ops)}/axes")
        return self._op("MEAN", (x, axes), (batch, depth), "ReducerOptions", {"keep_dims": False})

    def reshape(self, x: int, shape: tuple[int, ...]) -> int:
        """RESHAPE; as many elements as before."""
        if math.prod(shape) != math.prod(self.shape(x)):
            raise ValueError(f"{self.shape(x)} cannot be reshaped to {shape}")
        target = self.constant(np.array(shape, np.int32), f"reshape{len(self._ops)}/shape")
        return self._op("RESHAPE", (x, target), shape, "ReshapeOptions", {"new_shape": np.array(shape, np.int32)})

    # Joins and element-wise ops -------------------------------------------------------------------------------------

    def add(self, a: int, b: int, activation: Activation = "none") -> int:
        """ADD of two maps of one shape."""
        if self.shape(a) != self.shape(b):
            raise ValueError(f"{self.shape(a)} and {self.shape(b)} cannot be added")
        return self._fused("ADD", (a, b), self.shape(a), "AddOptions", {}, activation=activation)

    def concat(self, parts: Sequence[int]) -> int:
        """CONCATENATION along the channels."""
        shapes = [self.shape(part) for part in parts]
        if len({shape[:-1] for shape in shapes}) != 1:
            raise ValueError(f"maps of sizes {shapes} cannot be joined along their channels")
        out = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
        return self._fused("CONCATENATION", tuple(parts), out, "ConcatenationOptions", {"axis": 3})

    def activation(self, x: int, kind: Activation) -> int:
        """An activation as an op of its own; "none" is the tensor itself."""
        if kind == "none":
            return x
        if kind == "leaky_relu":
            return self._op("LEAKY_RELU", (x,), self.shape(x), "LeakyReluOptions", {"alpha": LEAKY_SLOPE})
        return self._op(kind.upper(), (x,), self.shape(x))

    def softmax(self, x: int) -> int:
        """SOFTMAX over the last axis."""
        return self._op("SOFTMAX", (x,), self.shape(x), "SoftmaxOptions", {"beta": 1.0})

    # How the parts are put together ---------------------------------------------------------------------------------

    def _add(self, tensor: Tensor) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _op(
        self,
        kind: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        options_type: str = "",
        options: Mapping[str, Any] | None = None,
        *,
        version: int = 1,
    ) -> int:
        output = self._add(Tensor(f"{kind.lower()}{len(self._ops)}", shape, "float32"))
        fields = MappingProxyType(dict(options or {}))
        self._ops.append(Op(kind, inputs, (output,), options_type, fields, version))
        return output

    def _fused(
        self,
        kind: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        options_type: str,
        options: Mapping[str, Any],
        *,
        activation: Activation = "none",
        version: int = 1,
    ) -> int:
        fused = {**options, "fused_activation_function": FUSED_CODES.get(activation, 0)}
        output = self._op(kind, inputs, shape, options_type, fused, version=version)
        return output if activation in FUSED_CODES else self.activation(output, activation)

    def _pool(self, kind: str, x: int, size: Size, stride: Size | None, padding: Padding) -> int:
        window, step = _pair(size), _pair(size if stride is None else stride)
        batch, height, width, depth = self.shape(x)
        out = self._window_shape((height, width), window, step, padding)
        options = {
            "padding": PADDING_CODES[padding],
            "stride_h": step[0],
            "stride_w": step[1],
            "filter_height": window[0],
            "filter_width": window[1],
        }
        return self._fused(kind, (x,), (batch, *out, depth), "Pool2DOptions", options)

    @staticmethod
    def _window_shape(
        size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: Padding, *, dilation: int = 1
    ) -> tuple[int, int]:
        reach = ((kernel[0] - 1) * dilation + 1, (kernel[1] - 1) * dilation + 1)
        return (
            _windows(size[0], reach[0], stride[0], padding),
            _windows(size[1], reach[1], stride[1], padding),
        )

    def _weights(
        self,
        name: str,
        form: tuple[int, ...],
        weights: Values | None,
        bias: Values | None,
        *,
        fan_in: int,
        activation: Activation,
        gain: float,
    ) -> tuple[int, int]:
        """The two constants of a layer: its weights and its bias."""
        scope = f"{name}{len(self._ops)}"
        channels = form[-1] if name == "depthwise" else form[0]
        kernel = self._stored(f"{scope}/weights", form, weights, fan_in=fan_in, activation=activation, gain=gain)
        if bias is None:
            bias = seeded.uniform((channels,), BIAS_BOUND, self._seed, self._next_draw())
        if bias.shape != (channels,):
            raise ValueError(f"{scope} has {channels} channels and a bias of shape {bias.shape}")
        return kernel, self.constant(bias.astype(np.float32, copy=False), f"{scope}/bias")

    def _stored(
        self,
        name: str,
        form: tuple[int, ...],
        weights: Values | None,
        *,
        fan_in: int,
        activation: Activation = "none",
        gain: float = 1.0,
    ) -> int:
        if weights is None:
            kept = _KEPT[activation] / (gain * gain)
            weights = seeded.he_uniform(form, fan_in, kept, self._seed, self._next_draw())
        if weights.shape != form:
            raise ValueError(f"{name} must have the shape {form}, not {weights.shape}")
        return self.constant(weights.astype(np.float32, copy=False), name)

    def _next_draw(self) -> int:
        self._draws += 1
        return self._draws
