"""Random networks for the cutting tests: branches, strides, dilations, odd sizes, every op of the trunk.

Built straight from the graph's dataclasses, so that nothing of the code under test decides what is built. One generator
serves float and integer networks: a map is float32, int8 or uint8, and QUANTIZE and DEQUANTIZE lead from one to the
other. Scales of integer maps are drawn so that values neither vanish nor saturate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.model.graph import Graph, Op, Quantization, Tensor

SAME, VALID = 0, 1
SMALLEST, LARGEST = 3, 40  # rows and columns a map may have
MOST_CHANNELS = 24


@dataclass(frozen=True)
class Map:
    """A feature map under construction; `spread` estimates the largest magnitude of its real values."""

    index: int
    height: int
    width: int
    channels: int
    dtype: str
    scale: float = 0.0
    zero: int = 0

    @property
    def quantization(self) -> Quantization | None:
        return None if self.dtype == "float32" else Quantization((self.scale,), (self.zero,))


class RandomNetwork:
    """Grows a network from a seed; `graph()` closes it."""

    def __init__(self, seed: int, dtype: str = "float32", ops: int = 12) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []
        self.maps: list[Map] = []
        self.inputs: list[int] = []
        for _ in range(1 + int(self.random.random() < 0.15)):
            first = self._map(self._pick(9, 31), self._pick(9, 31), self._pick(1, 5), dtype, 0.02)
            self.inputs.append(first.index)
            self.maps.append(first)
        steps: list[Callable[[Map], Map | None]] = [
            self._conv, self._conv, self._conv, self._depthwise, self._depthwise, self._pool, self._pool, self._binary,
            self._binary, self._binary_constant, self._concat, self._pad, self._activation, self._activation,
            self._resize, self._transpose_conv, self._depth_space, self._slice, self._split, self._change_dtype,
        ]  # fmt: skip
        made = 0
        for _ in range(200):
            if made >= ops:
                break
            # Mostly the newest map, now and then an older one: that makes branches.
            source = self.maps[-1] if self.random.random() < 0.7 else self.maps[self._pick(0, len(self.maps) - 1)]
            result = steps[self._pick(0, len(steps) - 1)](source)
            if result is not None:
                made += 1
                self.maps.append(result)

    def graph(self) -> Graph:
        """The network; every map that nothing reads is an output, and so are one or two others."""
        read = {i for op in self.ops for i in op.inputs}
        maps = {m.index for m in self.maps}
        made = [t for op in self.ops for t in op.outputs if t in maps]
        outputs = [t for t in made if t not in read]
        outputs += [t for t in made if t in read and self.random.random() < 0.08]
        return Graph(tuple(self.tensors), tuple(self.ops), tuple(self.inputs), tuple(dict.fromkeys(outputs)))

    # --- pieces ---

    def _pick(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high, endpoint=True))

    def _chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _map(
        self, height: int, width: int, channels: int, dtype: str, scale: float = 0.0, zero: int | None = None
    ) -> Map:
        if dtype == "float32":
            scale, zero = 0.0, 0
        elif zero is None:
            zero = self._pick(-20, 20) + (128 if dtype == "uint8" else 0)
        result = Map(len(self.tensors), height, width, channels, dtype, scale, zero or 0)
        self._add(Tensor(f"map_{result.index}", (1, height, width, channels), dtype, None, result.quantization))
        return result

    def _like(self, source: Map, height: int, width: int, channels: int) -> Map:
        """A map of the source's dtype and quantisation."""
        return self._map(height, width, channels, source.dtype, source.scale, source.zero)

    def _constant(self, values: npt.NDArray[Any], quantization: Quantization | None = None) -> int:
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        return self._add(Tensor(f"constant_{len(self.tensors)}", values.shape, str(values.dtype), data, quantization))

    def _integers(self, *values: int | tuple[int, ...]) -> int:
        return self._constant(np.array(values, np.int32))

    def _emit(
        self, kind: str, inputs: tuple[int, ...], outputs: tuple[int, ...], table: str = "", **options: Any
    ) -> None:
        self.ops.append(Op(kind, inputs, outputs, table, options))

    def _fits(self, height: int, width: int, channels: int = 1) -> bool:
        return SMALLEST <= height <= LARGEST and SMALLEST <= width <= LARGEST and 1 <= channels <= MOST_CHANNELS

    # --- weights ---

    def _weights(self, source: Map, shape: tuple[int, ...], axis: int, fan_in: int) -> tuple[int, int, float]:
        """Weights, bias, and a fitting scale of the result; `axis` is that of the output channels."""
        channels = shape[axis]
        values = self.random.standard_normal(shape)
        if source.dtype == "float32":
            bias = self._constant(self.random.standard_normal(channels).astype(np.float32) * np.float32(0.1))
            return self._float_weights((values / np.sqrt(fan_in)).astype(np.float32)), bias, 0.0
        if source.dtype == "uint8":
            zero, scale = self._pick(118, 138), 0.01
            weights = self._constant(
                np.clip(np.rint(values * 40) + zero, 0, 255).astype(np.uint8), Quantization((scale,), (zero,))
            )
            scales = np.full(channels, scale)
        else:
            scales = self.random.uniform(0.004, 0.02, channels) if self._chance(0.7) else np.full(channels, 0.01)
            per_channel = Quantization(tuple(map(float, scales)), (0,) * channels, axis)
            quantised = np.clip(np.rint(values * 40), -127, 127).astype(np.int8)
            weights = self._constant(quantised, per_channel if len(set(scales)) > 1 else Quantization((0.01,), (0,)))
        bias_scales = [float(np.float32(s)) * source.scale for s in scales]
        exact = tuple(float(np.float32(s)) for s in (bias_scales if len(set(bias_scales)) > 1 else bias_scales[:1]))
        bias = self._constant(
            self.random.integers(-300, 300, channels).astype(np.int32), Quantization(exact, (0,) * len(exact))
        )
        # 40 steps of weight, some 60 steps of input, fan_in of them at random signs.
        return weights, bias, float(source.scale * 0.01 * 40 * 60 * np.sqrt(fan_in) / 50)

    def _float_weights(self, values: npt.NDArray[np.float32]) -> int:
        """As they are, or stored in half precision behind a DEQUANTIZE, as converters leave them."""
        if self._chance(0.7):
            return self._constant(values)
        stored = self._constant(values.astype(np.float16))
        output = self._add(Tensor(f"weights_{len(self.tensors)}", values.shape, "float32"))
        self._emit("DEQUANTIZE", (stored,), (output,), "DequantizeOptions")
        return output

    # --- ops ---

    def _window(self, source: Map, kernel: tuple[int, int]) -> tuple[dict[str, int], tuple[int, int]] | None:
        strides = (self._pick(1, 3), self._pick(1, 3)) if self._chance(0.4) else (1, 1)
        dilations = (self._pick(1, 3), self._pick(1, 3)) if strides == (1, 1) and self._chance(0.3) else (1, 1)
        padding = SAME if self._chance(0.7) else VALID
        sizes = []
        for size, k, s, d in zip((source.height, source.width), kernel, strides, dilations, strict=True):
            reach = d * (k - 1) + 1
            sizes.append(-(-size // s) if padding == SAME else (size - reach) // s + 1)
        options = {
            "padding": padding, "stride_h": strides[0], "stride_w": strides[1],
            "dilation_h_factor": dilations[0], "dilation_w_factor": dilations[1],
            "fused_activation_function": (0, 0, 1, 3)[self._pick(0, 3)],
        }  # fmt: skip
        return (options, (sizes[0], sizes[1])) if self._fits(*sizes) else None

    def _conv(self, source: Map) -> Map | None:
        kernel, channels = (self._pick(1, 5), self._pick(1, 5)), self._pick(1, 12)
        window = self._window(source, kernel)
        if window is None:
            return None
        shape = (channels, *kernel, source.channels)
        weights, bias, scale = self._weights(source, shape, 0, int(np.prod(shape[1:])))
        result = self._map(*window[1], channels, source.dtype, scale)
        self._emit("CONV_2D", (source.index, weights, bias), (result.index,), "Conv2DOptions", **window[0])
        return result

    def _depthwise(self, source: Map) -> Map | None:
        kernel, multiplier = (self._pick(1, 5), self._pick(1, 5)), self._pick(1, 2)
        window = self._window(source, kernel)
        channels = source.channels * multiplier
        if window is None or channels > MOST_CHANNELS:
            return None
        weights, bias, scale = self._weights(source, (1, *kernel, channels), 3, kernel[0] * kernel[1])
        result = self._map(*window[1], channels, source.dtype, scale)
        self._emit(
            "DEPTHWISE_CONV_2D", (source.index, weights, bias), (result.index,), "DepthwiseConv2DOptions",
            depth_multiplier=multiplier, **window[0],
        )  # fmt: skip
        return result

    def _pool(self, source: Map) -> Map | None:
        kernel = (self._pick(1, 5), self._pick(1, 5))
        window = self._window(source, kernel)
        if window is None or window[0]["dilation_h_factor"] * window[0]["dilation_w_factor"] > 1:
            return None
        options = {k: v for k, v in window[0].items() if not k.startswith("dilation")}
        result = self._like(source, *window[1], source.channels)
        kind = "MAX_POOL_2D" if self._chance(0.5) else "AVERAGE_POOL_2D"
        self._emit(
            kind, (source.index,), (result.index,), "Pool2DOptions",
            filter_height=kernel[0], filter_width=kernel[1], **options,
        )  # fmt: skip
        return result

    _BINARY = (("ADD", "AddOptions"), ("SUB", "SubOptions"), ("MUL", "MulOptions"))

    def _binary(self, source: Map) -> Map | None:
        same = [
            m for m in self.maps
            if (m.height, m.width, m.channels, m.dtype) == (source.height, source.width, source.channels, source.dtype)
        ]  # fmt: skip
        # Not a map with itself: ai-edge-litert 2.3.0 computes x·x in place on int8, and then gives other bits for the
        # whole model, too, as soon as x is read once more.
        same = [m for m in same if m.index != source.index]
        if not same:
            return None
        other = same[self._pick(0, len(same) - 1)]
        kind, table = self._BINARY[self._pick(0, 2)]
        scale = max(source.scale, other.scale) * 1.3
        result = self._map(source.height, source.width, source.channels, source.dtype, scale)
        self._emit(
            kind, (source.index, other.index), (result.index,), table, fused_activation_function=self._pick(0, 1)
        )
        return result

    def _binary_constant(self, source: Map) -> Map | None:
        full = (1, source.height, source.width, source.channels)
        shapes = [(source.channels,), (1, 1, 1, source.channels), (1,), full, (1, source.height, 1, 1), full[1:]]
        shape = shapes[self._pick(0, len(shapes) - 1)]
        kind, table = self._BINARY[self._pick(0, 2)]
        values, quantization = self.random.standard_normal(shape), None
        if source.dtype == "float32":
            constant = self._constant(values.astype(np.float32))
        else:
            middle = 128 if source.dtype == "uint8" else 0
            quantization = Quantization((source.scale,), (middle,))
            stored = np.clip(np.rint(values * 30) + middle, middle - 128, middle + 127)
            constant = self._constant(stored.astype(source.dtype), quantization)
        result = self._map(source.height, source.width, source.channels, source.dtype, source.scale * 1.3)
        inputs = (source.index, constant) if self._chance(0.7) else (constant, source.index)
        self._emit(kind, inputs, (result.index,), table, fused_activation_function=self._pick(0, 1))
        return result

    def _concat(self, source: Map) -> Map | None:
        fitting = [
            m for m in self.maps
            if (m.height, m.width, m.dtype, m.scale, m.zero)
            == (source.height, source.width, source.dtype, source.scale, source.zero)
        ]  # fmt: skip
        chosen = [source, *(m for m in fitting if self._chance(0.5))][:4]
        channels = sum(m.channels for m in chosen)
        if len(chosen) < 2 or channels > MOST_CHANNELS:
            return None
        result = self._like(source, source.height, source.width, channels)
        axis = 3 if self._chance(0.5) else -1
        self._emit(
            "CONCATENATION", tuple(m.index for m in chosen), (result.index,), "ConcatenationOptions",
            axis=axis, fused_activation_function=0,
        )  # fmt: skip
        return result

    def _pad(self, source: Map) -> Map | None:
        pads = [self._pick(0, 3) for _ in range(4)]
        height, width = source.height + pads[0] + pads[1], source.width + pads[2] + pads[3]
        if not self._fits(height, width):
            return None
        table = self._integers((0, 0), (pads[0], pads[1]), (pads[2], pads[3]), (0, 0))
        result = self._like(source, height, width, source.channels)
        kind = ("PAD", "PADV2", "MIRROR_PAD")[self._pick(0, 2)]
        if kind == "MIRROR_PAD":
            if max(pads[:2]) >= source.height or max(pads[2:]) >= source.width:
                return None
            self._emit(kind, (source.index, table), (result.index,), "MirrorPadOptions", mode=self._pick(0, 1))
        elif kind == "PADV2":
            value = np.array([3], source.dtype) if source.dtype != "float32" else np.array([0.5], np.float32)
            constant = self._constant(value, source.quantization)
            self._emit(kind, (source.index, table, constant), (result.index,), "PadV2Options")
        else:
            self._emit(kind, (source.index, table), (result.index,), "PadOptions")
        return result

    def _activation(self, source: Map) -> Map | None:
        kind = (
            "RELU", "RELU6", "LEAKY_RELU", "PRELU", "ELU", "HARD_SWISH", "LOGISTIC", "TANH", "SOFTMAX",
        )[self._pick(0, 8)]  # fmt: skip
        fixed = {"LOGISTIC": (1 / 256, -128), "SOFTMAX": (1 / 256, -128), "TANH": (1 / 128, 0)}
        if source.dtype == "uint8" and kind in ("ELU",):
            return None
        scale, zero = fixed.get(kind, (source.scale, source.zero))
        if source.dtype == "uint8" and kind in fixed:
            zero += 128
        result = self._map(source.height, source.width, source.channels, source.dtype, scale, zero)
        inputs, table, options = (source.index,), "", {}
        if kind == "LEAKY_RELU":
            table, options = "LeakyReluOptions", {"alpha": 0.1}
        elif kind == "HARD_SWISH":
            table = "HardSwishOptions"
        elif kind == "SOFTMAX":
            table, options = "SoftmaxOptions", {"beta": 1.0}
        elif kind == "PRELU":
            shape = ((1, 1, source.channels), (source.height, source.width, source.channels))[self._pick(0, 1)]
            inputs = (source.index, self._prelu_slopes(source, shape))
        self._emit(kind, inputs, (result.index,), table, **options)
        return result

    def _prelu_slopes(self, source: Map, shape: tuple[int, ...]) -> int:
        values = self.random.uniform(0.05, 0.4, shape)
        if source.dtype == "float32":
            return self._constant(values.astype(np.float32))
        middle = 128 if source.dtype == "uint8" else 0
        stored = np.rint(values * 100) + middle
        return self._constant(stored.astype(source.dtype), Quantization((0.01,), (middle,)))

    def _resize(self, source: Map) -> Map | None:
        factor = self._pick(1, 3)
        height, width = source.height * factor, source.width * factor
        if not self._fits(height, width):
            return None
        result = self._like(source, height, width, source.channels)
        bilinear = self._chance(0.6)
        mode = self._pick(0, 2)
        self._emit(
            "RESIZE_BILINEAR" if bilinear else "RESIZE_NEAREST_NEIGHBOR",
            (source.index, self._integers(height, width)), (result.index,),
            "ResizeBilinearOptions" if bilinear else "ResizeNearestNeighborOptions",
            align_corners=mode == 1, half_pixel_centers=mode == 2,
        )  # fmt: skip
        return result

    def _transpose_conv(self, source: Map) -> Map | None:
        kernel, stride, channels = self._pick(2, 4), self._pick(1, 2), self._pick(1, 6)
        padding = SAME if self._chance(0.5) else VALID
        size = [n * stride if padding == SAME else (n - 1) * stride + kernel for n in (source.height, source.width)]
        if not self._fits(*size):
            return None
        shape = (channels, kernel, kernel, source.channels)
        weights, bias, scale = self._weights(source, shape, 0, kernel * kernel * source.channels)
        result = self._map(size[0], size[1], channels, source.dtype, scale)
        inputs = (self._integers(1, *size, channels), weights, source.index, bias)
        self._emit(
            "TRANSPOSE_CONV", inputs, (result.index,), "TransposeConvOptions",
            padding=padding, stride_h=stride, stride_w=stride, fused_activation_function=0,
        )  # fmt: skip
        return result

    def _depth_space(self, source: Map) -> Map | None:
        block = self._pick(2, 3)
        if source.height % block == 0 and source.width % block == 0 and self._chance(0.5):
            size, channels, kind = (
                (source.height // block, source.width // block),
                source.channels * block**2,
                "SPACE_TO_DEPTH",
            )
        elif source.channels % block**2 == 0:
            size, channels, kind = (
                (source.height * block, source.width * block),
                source.channels // block**2,
                "DEPTH_TO_SPACE",
            )
        else:
            return None
        if not self._fits(*size, channels):
            return None
        result = self._like(source, *size, channels)
        table = "SpaceToDepthOptions" if kind == "SPACE_TO_DEPTH" else "DepthToSpaceOptions"
        self._emit(kind, (source.index,), (result.index,), table, block_size=block)
        return result

    def _slice(self, source: Map) -> Map | None:
        if source.channels < 2:
            return None
        first = self._pick(0, source.channels - 2)
        count = self._pick(1, source.channels - first)
        top, left = (self._pick(0, 2), self._pick(0, 2)) if self._chance(0.4) else (0, 0)
        height, width = source.height - top, source.width - left
        if not self._fits(height, width):
            return None
        if self._chance(0.5):
            result = self._like(source, height, width, count)
            inputs = (source.index, self._integers(0, top, left, first), self._integers(1, -1, width, count))
            self._emit("SLICE", inputs, (result.index,), "SliceOptions")
            return result
        step = self._pick(1, 2)
        result = self._like(source, -(-height // step), -(-width // step), count)
        if not self._fits(result.height, result.width):
            return None
        ends = self._integers(1, source.height, source.width, first + count)
        inputs = (source.index, self._integers(0, top, left, first), ends, self._integers(1, step, step, 1))
        self._emit(
            "STRIDED_SLICE", inputs, (result.index,), "StridedSliceOptions",
            begin_mask=1, end_mask=self._pick(0, 1), ellipsis_mask=0, new_axis_mask=0, shrink_axis_mask=0,
        )  # fmt: skip
        return result

    def _split(self, source: Map) -> Map | None:
        parts = next((n for n in (2, 3) if source.channels % n == 0), 0)
        if not parts:
            return None
        axis = self._constant(np.array(3, np.int32))
        results = [self._like(source, source.height, source.width, source.channels // parts) for _ in range(parts)]
        self._emit("SPLIT", (axis, source.index), tuple(m.index for m in results), "SplitOptions", num_splits=parts)
        self.maps.extend(results[:-1])
        return results[-1]

    def _change_dtype(self, source: Map) -> Map | None:
        if not self._chance(0.5):
            return None
        dtype = "int8" if source.dtype == "float32" else "float32"
        result = self._map(source.height, source.width, source.channels, dtype, 0.03)
        kind = "QUANTIZE" if dtype == "int8" else "DEQUANTIZE"
        self._emit(kind, (source.index,), (result.index,), f"{kind.title()}Options")
        return result
