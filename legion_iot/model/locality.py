"""Which ops can be tiled, and by which rule (`geometry`); for any other, why not.

An op is local when each output pixel depends on a window of its inputs and on constants. Each rule also computes the
output's shape: a file that claims another one is not trusted with a tile, since the runtime would follow the op and
the planner the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from legion_iot.model.geometry import (
    CHANNELS,
    HEIGHT,
    SAME,
    AxisRule,
    ClippedWindow,
    Enlargement,
    Padding,
    Pointwise,
    Resampling,
    TransposedWindow,
    Window,
    same_padding,
)
from legion_iot.model.graph import Graph, Op

Shape = tuple[int, ...]  # rows, columns, channels


class NotLocalError(Exception):
    """An op cannot be tiled; the message says why."""


@dataclass(frozen=True, slots=True)
class OpGeometry:
    """How an op may be tiled: the positions of its inputs that are feature maps, and a rule per axis."""

    maps: tuple[int, ...]
    rows: AxisRule
    columns: AxisRule


@dataclass(frozen=True, slots=True)
class _Site:
    """One op in its graph; `constants` are the tensors whose values do not depend on the network's input."""

    graph: Graph
    op: Op
    constants: frozenset[int]

    def shape(self, index: int) -> Shape:
        """Rows, columns and channels of a feature map."""
        return self.graph.tensors[index].shape[HEIGHT:]

    def source(self, position: int) -> Shape:
        """The shape of the feature map at an input."""
        index = self.op.inputs[position]
        if index in self.constants:
            raise NotLocalError(f"{self.op.label} reads no feature map")
        return self.shape(index)

    def weights(self, position: int) -> Shape:
        """The shape of four-dimensional weights, given as a constant, directly or behind constant ops."""
        shape = self.graph.tensors[self.op.inputs[position]].shape
        if self.op.inputs[position] not in self.constants or len(shape) != 4 or 0 in shape:
            raise NotLocalError(f"{self.op.label} computes its weights at run time")
        return shape

    def stored(self, position: int) -> tuple[int, ...]:
        """The integers of a constant parameter."""
        tensor = self.graph.tensors[self.op.inputs[position]]
        if not tensor.is_constant:
            raise NotLocalError(f"{self.op.label} computes its parameters at run time")
        return tuple(int(value) for value in tensor.values().ravel())

    def need_constant(self, position: int) -> None:
        """Raises NotLocalError where an optional parameter is there and computed at run time."""
        inputs = self.op.inputs
        if position < len(inputs) and inputs[position] >= 0 and inputs[position] not in self.constants:
            raise NotLocalError(f"{self.op.label} computes its parameters at run time")


# What a rule answers: the geometry, and the shape of every output.
_Answer = tuple[OpGeometry, Shape]
_Rule = Callable[[_Site], _Answer]


def op_geometry(graph: Graph, op: Op, constants: frozenset[int]) -> OpGeometry:
    """How `op` may be tiled; `constants` are the tensors whose values do not depend on the network's input.

    Raises NotLocalError where the op is not spatially local, or not in a form that can be tiled bit-exactly.
    """
    rule = _RULES.get(op.kind)
    if rule is None:
        raise NotLocalError(f"{op.label} is not spatially local")
    if not op.outputs or (len(op.outputs) > 1 and op.kind != "SPLIT"):
        raise NotLocalError(f"{op.label} has {len(op.outputs)} outputs")
    if op.kind in _REDUCTIONS and any(len(graph.tensors[t].shape) != 4 for t in op.outputs):
        raise NotLocalError(f"{op.label} reduces over the whole image")
    for index in (*op.outputs, *(i for i in op.inputs if i >= 0 and i not in constants)):
        tensor = graph.tensors[index]
        if len(tensor.shape) != 4 or tensor.shape[0] != 1 or 0 in tensor.shape:
            raise NotLocalError(f"{op.label} works on a tensor of shape {list(tensor.shape)}, not on (1, H, W, C)")
        if tensor.is_variable or tensor.sparsity is not None:
            raise NotLocalError(f"{op.label} works on a variable or sparse tensor")
    try:
        geometry, shape = rule(_Site(graph, op, constants))
    except (KeyError, IndexError, ValueError, TypeError):
        raise NotLocalError(f"{op.label} has parameters of a form that is not known") from None
    for index in op.outputs:
        if graph.tensors[index].shape != (1, *shape):
            claimed = list(graph.tensors[index].shape)
            raise NotLocalError(f"{op.label} makes a tensor of shape {[1, *shape]}, and the file claims {claimed}")
    return geometry


def _window(site: _Site, kernel: Shape, dilation: Shape, channels: int) -> _Answer:
    op = site.op
    same = op.options["padding"] == SAME
    strides = (op.options["stride_h"], op.options["stride_w"])
    if min(*strides, *kernel, *dilation) < 1:
        raise NotLocalError(f"{op.label} has a stride, kernel or dilation below one")
    sizes = site.source(0)[:2]
    reaches = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    axes = list(zip(sizes, reaches, strides, strict=True))
    # One padding option serves both axes: where one axis is clipped, both follow that rule.
    clipped = same and op.kind.endswith("POOL_2D") and any((-(-n // s) - 1) * s + reach > n for n, reach, s in axes)
    rule = ClippedWindow if clipped else Window
    counts = [-(-n // s) if same else (n - reach) // s + 1 for n, reach, s in axes]
    rules = [rule(reach, s, same_padding(n, reach, s)[1] if same else 0, n) for n, reach, s in axes]
    return OpGeometry((0,), *rules), (*counts, channels)


def _convolution(site: _Site) -> _Answer:
    site.need_constant(2)
    weights, options = site.weights(1), site.op.options
    dilation = (options["dilation_h_factor"], options["dilation_w_factor"])
    channels = weights[0] if site.op.kind == "CONV_2D" else weights[3]
    return _window(site, weights[1:3], dilation, channels)


def _pool(site: _Site) -> _Answer:
    kernel = (site.op.options["filter_height"], site.op.options["filter_width"])
    return _window(site, kernel, (1, 1), site.source(0)[2])


def _transposed_convolution(site: _Site) -> _Answer:
    site.need_constant(3)
    op, weights = site.op, site.weights(1)
    batch, *sizes, channels = site.stored(0)
    if batch != 1 or channels != weights[0] or len(sizes) != 2:
        raise NotLocalError(f"{op.label} has an output shape that does not fit its weights")
    strides = (op.options["stride_h"], op.options["stride_w"])
    rules = []
    for size, out, k, stride in zip(site.source(2)[:2], sizes, weights[1:3], strides, strict=True):
        if not 1 <= stride <= k:
            raise NotLocalError(f"{op.label} has a stride above its kernel")
        # The convolution whose transpose this is has to make the input out of the output.
        if (-(-out // stride) if op.options["padding"] == SAME else (out - k) // stride + 1) != size:
            raise NotLocalError(f"{op.label} has an output shape that does not fit its input")
        pad = max(0, (size - 1) * stride + k - out) // 2
        rules.append(TransposedWindow(k, stride, pad, size))
    return OpGeometry((2,), *rules), (*sizes, channels)


def _elementwise(site: _Site) -> _Answer:
    """One or two maps of the same size; a constant may have any shape that spreads over the map."""
    op = site.op
    maps = tuple(p for p, i in enumerate(op.inputs) if i >= 0 and i not in site.constants)
    if not maps:
        raise NotLocalError(f"{op.label} reads no feature map")
    sizes = {site.shape(op.inputs[p])[:2] for p in maps}
    if len(sizes) != 1:
        raise NotLocalError(f"{op.label} spreads one value over the whole image")
    shape = list(site.shape(op.inputs[maps[0]]))
    for position, index in enumerate(op.inputs):
        other = site.graph.tensors[index].shape if index >= 0 else ()
        if position not in maps and (len(other) > 4 or (len(other) == 4 and other[0] != 1)):
            raise NotLocalError(f"{op.label} works on a constant of shape {list(other)}")
        for axis in range(-min(3, len(other)), 0):
            if other[axis] not in (1, shape[axis]) and shape[axis] != 1:
                raise NotLocalError(f"{op.label} works on shapes that do not fit each other")
            shape[axis] = max(shape[axis], other[axis])
    if (shape[0], shape[1]) not in sizes:
        raise NotLocalError(f"{op.label} spreads one value over the whole image")
    return OpGeometry(maps, Pointwise(), Pointwise()), tuple(shape)


def _concatenation(site: _Site) -> _Answer:
    op = site.op
    if op.options["axis"] not in (CHANNELS, -1):
        raise NotLocalError(f"{op.label} joins along axis {op.options['axis']}, not along the channels")
    maps = tuple(p for p, i in enumerate(op.inputs) if i not in site.constants)
    shapes = [site.graph.tensors[i].shape for i in op.inputs]
    if not maps or len({shape[:3] for shape in shapes}) != 1 or any(len(shape) != 4 for shape in shapes):
        raise NotLocalError(f"{op.label} joins maps of different sizes")
    return OpGeometry(maps, Pointwise(), Pointwise()), (*shapes[0][1:3], sum(shape[3] for shape in shapes))


def _padding(site: _Site) -> _Answer:
    pads = site.stored(1)
    if len(pads) != 8 or any(pads[:2]) or min(pads) < 0:
        raise NotLocalError(f"{site.op.label} pads the batch or has a form that is not known")
    site.need_constant(2)
    height, width, channels = site.source(0)
    mirror = None
    if site.op.kind == "MIRROR_PAD":
        mirror = 1 - site.op.options["mode"]  # schema, MirrorPadMode: REFLECT = 0, SYMMETRIC = 1
        if any(pads[6:]) or max(pads[2:4]) > height - mirror or max(pads[4:6]) > width - mirror:
            raise NotLocalError(f"{site.op.label} mirrors channels, or more than there is")
    rows, columns = Padding(pads[2], height, mirror), Padding(pads[4], width, mirror)
    return OpGeometry((0,), rows, columns), (height + sum(pads[2:4]), width + sum(pads[4:6]), channels + sum(pads[6:]))


def _resize(site: _Site) -> _Answer:
    options = site.op.options
    bilinear = site.op.kind == "RESIZE_BILINEAR"
    half_pixel, corners = bool(options["half_pixel_centers"]), bool(options["align_corners"])
    *sizes, channels = site.source(0)
    results = site.stored(1)
    if len(results) != 2 or min(results) < 1:
        raise NotLocalError(f"{site.op.label} resizes to {list(results)}")
    factors = [result // size for size, result in zip(sizes, results, strict=True)]
    exact = not corners and all(
        # i/factor is exact in binary for powers of two only; else weights depend on the absolute position.
        factor >= 1 and factor * size == result and factor & (factor - 1) == 0
        for factor, size, result in zip(factors, sizes, results, strict=True)
    )
    rules: list[AxisRule] = []
    for factor, size, result in zip(factors, sizes, results, strict=True):
        # The next row is read with weight 0, too: it decides the sign of a zero.
        local = Enlargement(factor, size, int(bilinear and half_pixel), int(bilinear))
        rules.append(local if exact else Resampling(size, result, corners))
    return OpGeometry((0,), *rules), (*results, channels)


def slice_bounds(graph: Graph, op: Op) -> tuple[list[int], list[int], list[int]]:
    """First element, end and step of a SLICE or STRIDED_SLICE of a feature map, along each of its four axes.

    Raises NotLocalError where it adds or drops axes, runs backwards, leaves the map or is computed at run time.
    """
    site = _Site(graph, op, frozenset())
    shape = graph.tensors[op.inputs[0]].shape
    first, second = list(site.stored(1)), list(site.stored(2))
    if len(first) != 4 or len(second) != 4:
        raise NotLocalError(f"{op.label} adds or drops axes")
    if op.kind == "SLICE":
        begins, steps = first, [1, 1, 1, 1]
        ends = [size if n < 0 else b + n for b, n, size in zip(first, second, shape, strict=True)]
    else:
        steps = list(site.stored(3))
        if any(op.options[mask] for mask in ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")):
            raise NotLocalError(f"{op.label} adds or drops axes")
        if op.options.get("offset") or len(steps) != 4 or min(steps) < 1:
            raise NotLocalError(f"{op.label} runs backwards")
        begins, ends = [], []
        for axis, size in enumerate(shape):
            open_start, open_end = op.options["begin_mask"] >> axis & 1, op.options["end_mask"] >> axis & 1
            begins.append(0 if open_start else slice(first[axis], None).indices(size)[0])
            ends.append(size if open_end else slice(None, second[axis]).indices(size)[1])
    if any(not 0 <= begin < end <= size for begin, end, size in zip(begins, ends, shape, strict=True)):
        raise NotLocalError(f"{op.label} keeps nothing, or more than there is")
    return begins, ends, steps


def _slice(site: _Site) -> _Answer:
    """Crops and steps along rows and columns are windows of one element; channels are cut the same in every tile."""
    height, width, _ = site.source(0)
    begin, end, steps = slice_bounds(site.graph, site.op)
    shape = tuple(-(-(e - b) // step) for b, e, step in zip(begin[1:], end[1:], steps[1:], strict=True))
    return OpGeometry((0,), Window(1, steps[1], -begin[1], height), Window(1, steps[2], -begin[2], width)), shape


def _split(site: _Site) -> _Answer:
    """Into equal parts along the channels; uneven parts (SPLIT_V) are left to the tail."""
    op = site.op
    if site.stored(0) not in ((CHANNELS,), (-1,)):
        raise NotLocalError(f"{op.label} does not split along the channels")
    height, width, channels = site.source(1)
    if channels % len(op.outputs) or op.options["num_splits"] != len(op.outputs):
        raise NotLocalError(f"{op.label} does not split into equal parts")
    return OpGeometry((1,), Pointwise(), Pointwise()), (height, width, channels // len(op.outputs))


def _channel_reduction(site: _Site) -> _Answer:
    if site.stored(1) not in ((CHANNELS,), (-1,)) or not site.op.options["keep_dims"]:
        raise NotLocalError(f"{site.op.label} reduces over the whole image")
    return OpGeometry((0,), Pointwise(), Pointwise()), (*site.source(0)[:2], 1)


def _depth_to_space(site: _Site) -> _Answer:
    block = site.op.options["block_size"]
    height, width, channels = site.source(0)
    if block < 1 or channels % block**2:
        raise NotLocalError(f"{site.op.label} has a block size that does not fit its channels")
    shape = (height * block, width * block, channels // block**2)
    return OpGeometry((0,), Enlargement(block, height), Enlargement(block, width)), shape


def _space_to_depth(site: _Site) -> _Answer:
    block = site.op.options["block_size"]
    height, width, channels = site.source(0)
    if block < 1 or height % block or width % block:
        raise NotLocalError(f"{site.op.label} has a block size that does not fit its map")
    shape = (height // block, width // block, channels * block**2)
    return OpGeometry((0,), Window(block, block, 0, height), Window(block, block, 0, width)), shape


# Two operands, of which one may be a constant.
BINARY = frozenset({"ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "POW", "SQUARED_DIFFERENCE", "SUB"})
UNARY = frozenset({
    "ABS", "CAST", "CEIL", "COS", "DEQUANTIZE", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG",
    "LOGISTIC", "NEG", "PRELU", "QUANTIZE", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN",
    "SQRT", "SQUARE", "TANH",
})  # fmt: skip
# These work on the channels of one pixel.
CHANNELWISE = frozenset({"L2_NORMALIZATION", "LOG_SOFTMAX", "SOFTMAX"})
_REDUCTIONS = frozenset({"MEAN", "REDUCE_MAX", "REDUCE_MIN", "SUM"})

_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(BINARY | UNARY | CHANNELWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _channel_reduction),
    "AVERAGE_POOL_2D": _pool,
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "DEPTH_TO_SPACE": _depth_to_space,
    "MAX_POOL_2D": _pool,
    "MIRROR_PAD": _padding,
    "PAD": _padding,
    "PADV2": _padding,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "SLICE": _slice,
    "SPACE_TO_DEPTH": _space_to_depth,
    "SPLIT": _split,
    "STRIDED_SLICE": _slice,
    "TRANSPOSE_CONV": _transposed_convolution,
}
