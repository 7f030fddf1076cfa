"""Signatures: what decides how long a unit or a tail runs, as a short text.

Two units with one signature take equally long for equally many rows on one device, whatever network they are in: their
ops have the same kinds, options, widths, channels and dtypes, and are wired alike. Heights, weights, names and indices
do not count.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from legion_iot.model.blocks import Network
from legion_iot.model.cut import SPREADING
from legion_iot.model.geometry import CHANNELS, HEIGHT, WIDTH, Enlargement, Resampling
from legion_iot.model.graph import Graph, Op

DIGITS = 16  # hexadecimal; two of a million signatures collide with a chance of one in 10⁷

# Constants whose values, not only shapes, decide what an op does; they hold no row of an image.
_PARAMETERS = frozenset({
    ("PAD", 1), ("PADV2", 1), ("MIRROR_PAD", 1), ("SPLIT", 0), ("MEAN", 1), ("SUM", 1), ("REDUCE_MAX", 1),
    ("REDUCE_MIN", 1), ("STRIDED_SLICE", 3),
})  # fmt: skip

# Options that decide no time: how numbers are represented, and a shape that the output has anyway.
_TIMELESS = frozenset({"pot_scale_int16", "new_shape"})

_Form = Callable[[int], Any]


def unit_signatures(network: Network) -> tuple[str, ...]:
    """The signature of each unit of the trunk, in order."""
    producers = network.graph.producers()
    return tuple(_signature(network, producers, unit.ops, False) for unit in network.units)


def tail_signature(network: Network) -> str:
    """The signature of the tail, heights included, since it always runs whole; empty where there is no tail."""
    if not network.tail:
        return ""
    return _signature(network, network.graph.producers(), network.tail, True)


def _signature(network: Network, producers: Mapping[int, int], ops: Sequence[int], whole: bool) -> str:
    graph = network.graph
    made = {tensor: number for number, tensor in enumerate(t for op in ops for t in graph.ops[op].outputs)}
    read = {tensor: number for number, tensor in enumerate(network.reads(tuple(ops)))}
    spreading = {t for op in ops if graph.ops[op].kind in SPREADING for t in graph.ops[op].inputs}

    def form(index: int) -> Any:
        """A tensor as its op sees it: where it comes from, its sizes and its dtype."""
        if index < 0:
            return None
        tensor = graph.tensors[index]
        per_channel = tensor.quantization is not None and len(tensor.quantization.scale) > 1
        sizes = list(tensor.shape)
        if index in network.constants:
            if not whole and len(sizes) > CHANNELS - HEIGHT and index in spreading:
                sizes[-3] = min(sizes[-3], 2)  # one row for all, or each its own
            return ["constant", sizes, tensor.dtype, per_channel, _origin(graph, producers, index)]
        if not whole:
            sizes = sizes[WIDTH:]
        place = ["made", made[index]] if index in made else ["read", read[index]]
        return [*place, sizes, tensor.dtype, per_channel]

    described = [_describe(network, op, form, whole) for op in ops]
    text = json.dumps(described, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _describe(network: Network, index: int, form: _Form, whole: bool) -> list[Any]:
    op = network.graph.ops[index]
    options = {key: _plain(value) for key, value in op.options.items() if key not in _TIMELESS}
    # A file states every option, a graph that was built only some; what is not stated is zero.
    options = {key: value for key, value in options.items() if value}
    tensors = [form(t) for t in op.inputs], [form(t) for t in op.outputs]
    parameters = [_values(network.graph, op, position) for position in range(len(op.inputs))]
    custom = bytes(op.custom_options).hex() if op.custom_options is not None else ""
    rule = [] if whole else _row_rule(network, index)
    return [op.kind, op.custom_code, custom, options, *tensors, parameters, rule]


def _plain(value: Any) -> Any:
    """An option as JSON has it; a file rounds numbers to single precision."""
    if isinstance(value, float):
        return f"{value:.6g}" if value else 0
    return np.asarray(value).tolist() if isinstance(value, (np.ndarray, tuple)) else value


def _values(graph: Graph, op: Op, position: int) -> list[Any] | None:
    index = op.inputs[position]
    if (op.kind, position) not in _PARAMETERS or index < 0 or not graph.tensors[index].is_constant:
        return None
    values: list[Any] = graph.tensors[index].values().ravel().tolist()
    return values


def _row_rule(network: Network, index: int) -> list[Any]:
    """How rows of the op's output follow from rows of its input, as far as its options do not say.

    A resize whose weights depend on the position runs at the image's own height, so there the height counts.
    """
    rule = network.geometries[index].rows
    name = type(rule).__name__
    if isinstance(rule, Resampling):
        return [name, rule.size, rule.result]
    return [name, rule.factor] if isinstance(rule, Enlargement) else [name]


def _origin(graph: Graph, producers: Mapping[int, int], index: int) -> list[Any]:
    """How a computed constant is stored: the ops behind it. Empty for one that is in the file as it is used."""
    steps: list[Any] = []
    while index in producers and len(steps) < len(graph.ops):
        op = graph.ops[producers[index]]
        index = op.inputs[0]
        steps.append([op.kind, graph.tensors[index].dtype, math.prod(graph.tensors[index].shape)])
    return steps
