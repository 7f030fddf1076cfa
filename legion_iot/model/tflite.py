"""`.tflite` bytes to `Graph` and back, without TensorFlow and without a runtime.

Reading keeps weights as views into the given buffer, so a memory-mapped file is never copied. Writing puts large
constants *behind* the flatbuffer as external buffers (`Buffer.offset`/`size` of the TFLite schema, 16-byte aligned):
the cost of writing is then that of copying the weight bytes once.

Options tables are copied by the schema's own accessors, whatever the op, so that an op this project knows nothing
about still passes through unchanged.

Source: TensorFlow Lite schema version 3 (`schema.fbs`), by way of the PyPI package `tflite`.
"""

from __future__ import annotations

import functools
import importlib
import mmap
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flatbuffers
import numpy as np

from legion_iot.errors import InputError, ModelError
from legion_iot.model.graph import NUMPY_DTYPES, Bytes, Graph, Op, Quantization, SparseDimension, Sparsity, Tensor

IDENTIFIER = b"TFL3"
ALIGNMENT = 16  # bytes; what TFLite asks of a constant's address
INLINE_LIMIT = 1024  # bytes; smaller constants stay inside the flatbuffer
MAX_TENSORS = 100_000
MAX_OPS = 100_000
MAX_RANK = 8
MAX_TENSOR_BYTES = 4 << 30

# What the accessors of a damaged flatbuffer raise when an offset leads nowhere.
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError, KeyError, MemoryError)


# --- the schema, by introspection ---------------------------------------------------------------------------------


def _schema(name: str) -> Any:
    """The module of one table or enumeration of the schema, imported when first needed."""
    return importlib.import_module(f"tflite.{name}")


@functools.cache
def _enumeration(name: str) -> tuple[Mapping[str, int], Mapping[int, str]]:
    """An enumeration of the schema as name → number and number → name."""
    members = {key: value for key, value in vars(getattr(_schema(name), name)).items() if isinstance(value, int)}
    return MappingProxyType(members), MappingProxyType({value: key for key, value in members.items()})


def _name_of(enumeration: str, number: int, what: str) -> str:
    try:
        return _enumeration(enumeration)[1][number]
    except KeyError:
        raise ModelError(f"{what} number {number} is newer than the TFLite schema this version knows") from None


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of an options table: its schema name, its accessor's name, and whether it is a vector."""

    name: str
    accessor: str
    is_vector: bool


@functools.cache
def _options_fields(options_type: str) -> tuple[_Field, ...]:
    module = _schema(options_type)
    table = getattr(module, options_type)
    prefix = f"{options_type}Add"
    fields = []
    for function in vars(module):
        if function.startswith(prefix):
            accessor = function[len(prefix) :]
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", accessor).lower()
            fields.append(_Field(name, accessor, hasattr(table, f"{accessor}Length")))
    return tuple(fields)


# --- reading ------------------------------------------------------------------------------------------------------


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
        self.model = _schema("Model").Model.GetRootAs(data.data, 0)

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
        return Graph(
            tensors=tensors,
            ops=ops,
            inputs=_integers(subgraph.InputsAsNumpy()),
            outputs=_integers(subgraph.OutputsAsNumpy()),
            name=_text(subgraph.Name()),
            description=_text(self.model.Description()),
            metadata=MappingProxyType(dict(self._metadata())),
        )

    def _operator_code(self, code: Any) -> tuple[str, str, int]:
        # Codes above 127 do not fit the old field, which then holds 127 (schema, OperatorCode).
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        return _name_of("BuiltinOperator", number, "operator"), _text(code.CustomCode()), code.Version()

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
        dtype = _name_of("TensorType", table.Type(), "tensor type").lower()
        shape = _integers(table.ShapeAsNumpy())
        data = self._buffer(table.Buffer()) if table.Buffer() else None
        if data is not None and data.size == 0:
            data = None
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


# SparseIndexVector of the schema: the union's type is that of the table which wraps the values.
_SPARSE_VECTORS: Mapping[int, tuple[str, np.dtype[Any]]] = {
    1: ("Int32Vector", np.dtype(np.int32)),
    2: ("Uint16Vector", np.dtype(np.uint16)),
    3: ("Uint8Vector", np.dtype(np.uint8)),
}


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
    name, dtype = _SPARSE_VECTORS[kind]
    vector = getattr(_schema(name), name)()
    vector.Init(union.Bytes, union.Pos)
    return np.array(_integers(vector.ValuesAsNumpy()), dtype=dtype)


def _read_options(operator: Any) -> tuple[str, Mapping[str, Any]]:
    for union_name, number, union in (
        ("BuiltinOptions", operator.BuiltinOptionsType(), operator.BuiltinOptions()),
        ("BuiltinOptions2", operator.BuiltinOptions2Type(), operator.BuiltinOptions2()),
    ):
        if number and union is not None:
            options_type = _name_of(union_name, number, "options type")
            table = getattr(_schema(options_type), options_type)()
            table.Init(union.Bytes, union.Pos)
            return options_type, MappingProxyType(dict(_option_values(options_type, table)))
    return "", MappingProxyType({})


def _option_values(options_type: str, table: Any) -> Iterator[tuple[str, Any]]:
    for field in _options_fields(options_type):
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
        if clash := written.intersection(op.outputs):
            raise ModelError(f"is damaged: tensor {min(clash)} is written twice; copy it again")
        written.update(op.outputs)
    if any(not 0 <= i < count for i in (*graph.inputs, *graph.outputs)):
        raise ModelError("is damaged: it names an input or output that does not exist; copy it again")
    if not graph.ops or not graph.inputs or not graph.outputs:
        raise ModelError("is an empty network (no op, input or output); export it again")


# --- writing ------------------------------------------------------------------------------------------------------


def write_file(graph: Graph, path: Path) -> None:
    """Write the network to `path`, whole or not at all.

    Raises ModelError where an op's options cannot be copied, InputError where the disk refuses.
    """
    chunks = write(graph)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(chunks)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free the disk or choose another place"
        ) from None


def write(graph: Graph) -> list[Any]:
    """The bytes of a `.tflite` file, as bytes-like chunks to be written one after the other.

    The first chunk is the flatbuffer, the others its constants (views, not copies) and their alignment.
    """
    return _Writer(graph).chunks()


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.builder = flatbuffers.Builder(4096)
        self.buffers: list[Bytes] = [np.empty(0, np.uint8)]  # buffer 0 is empty by the schema's convention
        self.index_of: dict[tuple[int, int], int] = {}

    def chunks(self) -> list[Any]:
        flatbuffer = self._flatbuffer()
        chunks: list[Any] = [flatbuffer]
        position = len(flatbuffer)
        model = _schema("Model").Model.GetRootAs(flatbuffer, 0)
        for index, content in enumerate(self.buffers):
            if content.size <= INLINE_LIMIT:
                continue
            padding = -position % ALIGNMENT
            position += padding
            table = model.Buffers(index)._tab
            struct.pack_into("<Q", flatbuffer, table.Offset(6) + table.Pos, position)
            chunks += [bytes(padding), np.ascontiguousarray(content).data]
            position += content.size
        return chunks

    def _flatbuffer(self) -> bytearray:
        """The flatbuffer; offsets of external buffers are placeholders, since they depend on its final size."""
        builder, graph = self.builder, self.graph
        tensors = self._tables([self._tensor(tensor) for tensor in graph.tensors])
        codes, operators = self._operators()
        inputs, outputs = self._vector(graph.inputs, np.int32), self._vector(graph.outputs, np.int32)
        name = builder.CreateString(graph.name)
        module = _schema("SubGraph")
        module.SubGraphStart(builder)
        module.SubGraphAddTensors(builder, tensors)
        module.SubGraphAddInputs(builder, inputs)
        module.SubGraphAddOutputs(builder, outputs)
        module.SubGraphAddOperators(builder, operators)
        module.SubGraphAddName(builder, name)
        subgraphs = self._tables([module.SubGraphEnd(builder)])
        metadata = self._tables([self._metadata(key, content) for key, content in graph.metadata.items()])
        buffers = self._tables([self._buffer(content) for content in self.buffers])
        description = builder.CreateString(graph.description)
        module = _schema("Model")
        module.ModelStart(builder)
        module.ModelAddVersion(builder, 3)
        module.ModelAddOperatorCodes(builder, codes)
        module.ModelAddSubgraphs(builder, subgraphs)
        module.ModelAddDescription(builder, description)
        module.ModelAddBuffers(builder, buffers)
        module.ModelAddMetadata(builder, metadata)
        builder.Finish(module.ModelEnd(builder), file_identifier=IDENTIFIER)
        return bytearray(builder.Output())

    def _vector(self, values: Iterable[int] | Iterable[float], dtype: Any) -> int:
        return int(self.builder.CreateNumpyVector(np.array(list(values), dtype=dtype)))

    def _tables(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def _buffer_index(self, content: Bytes) -> int:
        """The buffer that holds `content`; tensors that share bytes share a buffer."""
        key = (content.__array_interface__["data"][0], content.size)
        if key not in self.index_of:
            self.index_of[key] = len(self.buffers)
            self.buffers.append(content)
        return self.index_of[key]

    def _buffer(self, content: Bytes) -> int:
        builder, module = self.builder, _schema("Buffer")
        inline = None
        if 0 < content.size <= INLINE_LIMIT:
            builder.StartVector(1, content.size, ALIGNMENT)
            builder.head -= content.size
            builder.Bytes[builder.head : builder.head + content.size] = content.tobytes()
            inline = builder.EndVector()
        module.BufferStart(builder)
        if inline is not None:
            module.BufferAddData(builder, inline)
        elif content.size:
            module.BufferAddOffset(builder, 2)  # any value above 1 keeps the field; patched in `chunks`
            module.BufferAddSize(builder, content.size)
        return int(module.BufferEnd(builder))

    def _metadata(self, name: str, content: Bytes) -> int:
        builder, module = self.builder, _schema("Metadata")
        text = builder.CreateString(name)
        module.MetadataStart(builder)
        module.MetadataAddName(builder, text)
        module.MetadataAddBuffer(builder, self._buffer_index(content))
        return int(module.MetadataEnd(builder))

    def _tensor(self, tensor: Tensor) -> int:
        builder, module = self.builder, _schema("Tensor")
        name = builder.CreateString(tensor.name)
        shape = self._vector(tensor.shape, np.int32)
        signature = self._vector(tensor.shape_signature, np.int32) if tensor.shape_signature else None
        quantization = self._quantization(tensor.quantization) if tensor.quantization else None
        sparsity = self._sparsity(tensor.sparsity) if tensor.sparsity else None
        module.TensorStart(builder)
        module.TensorAddShape(builder, shape)
        module.TensorAddType(builder, _enumeration("TensorType")[0][tensor.dtype.upper()])
        module.TensorAddBuffer(builder, self._buffer_index(tensor.data) if tensor.data is not None else 0)
        module.TensorAddName(builder, name)
        module.TensorAddIsVariable(builder, tensor.is_variable)
        module.TensorAddHasRank(builder, tensor.has_rank)
        if signature is not None:
            module.TensorAddShapeSignature(builder, signature)
        if quantization is not None:
            module.TensorAddQuantization(builder, quantization)
        if sparsity is not None:
            module.TensorAddSparsity(builder, sparsity)
        return int(module.TensorEnd(builder))

    def _quantization(self, quantization: Quantization) -> int:
        builder, module = self.builder, _schema("QuantizationParameters")
        minimum, maximum, scale = (
            self._vector(values, np.float32)
            for values in (quantization.minimum, quantization.maximum, quantization.scale)
        )
        zero_point = self._vector(quantization.zero_point, np.int64)
        module.QuantizationParametersStart(builder)
        module.QuantizationParametersAddMin(builder, minimum)
        module.QuantizationParametersAddMax(builder, maximum)
        module.QuantizationParametersAddScale(builder, scale)
        module.QuantizationParametersAddZeroPoint(builder, zero_point)
        module.QuantizationParametersAddQuantizedDimension(builder, quantization.axis)
        return int(module.QuantizationParametersEnd(builder))

    def _sparsity(self, sparsity: Sparsity) -> int:
        builder, module = self.builder, _schema("SparsityParameters")
        dimensions = self._tables([self._sparse_dimension(dimension) for dimension in sparsity.dimensions])
        order, block_map = self._vector(sparsity.traversal_order, np.int32), self._vector(sparsity.block_map, np.int32)
        module.SparsityParametersStart(builder)
        module.SparsityParametersAddTraversalOrder(builder, order)
        module.SparsityParametersAddBlockMap(builder, block_map)
        module.SparsityParametersAddDimMetadata(builder, dimensions)
        return int(module.SparsityParametersEnd(builder))

    def _sparse_dimension(self, dimension: SparseDimension) -> int:
        builder, module = self.builder, _schema("DimensionMetadata")
        segments, indices = self._sparse_vector(dimension.segments), self._sparse_vector(dimension.indices)
        module.DimensionMetadataStart(builder)
        module.DimensionMetadataAddFormat(builder, dimension.format)
        module.DimensionMetadataAddDenseSize(builder, dimension.dense_size)
        if segments:
            module.DimensionMetadataAddArraySegmentsType(builder, segments[0])
            module.DimensionMetadataAddArraySegments(builder, segments[1])
        if indices:
            module.DimensionMetadataAddArrayIndicesType(builder, indices[0])
            module.DimensionMetadataAddArrayIndices(builder, indices[1])
        return int(module.DimensionMetadataEnd(builder))

    def _sparse_vector(self, values: Any) -> tuple[int, int] | None:
        if values is None:
            return None
        kind, name = next((kind, name) for kind, (name, dtype) in _SPARSE_VECTORS.items() if dtype == values.dtype)
        vector = self.builder.CreateNumpyVector(values)
        module = _schema(name)
        getattr(module, f"{name}Start")(self.builder)
        getattr(module, f"{name}AddValues")(self.builder, vector)
        return kind, int(getattr(module, f"{name}End")(self.builder))

    def _operators(self) -> tuple[int, int]:
        """The vectors of operator codes and of operators."""
        codes: dict[tuple[str, str, int], int] = {}
        operators = []
        for op in self.graph.ops:
            code = codes.setdefault((op.kind, op.custom_code, op.version), len(codes))
            operators.append(self._operator(op, code))
        return self._tables([self._operator_code(*code) for code in codes]), self._tables(operators)

    def _operator_code(self, kind: str, custom_code: str, version: int) -> int:
        builder, module = self.builder, _schema("OperatorCode")
        number = _enumeration("BuiltinOperator")[0][kind]
        text = builder.CreateString(custom_code) if custom_code else None
        module.OperatorCodeStart(builder)
        module.OperatorCodeAddDeprecatedBuiltinCode(builder, min(number, 127))
        module.OperatorCodeAddBuiltinCode(builder, number)
        module.OperatorCodeAddVersion(builder, version)
        if text is not None:
            module.OperatorCodeAddCustomCode(builder, text)
        return int(module.OperatorCodeEnd(builder))

    def _operator(self, op: Op, code: int) -> int:
        builder, module = self.builder, _schema("Operator")
        inputs, outputs = self._vector(op.inputs, np.int32), self._vector(op.outputs, np.int32)
        intermediates = self._vector(op.intermediates, np.int32) if op.intermediates else None
        mutating = self._vector(op.mutating_variable_inputs, np.bool_) if op.mutating_variable_inputs else None
        custom = builder.CreateNumpyVector(op.custom_options) if op.custom_options is not None else None
        options = self._options(op) if op.options_type else None
        module.OperatorStart(builder)
        module.OperatorAddOpcodeIndex(builder, code)
        module.OperatorAddInputs(builder, inputs)
        module.OperatorAddOutputs(builder, outputs)
        if intermediates is not None:
            module.OperatorAddIntermediates(builder, intermediates)
        if mutating is not None:
            module.OperatorAddMutatingVariableInputs(builder, mutating)
        if custom is not None:
            module.OperatorAddCustomOptions(builder, custom)
        if options is not None:
            first = _enumeration("BuiltinOptions")[0]
            if op.options_type in first:
                module.OperatorAddBuiltinOptionsType(builder, first[op.options_type])
                module.OperatorAddBuiltinOptions(builder, options)
            else:
                module.OperatorAddBuiltinOptions2Type(builder, _enumeration("BuiltinOptions2")[0][op.options_type])
                module.OperatorAddBuiltinOptions2(builder, options)
        return int(module.OperatorEnd(builder))

    def _options(self, op: Op) -> int:
        builder, module = self.builder, _schema(op.options_type)
        accessors = {field.name: field.accessor for field in _options_fields(op.options_type)}
        values: dict[str, Any] = {}
        for name, value in op.options.items():
            if isinstance(value, bytes):
                values[name] = builder.CreateString(value)
            elif isinstance(value, np.ndarray):
                values[name] = builder.CreateNumpyVector(value)
            elif value is None or isinstance(value, (int, float)):
                values[name] = value
            else:
                raise ModelError(f"{op.label} has options of a form that cannot be copied ({op.options_type}.{name})")
        getattr(module, f"{op.options_type}Start")(builder)
        for name, value in values.items():
            if value is not None:
                getattr(module, f"{op.options_type}Add{accessors[name]}")(builder, value)
        return int(getattr(module, f"{op.options_type}End")(builder))
