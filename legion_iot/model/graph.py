"""An immutable view of one network, as read from or written to a `.tflite` file.

A `Graph` lists its tensors and its ops in execution order; ops name tensors by their index. Weights stay where they
are: `Tensor.data` is a flat view of bytes, usually into a memory-mapped file, and nothing here copies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

# TensorType names of the TFLite schema, in lower case, that numpy can hold.
NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        name: np.dtype(name)
        for name in (
            "float16", "float32", "float64", "int8", "int16", "int32", "int64",
            "uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128",
        )
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quantization:
    """Affine quantisation of one tensor: real = scale · (value − zero_point).

    `scale` and `zero_point` have one entry, or one per channel along `axis`.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class SparseDimension:
    """One dimension of a sparse tensor in TACO form (TFLite schema, `DimensionMetadata`)."""

    format: int
    dense_size: int
    segments: npt.NDArray[Any] | None = None
    indices: npt.NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Sparsity:
    """How the bytes of a sparse constant are laid out (TFLite schema, `SparsityParameters`)."""

    traversal_order: tuple[int, ...]
    block_map: tuple[int, ...]
    dimensions: tuple[SparseDimension, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One tensor: a constant when `data` is given, else a feature map.

    `shape` is NHWC for feature maps; `shape_signature` has −1 where the file leaves a size open. `data` are the raw
    little-endian bytes as a flat uint8 view.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Bytes | None = None
    quantization: Quantization | None = None
    shape_signature: tuple[int, ...] = ()
    is_variable: bool = False
    sparsity: Sparsity | None = None
    has_rank: bool = True

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The numpy dtype of the elements; KeyError for types numpy cannot hold (string, int4)."""
        return NUMPY_DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of a dense tensor of this shape and dtype."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.numpy_dtype.itemsize

    def values(self) -> npt.NDArray[Any]:
        """The constant as an array of its dtype and shape, without a copy; ValueError where there is no constant."""
        if self.data is None:
            raise ValueError(f"tensor {self.name!r} is a feature map and has no stored values")
        return self.data.view(self.numpy_dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operator.

    `kind` is the schema's `BuiltinOperator` name (`"CONV_2D"`), or `"CUSTOM"` with `custom_code`. `options` holds the
    fields of the options table `options_type` (`"Conv2DOptions"`) under the schema's field names (`stride_h`).
    Absent optional inputs are −1.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_type: str = ""
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    version: int = 1
    custom_code: str = ""
    custom_options: Bytes | None = None
    intermediates: tuple[int, ...] = ()
    mutating_variable_inputs: tuple[bool, ...] = ()

    @property
    def label(self) -> str:
        """What a person calls this op: its kind, or its custom code."""
        return self.custom_code or self.kind


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """One network: tensors, ops in execution order, and which tensors go in and come out.

    `metadata` holds the file's named metadata buffers; `file` are the bytes it was read from, where a model may have
    an archive of label files behind it.
    """

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str = "main"
    description: str = ""
    metadata: Mapping[str, Bytes] = field(default_factory=lambda: MappingProxyType({}))
    file: Bytes | None = None

    def producers(self) -> dict[int, int]:
        """Tensor index → index of the op that writes it."""
        return {tensor: index for index, op in enumerate(self.ops) for tensor in op.outputs}

    def consumers(self) -> dict[int, tuple[int, ...]]:
        """Tensor index → indices of the ops that read it, in execution order."""
        readers: dict[int, list[int]] = {}
        for index, op in enumerate(self.ops):
            for tensor in dict.fromkeys(op.inputs):
                if tensor >= 0:
                    readers.setdefault(tensor, []).append(index)
        return {tensor: tuple(ops) for tensor, ops in readers.items()}
