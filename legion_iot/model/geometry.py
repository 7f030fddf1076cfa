"""Which rows and columns of its input an op needs for a region of its output.

Every op that can be tiled is *separable*: rows depend on rows only, columns on columns only. So one rule per axis says
it all. A rule answers the question "to yield the output interval [a, b), what must be there?" with a `Need`:

- `source`: the interval of the input, inside the image;
- `before`, `after`: padding to be added around it, since the window reaches past the image;
- `result`: what the op then yields, an interval that covers [a, b) (more than asked where the op cannot do less).

Windows (convolution, pooling) with kernel k, stride s, dilation d and pad p before need
[s·a − p, s·(b−1) + d·(k−1) + 1 − p); SAME padding has p = total // 2 with
total = max(0, (out − 1)·s + d·(k−1) + 1 − in), from the *whole* image's sizes (TFLite,
`ComputePaddingHeightWidth`). All intervals are half open, all sizes in rows or columns of feature maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from legion_iot.model.graph import Graph, Op, Tensor

SAME = 0  # Padding of the TFLite schema
HEIGHT, WIDTH, CHANNELS = 1, 2, 3  # axes of NHWC


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Half-open interval of rows or columns."""

    start: int
    stop: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __contains__(self, other: Interval) -> bool:
        return self.start <= other.start and other.stop <= self.stop

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both; an empty one adds nothing."""
        if not len(other):
            return self
        if not len(self):
            return other
        return Interval(min(self.start, other.start), max(self.stop, other.stop))

    def intersection(self, other: Interval) -> Interval:
        start = max(self.start, other.start)
        return Interval(start, max(start, min(self.stop, other.stop)))


@dataclass(frozen=True, slots=True)
class Region:
    """Rows × columns of a feature map."""

    rows: Interval
    columns: Interval

    @property
    def area(self) -> int:
        return len(self.rows) * len(self.columns)

    def __contains__(self, other: Region) -> bool:
        return other.rows in self.rows and other.columns in self.columns

    def hull(self, other: Region) -> Region:
        """The smallest region that holds both; an empty one adds nothing."""
        if not other.area:
            return self
        if not self.area:
            return other
        return Region(self.rows.hull(other.rows), self.columns.hull(other.columns))

    def intersection(self, other: Region) -> Region:
        return Region(self.rows.intersection(other.rows), self.columns.intersection(other.columns))

    @classmethod
    def whole(cls, tensor: Tensor) -> Region:
        """All of a feature map of shape (1, height, width, channels)."""
        return cls(Interval(0, tensor.shape[HEIGHT]), Interval(0, tensor.shape[WIDTH]))


@dataclass(frozen=True, slots=True)
class Need:
    """What one axis of an op needs; see the module's text."""

    source: Interval
    before: int
    after: int
    result: Interval


class AxisRule(Protocol):
    """How one axis of an op's output depends on its input."""

    def need(self, asked: Interval) -> Need: ...


def _clamped(start: int, stop: int, size: int, result: Interval) -> Need:
    """The need for [start, stop), of which [0, size) exists and the rest is padding."""
    return Need(Interval(max(start, 0), min(stop, size)), max(0, -start), max(0, stop - size), result)


@dataclass(frozen=True, slots=True)
class Pointwise:
    """Each element depends on the element at its own place."""

    def need(self, asked: Interval) -> Need:
        return Need(asked, 0, 0, asked)


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window; `reach` is d·(k−1)+1, `pad` what the whole image has before its first row."""

    reach: int
    stride: int
    pad: int
    size: int

    def need(self, asked: Interval) -> Need:
        start = self.stride * asked.start - self.pad
        stop = self.stride * (asked.stop - 1) + self.reach - self.pad
        return _clamped(start, stop, self.size, asked)


@dataclass(frozen=True, slots=True)
class CountingWindow:
    """A window that averages over the pixels inside the image only (AVERAGE_POOL_2D with SAME padding).

    Padding would be counted, so the tile runs with SAME padding too, on an interval chosen so that the padding the
    runtime derives from the tile's size puts every asked window where the whole image has it, clipped alike.
    """

    reach: int
    stride: int
    pad: int
    size: int

    def need(self, asked: Interval) -> Need:
        inner = Window(self.reach, self.stride, self.pad, self.size).need(asked)
        # A window that is clipped by the image has to be clipped by the tile: the tile then ends where the image does.
        starts = (0,) if inner.before else range(inner.source.start, -1, -1)
        stops = (self.size,) if inner.after else range(inner.source.stop, self.size + 1)
        for start in starts:
            for stop in stops:
                count, pad = same_padding(stop - start, self.reach, self.stride)
                first, remainder = divmod(start - pad + self.pad, self.stride)
                if remainder == 0 and first <= asked.start and asked.stop <= first + count:
                    return Need(Interval(start, stop), 0, 0, Interval(first, first + count))
        raise AssertionError("the whole image always meets the condition")


@dataclass(frozen=True, slots=True)
class Padding:
    """An explicit PAD; with `mirror` (1 reflect, 0 symmetric) padding repeats what lies inside the border."""

    pad: int
    size: int
    mirror: int | None = None

    def need(self, asked: Interval) -> Need:
        # At least one row of the image has to be there, since a tensor cannot be empty.
        start = min(asked.start - self.pad, self.size - 1)
        stop = max(asked.stop - self.pad, 1)
        need = _clamped(start, stop, self.size, Interval(start + self.pad, stop + self.pad))
        if self.mirror is None or not (need.before or need.after):
            return need
        first = min(need.source.start, self.size - need.after - self.mirror) if need.after else need.source.start
        last = max(need.source.stop, need.before + self.mirror) if need.before else need.source.stop
        # Where padding is added, the source already ends at the image's border; the other end only grows.
        return Need(Interval(first, last), need.before, need.after,
                    Interval(first - need.before + self.pad, last + need.after + self.pad))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Enlargement:
    """Each input row yields `factor` output rows; `before` and `after` are the neighbours that interpolation reads."""

    factor: int
    size: int
    before: int = 0
    after: int = 0

    def need(self, asked: Interval) -> Need:
        start = max(0, asked.start // self.factor - self.before)
        stop = min(self.size, (asked.stop - 1) // self.factor + 1 + self.after)
        return Need(Interval(start, stop), 0, 0, Interval(start * self.factor, stop * self.factor))


@dataclass(frozen=True, slots=True)
class Resampling:
    """A resize whose weights depend on the absolute position or on the whole image's size.

    The runtime derives both from the sizes it is given, so the tile is run at the image's own size: the rows it does
    not have are padding, which the asked rows never read. `corners` says that the scale is (in − 1)/(out − 1).
    """

    size: int
    result: int
    corners: bool

    def need(self, asked: Interval) -> Need:
        scale = (self.size - 1) / max(1, self.result - 1) if self.corners else self.size / self.result
        # One row more on each side: half-pixel centres and interpolation reach that far, rounding included.
        start = max(0, min(self.size - 1, int(asked.start * scale) - 1))
        stop = min(self.size, int((asked.stop - 1) * scale) + 3)
        return Need(Interval(start, stop), start, self.size - stop, Interval(0, self.result))


@dataclass(frozen=True, slots=True)
class TransposedWindow:
    """A transposed convolution: input row i adds to output rows [i·s − p, i·s − p + k)."""

    kernel: int
    stride: int
    pad: int
    size: int

    def need(self, asked: Interval) -> Need:
        start = max(0, -((self.kernel - 1 - asked.start - self.pad) // self.stride))
        stop = min(self.size, (asked.stop - 1 + self.pad) // self.stride + 1)
        first = start * self.stride - self.pad
        return Need(Interval(start, stop), 0, 0,
                    Interval(first, first + (stop - start - 1) * self.stride + self.kernel))  # fmt: skip


@dataclass(frozen=True, slots=True)
class OpGeometry:
    """How an op may be tiled: the positions of its inputs that are feature maps, and a rule per axis."""

    maps: tuple[int, ...]
    rows: AxisRule
    columns: AxisRule


class NotLocalError(Exception):
    """An op cannot be tiled; the message says why."""


def same_padding(size: int, reach: int, stride: int) -> tuple[int, int]:
    """Output size and padding before the first row, for SAME padding of `size` rows."""
    count = -(-size // stride)
    return count, max(0, (count - 1) * stride + reach - size) // 2


def op_geometry(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    """How `op` may be tiled; `constants` are the tensors whose values do not depend on the network's input.

    Raises NotLocalError where the op is not spatially local, or not in a form that can be tiled bit-exactly.
    """
    rule = _RULES.get(op.kind)
    if rule is None:
        raise NotLocalError(f"{op.label} is not spatially local")
    for index in (*op.outputs, *(i for i in op.inputs if i >= 0 and i not in constants)):
        tensor = graph.tensors[index]
        if len(tensor.shape) != 4 or tensor.shape[0] != 1:
            raise NotLocalError(f"{op.label} works on a tensor of shape {list(tensor.shape)}, not on (1, H, W, C)")
        if 0 in tensor.shape:
            raise NotLocalError(f"{op.label} works on an empty tensor")
        if tensor.is_variable or tensor.sparsity is not None:
            raise NotLocalError(f"{op.label} works on a variable or sparse tensor")
    return rule(graph, op, constants)


_Rule = Callable[[Graph, Op, frozenset[int]], OpGeometry]


def _need_constants(op: Op, positions: tuple[int, ...], constants: frozenset[int]) -> None:
    for position in positions:
        if position < len(op.inputs) and op.inputs[position] >= 0 and op.inputs[position] not in constants:
            raise NotLocalError(f"{op.label} computes its parameters at run time")


def _stored(graph: Graph, op: Op, position: int) -> tuple[int, ...]:
    """The integers of a constant parameter of `op`."""
    tensor = graph.tensors[op.inputs[position]]
    if not tensor.is_constant:
        raise NotLocalError(f"{op.label} computes its parameters at run time")
    return tuple(int(value) for value in tensor.values().ravel())


def _sizes(graph: Graph, index: int) -> tuple[int, int]:
    shape = graph.tensors[index].shape
    return shape[HEIGHT], shape[WIDTH]


def _window(graph: Graph, op: Op, kernel: tuple[int, int], dilation: tuple[int, int], source: int) -> OpGeometry:
    strides = (op.options["stride_h"], op.options["stride_w"])
    counting = op.kind == "AVERAGE_POOL_2D"
    rules: list[AxisRule] = []
    for size, k, d, stride in zip(_sizes(graph, op.inputs[source]), kernel, dilation, strides, strict=True):
        reach = d * (k - 1) + 1
        if stride < 1 or reach < 1:
            raise NotLocalError(f"{op.label} has a stride or kernel below one")
        pad = same_padding(size, reach, stride)[1] if op.options["padding"] == SAME else 0
        # One padding option serves both axes, so with SAME both axes count.
        rule = CountingWindow if counting and op.options["padding"] == SAME else Window
        rules.append(rule(reach, stride, pad, size))
    return OpGeometry((source,), *rules)


def _convolution(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    _need_constants(op, (1, 2), constants)
    kernel = graph.tensors[op.inputs[1]].shape
    dilation = (op.options["dilation_h_factor"], op.options["dilation_w_factor"])
    return _window(graph, op, (kernel[1], kernel[2]), dilation, 0)


def _pool(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    return _window(graph, op, (op.options["filter_height"], op.options["filter_width"]), (1, 1), 0)


def _transposed_convolution(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    _need_constants(op, (0, 1, 3), constants)
    kernel = graph.tensors[op.inputs[1]].shape
    strides = (op.options["stride_h"], op.options["stride_w"])
    rules = []
    sizes = zip(_sizes(graph, op.inputs[2]), _sizes(graph, op.outputs[0]), kernel[1:3], strides, strict=True)
    for size, out, k, stride in sizes:
        if stride > k:
            raise NotLocalError(f"{op.label} has a stride above its kernel")
        pad = max(0, (size - 1) * stride + k - out) // 2
        rules.append(TransposedWindow(k, stride, pad, size))
    return OpGeometry((2,), *rules)


def _elementwise(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    maps = tuple(p for p, i in enumerate(op.inputs) if i >= 0 and i not in constants)
    if not maps:
        raise NotLocalError(f"{op.label} reads no feature map")
    if any(_sizes(graph, op.inputs[p]) != _sizes(graph, op.outputs[0]) for p in maps):
        raise NotLocalError(f"{op.label} spreads one value over the whole image")
    return OpGeometry(maps, Pointwise(), Pointwise())


def _concatenation(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    if op.options["axis"] not in (CHANNELS, -1):
        raise NotLocalError(f"{op.label} joins along axis {op.options['axis']}, not along the channels")
    return _elementwise(graph, op, constants)


def _padding(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    pads = _stored(graph, op, 1)
    if len(pads) != 8 or any(pads[:2]) or min(pads) < 0:
        raise NotLocalError(f"{op.label} pads the batch or has a form that is not known")
    _need_constants(op, (2,), constants)
    mirror = None
    if op.kind == "MIRROR_PAD":
        mirror = 1 - op.options["mode"]  # schema, MirrorPadMode: REFLECT = 0, SYMMETRIC = 1
        if any(pads[6:]):
            raise NotLocalError(f"{op.label} mirrors channels")
    height, width = _sizes(graph, op.inputs[0])
    return OpGeometry((0,), Padding(pads[2], height, mirror), Padding(pads[4], width, mirror))


def _enlargement(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    _need_constants(op, (1,), constants)
    bilinear = op.kind == "RESIZE_BILINEAR"
    half_pixel, corners = bool(op.options["half_pixel_centers"]), bool(op.options["align_corners"])
    sizes, results = _sizes(graph, op.inputs[0]), _sizes(graph, op.outputs[0])
    factors = [result // size for size, result in zip(sizes, results, strict=True)]
    exact = not corners and all(
        # i/factor is exact in binary for powers of two only; else weights depend on the absolute position.
        factor * size == result and factor & (factor - 1) == 0
        for factor, size, result in zip(factors, sizes, results, strict=True)
    )
    rules: list[AxisRule] = []
    for factor, size, result in zip(factors, sizes, results, strict=True):
        neighbours = bilinear and factor > 1
        local = Enlargement(factor, size, int(neighbours and half_pixel), int(neighbours))
        rules.append(local if exact else Resampling(size, result, corners))
    return OpGeometry((0,), *rules)


def _slice(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    """Crops and steps along rows and columns are windows of one element; channels are cut the same in every tile."""
    begin, _, steps = slice_bounds(graph, op)
    height, width = _sizes(graph, op.inputs[0])
    return OpGeometry((0,), Window(1, steps[1], -begin[1], height), Window(1, steps[2], -begin[2], width))


def slice_bounds(graph: Graph, op: Op) -> tuple[list[int], list[int], list[int]]:
    """First element, end and step of a SLICE or STRIDED_SLICE of a feature map, along each of its four axes.

    Raises NotLocalError where it adds or drops axes, runs backwards, or is computed at run time.
    """
    shape = graph.tensors[op.inputs[0]].shape
    first, second = list(_stored(graph, op, 1)), list(_stored(graph, op, 2))
    if len(first) != 4 or len(second) != 4:
        raise NotLocalError(f"{op.label} adds or drops axes")
    if op.kind == "SLICE":
        ends = [size if n < 0 else b + n for b, n, size in zip(first, second, shape, strict=True)]
        return first, ends, [1, 1, 1, 1]
    steps = list(_stored(graph, op, 3))
    if any(op.options.get(mask) for mask in ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask", "offset")):
        raise NotLocalError(f"{op.label} adds or drops axes")
    if min(steps) < 1:
        raise NotLocalError(f"{op.label} runs backwards")
    begins, ends = [], []
    for axis, size in enumerate(shape):
        open_start, open_end = op.options["begin_mask"] >> axis & 1, op.options["end_mask"] >> axis & 1
        begins.append(0 if open_start else slice(first[axis], None).indices(size)[0])
        ends.append(size if open_end else slice(None, second[axis]).indices(size)[1])
    return begins, ends, steps


def _split(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    source, axis = (1, 0) if op.kind == "SPLIT" else (0, 2)
    if _stored(graph, op, axis)[0] not in (CHANNELS, -1):
        raise NotLocalError(f"{op.label} does not split along the channels")
    if op.inputs[source] in constants:
        raise NotLocalError(f"{op.label} reads no feature map")
    return OpGeometry((source,), Pointwise(), Pointwise())


def _channel_reduction(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    if any(axis not in (CHANNELS, -1) for axis in _stored(graph, op, 1)) or not op.options["keep_dims"]:
        raise NotLocalError(f"{op.label} reduces over the whole image")
    return OpGeometry((0,), Pointwise(), Pointwise())


def _depth_to_space(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    block = op.options["block_size"]
    height, width = _sizes(graph, op.inputs[0])
    return OpGeometry((0,), Enlargement(block, height), Enlargement(block, width))


def _space_to_depth(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    block = op.options["block_size"]
    height, width = _sizes(graph, op.inputs[0])
    return OpGeometry((0,), Window(block, block, 0, height), Window(block, block, 0, width))


# Two operands, of which one may be a constant.
BINARY = frozenset({"ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "POW", "SQUARED_DIFFERENCE", "SUB"})
UNARY = frozenset({
    "ABS", "CAST", "CEIL", "COS", "DEQUANTIZE", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG",
    "LOGISTIC", "NEG", "PRELU", "QUANTIZE", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN",
    "SQRT", "SQUARE", "TANH",
})  # fmt: skip
# These work on the channels of one pixel.
CHANNELWISE = frozenset({"L2_NORMALIZATION", "LOG_SOFTMAX", "SOFTMAX"})

_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(BINARY | UNARY | CHANNELWISE, _elementwise),
    **dict.fromkeys(("MEAN", "REDUCE_MAX", "REDUCE_MIN", "SUM"), _channel_reduction),
    "AVERAGE_POOL_2D": _pool,
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "DEPTH_TO_SPACE": _depth_to_space,
    "MAX_POOL_2D": _pool,
    "MIRROR_PAD": _padding,
    "PAD": _padding,
    "PADV2": _padding,
    "RESIZE_BILINEAR": _enlargement,
    "RESIZE_NEAREST_NEIGHBOR": _enlargement,
    "SLICE": _slice,
    "SPACE_TO_DEPTH": _space_to_depth,
    "SPLIT": _split,
    "SPLIT_V": _split,
    "STRIDED_SLICE": _slice,
    "TRANSPOSE_CONV": _transposed_convolution,
}
