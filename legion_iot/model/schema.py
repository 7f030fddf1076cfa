"""The TFLite schema, by introspection of the PyPI package `tflite`.

Enumerations become maps, and the options table of any op a list of named fields, so that an op this project knows
nothing about can still be copied, field by field.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from legion_iot.errors import ModelError

IDENTIFIER = b"TFL3"

# SparseIndexVector of the schema: the union's type is that of the table which wraps the values.
SPARSE_VECTORS: Mapping[int, tuple[str, np.dtype[Any]]] = {
    1: ("Int32Vector", np.dtype(np.int32)),
    2: ("Uint16Vector", np.dtype(np.uint16)),
    3: ("Uint8Vector", np.dtype(np.uint8)),
}

# The options table of each op that has parameters. An op with another table, or without, is run by the runtime with
# whatever its memory holds, so such a file is damaged.
OPTIONS_TABLES: Mapping[str, str] = {
    "ADD": "AddOptions",
    "ARG_MAX": "ArgMaxOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "DIV": "DivOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MIRROR_PAD": "MirrorPadOptions",
    "MUL": "MulOptions",
    "PACK": "PackOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "SPLIT": "SplitOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUB": "SubOptions",
    "SUM": "ReducerOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "UNPACK": "UnpackOptions",
}


def schema(name: str) -> Any:
    """The module of one table or enumeration of the schema, imported when first needed."""
    return importlib.import_module(f"tflite.{name}")


@functools.cache
def enumeration(name: str) -> tuple[Mapping[str, int], Mapping[int, str]]:
    """An enumeration of the schema as name → number and number → name."""
    members = {key: value for key, value in vars(getattr(schema(name), name)).items() if isinstance(value, int)}
    return MappingProxyType(members), MappingProxyType({value: key for key, value in members.items()})


def name_of(kind: str, number: int, what: str) -> str:
    """The name of a number in the enumeration `kind`; raises ModelError, which calls it `what`."""
    try:
        return enumeration(kind)[1][number]
    except KeyError:
        raise ModelError(f"{what} number {number} is newer than the TFLite schema this version knows") from None


@dataclass(frozen=True, slots=True)
class OptionsField:
    """One field of an options table: its schema name, its accessor's name, and whether it is a vector."""

    name: str
    accessor: str
    is_vector: bool


@functools.cache
def options_fields(options_type: str) -> tuple[OptionsField, ...]:
    """The fields of an options table, such as `Conv2DOptions`."""
    module = schema(options_type)
    table = getattr(module, options_type)
    prefix = f"{options_type}Add"
    fields = []
    for function in vars(module):
        if function.startswith(prefix):
            accessor = function[len(prefix) :]
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", accessor).lower()
            fields.append(OptionsField(name, accessor, hasattr(table, f"{accessor}Length")))
    return tuple(fields)
