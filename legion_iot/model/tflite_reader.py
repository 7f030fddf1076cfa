"""`.tflite` bytes to `Graph`, without TensorFlow and without a runtime.

Weights stay views into the given buffer, so a memory-mapped file is never copied. Nothing in the file is trusted: every
count is checked against the file's size before it is followed, every index, shape and constant before it is used.

Source: TensorFlow Lite schema version 3 (`schema.fbs`).
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from legion_iot.errors import InputError, ModelError
from legion_iot.model.graph import NUMPY_DTYPES, Bytes, Graph, Op, Quantization, SparseDimension, Sparsity, Tensor
from legion_iot.model.schema import IDENTIFIER, OPTIONS_TABLES, SPARSE_VECTORS, name_of, options_fields, schema

MAX_TENSORS = 100_000
MAX_OPS = 100_000
MAX_RANK = 8
MAX_TENSOR_BYTES = 4 << 30

# What the accessors of a damaged flatbuffer raise when an offset leads nowhere.
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError, KeyError, MemoryError)


def open_file(path: Path) -> Graph:
    """The network in a `.tflite` file, memory-mapped: weights are read from disk only when something touches them.

    Raises InputError where the file cannot be opened, ModelError where it is no sound TFLite model.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content: Bytes = np.frombuffer(
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"", dtype=np.uint8
            )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a .tflite file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable .tflite file") from None
    try:
        return read(content)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def read(content: bytes | Bytes) -> Graph:
    """The network in the bytes of a `.tflite` file; constants are views into `content`.

    Raises ModelError where the bytes are no TFLite model, are damaged, or hold several subgraphs (control flow).
    """
    data = np.frombuffer(content, dtype=np.uint8) if isinstance(content, bytes) else content
    if data.size < 16 or data[4:8].tobytes() != IDENTIFIER:
        raise ModelError("is no TFLite model (its identifier is missing); convert the network to .tflite first")
    try:
        graph = _Reader(data).graph()
    except ModelError:
        raise
    except _DAMAGE as error:
        raise ModelError(f"is damaged: an offset in it leads nowhere ({type(error).__name__}); copy it again") from None
    _validate(graph)
    return graph


class _Reader:
    """Walks the flatbuffer once; every vector length is checked against the file's size before it is followed."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        # flatbuffers' accessors want a bytes-like object; the view shares memory with the file.
        self.model = schema("Model").Model.GetRootAs(data.data, 0)

    def _count(self, length: int, limit: int, what: str) -> int:
        if length > min(limit, self.data.size // 4):
            raise ModelError(f"is damaged or hostile: it claims {length} {what}; copy it again")
        return length

    def graph(self) -> Graph:
        subgraphs = self.model.SubgraphsLength()
        if subgraphs != 1:
            raise ModelError(f"has {subgraphs} subgraphs (control flow); only networks of one subgraph can be run")
        subgraph = self.model.Subgraphs(0)
        codes = [
            self._operator_code(self.model.OperatorCodes(i))
            for i in range(self._count(self.model.OperatorCodesLength(), MAX_OPS, "operator codes"))
        ]
        tensors = tuple(
            self._tensor(subgraph.Tensors(i))
            for i in range(self._count(subgraph.TensorsLength(), MAX_TENSORS, "tensors"))
        )
        ops = tuple(
            self._op(subgraph.Operators(i), codes)
            for i in range(self._count(subgraph.OperatorsLength(), MAX_OPS, "operators"))
        )
        inputs = _integers(subgraph.InputsAsNumpy())
        made = {*inputs, *(i for op in ops for i in op.outputs)}
        return Graph(
            # A constant without elements has nothing to store, and looks like a map that nobody makes.
            tensors=tuple(
                replace(tensor, data=self.data[:0]) if 0 in tensor.shape and index not in made else tensor
                for index, tensor in enumerate(tensors)
            ),
            ops=ops,
            inputs=inputs,
            outputs=_integers(subgraph.OutputsAsNumpy()),
            name=_text(subgraph.Name()),
            description=_text(self.model.Description()),
            metadata=MappingProxyType(dict(self._metadata())),
            file=self.data,
        )

    def _operator_code(self, code: Any) -> tuple[str, str, int]:
        # Codes above 127 do not fit the old field, which then holds 127 (schema, OperatorCode).
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        return name_of("BuiltinOperator", number, "operator"), _text(code.CustomCode()), code.Version()

    def _buffer(self, index: int) -> Bytes | None:
        """The bytes of buffer `index`, inline or external; None for an empty one."""
        if not 0 <= index < self.model.BuffersLength():
            raise ModelError(f"is damaged: it names buffer {index}, which does not exist; copy it again")
        buffer = self.model.Buffers(index)
        if buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            return self._slice(start, buffer.DataLength())
        if buffer.Offset() > 1:  # 0 and 1 stand for "none" (schema, Buffer)
            return self._slice(buffer.Offset(), buffer.Size())
        return None

    def _slice(self, start: int, size: int) -> Bytes:
        if start + size > self.data.size:
            raise ModelError(
                f"is cut short: {start + size} bytes are needed, {self.data.size} are there; copy it again"
            )
        return self.data[start : start + size]

    def _tensor(self, table: Any) -> Tensor:
        dtype = name_of("TensorType", table.Type(), "tensor type").lower()
        shape = _integers(table.ShapeAsNumpy())
        data = self._buffer(table.Buffer()) if table.Buffer() else None
        return Tensor(
            name=_text(table.Name()),
            shape=shape,
            dtype=dtype,
            data=data,
            quantization=_quantization(table.Quantization()),
            shape_signature=_integers(table.ShapeSignatureAsNumpy()),
            is_variable=bool(table.IsVariable()),
            sparsity=_sparsity(table.Sparsity()),
            has_rank=bool(table.HasRank()) or bool(shape),
        )

    def _op(self, table: Any, codes: Sequence[tuple[str, str, int]]) -> Op:
        kind, custom_code, version = codes[table.OpcodeIndex()]
        options_type, options = _read_options(table)
        custom_options: Bytes | None = None
        if table.CustomOptionsLength():
            custom_options = table.CustomOptionsAsNumpy()
        elif table.LargeCustomOptionsOffset() > 1:
            custom_options = self._slice(table.LargeCustomOptionsOffset(), table.LargeCustomOptionsSize())
        return Op(
            kind=kind,
            inputs=_integers(table.InputsAsNumpy()),
            outputs=_integers(table.OutputsAsNumpy()),
            options_type=options_type,
            options=options,
            version=version,
            custom_code=custom_code if kind == "CUSTOM" else "",
            custom_options=custom_options,
            intermediates=_integers(table.IntermediatesAsNumpy()),
            mutating_variable_inputs=tuple(bool(flag) for flag in _integers(table.MutatingVariableInputsAsNumpy())),
        )

    def _metadata(self) -> Iterator[tuple[str, Bytes]]:
        for i in range(self._count(self.model.MetadataLength(), MAX_TENSORS, "metadata entries")):
            entry = self.model.Metadata(i)
            content = self._buffer(entry.Buffer())
            if content is not None:
                yield _text(entry.Name()), content


def _integers(vector: Any) -> tuple[int, ...]:
    """A vector of the schema as Python integers; the accessors answer 0 for an absent one."""
    return () if isinstance(vector, int) else tuple(int(value) for value in vector)


def _reals(vector: Any) -> tuple[float, ...]:
    return () if isinstance(vector, int) else tuple(float(value) for value in vector)


def _text(value: bytes | None) -> str:
    return value.decode("utf-8", "replace") if value else ""


def _quantization(table: Any) -> Quantization | None:
    if table is None or (table.ScaleLength() == 0 and table.MinLength() == 0):
        return None
    if table.DetailsType():
        raise ModelError("uses a custom quantisation, which no standard runtime can run")
    return Quantization(
        scale=_reals(table.ScaleAsNumpy()),
        zero_point=_integers(table.ZeroPointAsNumpy()),
        axis=table.QuantizedDimension(),
        minimum=_reals(table.MinAsNumpy()),
        maximum=_reals(table.MaxAsNumpy()),
    )


def _sparsity(table: Any) -> Sparsity | None:
    if table is None:
        return None
    dimensions = []
    for i in range(table.DimMetadataLength()):
        dimension = table.DimMetadata(i)
        dimensions.append(
            SparseDimension(
                dimension.Format(),
                dimension.DenseSize(),
                _sparse_values(dimension.ArraySegmentsType(), dimension.ArraySegments()),
                _sparse_values(dimension.ArrayIndicesType(), dimension.ArrayIndices()),
            )
        )
    return Sparsity(_integers(table.TraversalOrderAsNumpy()), _integers(table.BlockMapAsNumpy()), tuple(dimensions))


def _sparse_values(kind: int, union: Any) -> Any:
    if not kind or union is None:
        return None
    name, dtype = SPARSE_VECTORS[kind]
    vector = getattr(schema(name), name)()
    vector.Init(union.Bytes, union.Pos)
    return np.array(_integers(vector.ValuesAsNumpy()), dtype=dtype)


def _read_options(operator: Any) -> tuple[str, Mapping[str, Any]]:
    for union_name, number, union in (
        ("BuiltinOptions", operator.BuiltinOptionsType(), operator.BuiltinOptions()),
        ("BuiltinOptions2", operator.BuiltinOptions2Type(), operator.BuiltinOptions2()),
    ):
        if number and union is not None:
            options_type = name_of(union_name, number, "options type")
            table = getattr(schema(options_type), options_type)()
            table.Init(union.Bytes, union.Pos)
            return options_type, MappingProxyType(dict(_option_values(options_type, table)))
    return "", MappingProxyType({})


def _option_values(options_type: str, table: Any) -> Iterator[tuple[str, Any]]:
    for field in options_fields(options_type):
        if field.is_vector:
            if not getattr(table, f"{field.accessor}IsNone")():
                # Vectors of tables have no numpy form; the value then stays the accessor's table, which is not written.
                as_numpy = getattr(table, f"{field.accessor}AsNumpy", None)
                yield field.name, as_numpy() if as_numpy else table
        else:
            yield field.name, getattr(table, field.accessor)()


def _validate(graph: Graph) -> None:
    """Raises ModelError unless every index, shape and constant of the graph is consistent."""
    count = len(graph.tensors)
    for index, tensor in enumerate(graph.tensors):
        if len(tensor.shape) > MAX_RANK or any(size < 0 for size in tensor.shape):
            raise ModelError(f"is damaged: tensor {index} has the shape {tensor.shape}; copy it again")
        if tensor.dtype not in NUMPY_DTYPES:
            continue
        if np.prod(tensor.shape, dtype=np.float64) * tensor.numpy_dtype.itemsize > MAX_TENSOR_BYTES:
            raise ModelError(f"is damaged or hostile: tensor {index} of shape {tensor.shape} is above 4 GB")
        if tensor.data is not None and tensor.sparsity is None and tensor.data.size != tensor.nbytes:
            raise ModelError(
                f"is damaged: tensor {index} of shape {tensor.shape} has {tensor.data.size} bytes, "
                f"not {tensor.nbytes}; copy it again"
            )
    written = set(graph.inputs) | {i for i, tensor in enumerate(graph.tensors) if tensor.is_constant}
    for op in graph.ops:
        if any(not -1 <= i < count for i in op.inputs) or any(not 0 <= i < count for i in op.outputs):
            raise ModelError(f"is damaged: its {op.label} names a tensor that does not exist; copy it again")
        if op.options_type != OPTIONS_TABLES.get(op.kind, op.options_type):
            carried = op.options_type or "no options"
            raise ModelError(f"is damaged: its {op.label} carries {carried}; copy it again")
        unwritten = [i for i in op.inputs if i >= 0 and i not in written and not graph.tensors[i].is_variable]
        if unwritten:
            raise ModelError(f"is damaged: its {op.label} reads tensor {unwritten[0]} before it is written")
        if clash := written.intersection(op.outputs):
            raise ModelError(f"is damaged: tensor {min(clash)} is written twice; copy it again")
        written.update(op.outputs)
    if any(not 0 <= i < count for i in (*graph.inputs, *graph.outputs)):
        raise ModelError("is damaged: it names an input or output that does not exist; copy it again")
    if not graph.ops or not graph.inputs or not graph.outputs:
        raise ModelError("is an empty network (no op, input or output); export it again")
