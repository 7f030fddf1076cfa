"""`Graph` to the bytes of a `.tflite` file.

Large constants go *behind* the flatbuffer as external buffers (`Buffer.offset`/`size` of the TFLite schema, 16-byte
aligned): the cost of writing is then that of copying the weight bytes once. Tensors that share bytes share a buffer.

Source: TensorFlow Lite schema version 3 (`schema.fbs`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np

from legion_iot.errors import InputError, ModelError
from legion_iot.files import replace_file
from legion_iot.interruption import uninterrupted
from legion_iot.model.graph import Bytes, Graph, Op, Quantization, SparseDimension, Sparsity, Tensor
from legion_iot.model.schema import IDENTIFIER, SPARSE_VECTORS, enumeration, options_fields, schema

ALIGNMENT = 16  # bytes; what TFLite asks of a constant's address
INLINE_LIMIT = 1024  # bytes; smaller constants stay inside the flatbuffer


def write_file(graph: Graph, path: Path) -> None:
    """Write the network to `path`, whole or not at all.

    Raises ModelError where an op's options cannot be copied, InputError where the disk refuses.
    """
    chunks = write(graph)
    try:
        with uninterrupted():
            replace_file(path, chunks, lasting=False)
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
        model = schema("Model").Model.GetRootAs(flatbuffer, 0)
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
        module = schema("SubGraph")
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
        module = schema("Model")
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
        builder, module = self.builder, schema("Buffer")
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
        builder, module = self.builder, schema("Metadata")
        text = builder.CreateString(name)
        module.MetadataStart(builder)
        module.MetadataAddName(builder, text)
        module.MetadataAddBuffer(builder, self._buffer_index(content))
        return int(module.MetadataEnd(builder))

    def _tensor(self, tensor: Tensor) -> int:
        builder, module = self.builder, schema("Tensor")
        name = builder.CreateString(tensor.name)
        shape = self._vector(tensor.shape, np.int32)
        signature = self._vector(tensor.shape_signature, np.int32) if tensor.shape_signature else None
        quantization = self._quantization(tensor.quantization) if tensor.quantization else None
        sparsity = self._sparsity(tensor.sparsity) if tensor.sparsity else None
        module.TensorStart(builder)
        module.TensorAddShape(builder, shape)
        module.TensorAddType(builder, enumeration("TensorType")[0][tensor.dtype.upper()])
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
        builder, module = self.builder, schema("QuantizationParameters")
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
        builder, module = self.builder, schema("SparsityParameters")
        dimensions = self._tables([self._sparse_dimension(dimension) for dimension in sparsity.dimensions])
        order, block_map = self._vector(sparsity.traversal_order, np.int32), self._vector(sparsity.block_map, np.int32)
        module.SparsityParametersStart(builder)
        module.SparsityParametersAddTraversalOrder(builder, order)
        module.SparsityParametersAddBlockMap(builder, block_map)
        module.SparsityParametersAddDimMetadata(builder, dimensions)
        return int(module.SparsityParametersEnd(builder))

    def _sparse_dimension(self, dimension: SparseDimension) -> int:
        builder, module = self.builder, schema("DimensionMetadata")
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
        kind, name = next((kind, name) for kind, (name, dtype) in SPARSE_VECTORS.items() if dtype == values.dtype)
        vector = self.builder.CreateNumpyVector(values)
        module = schema(name)
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
        builder, module = self.builder, schema("OperatorCode")
        number = enumeration("BuiltinOperator")[0][kind]
        text = builder.CreateString(custom_code) if custom_code else None
        module.OperatorCodeStart(builder)
        module.OperatorCodeAddDeprecatedBuiltinCode(builder, min(number, 127))
        module.OperatorCodeAddBuiltinCode(builder, number)
        module.OperatorCodeAddVersion(builder, version)
        if text is not None:
            module.OperatorCodeAddCustomCode(builder, text)
        return int(module.OperatorCodeEnd(builder))

    def _operator(self, op: Op, code: int) -> int:
        builder, module = self.builder, schema("Operator")
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
            first = enumeration("BuiltinOptions")[0]
            if op.options_type in first:
                module.OperatorAddBuiltinOptionsType(builder, first[op.options_type])
                module.OperatorAddBuiltinOptions(builder, options)
            else:
                module.OperatorAddBuiltinOptions2Type(builder, enumeration("BuiltinOptions2")[0][op.options_type])
                module.OperatorAddBuiltinOptions2(builder, options)
        return int(module.OperatorEnd(builder))

    def _options(self, op: Op) -> int:
        builder, module = self.builder, schema(op.options_type)
        accessors = {field.name: field.accessor for field in options_fields(op.options_type)}
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
