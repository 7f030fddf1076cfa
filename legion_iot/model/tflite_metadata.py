"""Labels and normalisation out of a file's own TFLite metadata.

The metadata is a flatbuffer of its own (`metadata_schema.fbs`, identifier M001) in the buffer `TFLITE_METADATA`; the
label files it names are a ZIP archive behind the model. Only what is used is read, by field number: the schema's
package (tflite-support) does not exist for the machines this runs on.

Source: TensorFlow Lite metadata schema 1.0, tables ModelMetadata, SubGraphMetadata, TensorMetadata, ProcessUnit,
NormalizationOptions and AssociatedFile.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

from flatbuffers import number_types
from flatbuffers.table import Table

from legion_iot.model.graph import Bytes

METADATA_NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
MAX_LABEL_BYTES = 4 << 20
MAX_ENTRIES = 1000  # of any vector; more than a file for people has

# Field numbers of the schema.
_SUBGRAPHS = 3  # ModelMetadata
_INPUTS, _OUTPUTS = 2, 3  # SubGraphMetadata
_PROCESS_UNITS, _ASSOCIATED_FILES = 4, 6  # TensorMetadata
_OPTIONS_TYPE, _OPTIONS = 0, 1  # ProcessUnit
_NORMALIZATION = 1  # ProcessUnitOptions
_MEAN, _STD = 0, 1  # NormalizationOptions
_FILE_NAME, _FILE_TYPE = 0, 2  # AssociatedFile
_AXIS_LABELS, _VALUE_LABELS = 2, 3  # AssociatedFileType

_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError, zipfile.BadZipFile, RuntimeError, OSError)


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What the metadata says: value = (byte − mean) / std of the first input, and the first output's labels."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


def read_metadata(buffer: Bytes, file: Bytes) -> FileMetadata:
    """The metadata in `buffer`, with label files out of the archive behind the model `file`.

    Metadata that is damaged says nothing: it is there for people, and the model runs without.
    """
    try:
        content = buffer.tobytes()
        if content[4:8] != IDENTIFIER:
            return FileMetadata()
        (root,) = struct.unpack_from("<I", content)
        for subgraph in _tables(Table(content, root), _SUBGRAPHS):
            mean, std = _normalisation(subgraph)
            return FileMetadata(mean, std, _labels(subgraph, file))
    except _DAMAGE:
        pass
    return FileMetadata()


def _tables(table: Table, field: int) -> Iterator[Table]:
    """The tables of a vector field."""
    offset = table.Offset(4 + 2 * field)
    if offset:
        start = table.Vector(offset)
        for i in range(min(table.VectorLen(offset), MAX_ENTRIES)):
            yield Table(table.Bytes, table.Indirect(start + 4 * i))


def _normalisation(subgraph: Table) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for tensor in _tables(subgraph, _INPUTS):
        for unit in _tables(tensor, _PROCESS_UNITS):
            kind = unit.Offset(4 + 2 * _OPTIONS_TYPE)
            if kind and unit.Get(number_types.Uint8Flags, kind + unit.Pos) == _NORMALIZATION:
                union = unit.Offset(4 + 2 * _OPTIONS)
                options = Table(unit.Bytes, unit.Pos + union)
                options = Table(unit.Bytes, unit.Indirect(options.Pos))
                return _floats(options, _MEAN), _floats(options, _STD)
        break  # normalisation of the first input only
    return (), ()


def _floats(table: Table, field: int) -> tuple[float, ...]:
    offset = table.Offset(4 + 2 * field)
    if not offset:
        return ()
    return tuple(float(v) for v in table.GetVectorAsNumpy(number_types.Float32Flags, offset)[:MAX_ENTRIES])


def _labels(subgraph: Table, file: Bytes) -> tuple[str, ...]:
    for tensor in _tables(subgraph, _OUTPUTS):
        for associated in _tables(tensor, _ASSOCIATED_FILES):
            kind = associated.Offset(4 + 2 * _FILE_TYPE)
            number = associated.Get(number_types.Int8Flags, kind + associated.Pos) if kind else 0
            name = associated.Offset(4 + 2 * _FILE_NAME)
            if number in (_AXIS_LABELS, _VALUE_LABELS) and name:
                return _label_file(file, associated.String(name + associated.Pos).decode())
    return ()


def _label_file(file: Bytes, name: str) -> tuple[str, ...]:
    with zipfile.ZipFile(io.BytesIO(file.data)) as archive:
        if archive.getinfo(name).file_size > MAX_LABEL_BYTES:
            return ()
        return tuple(line.strip() for line in archive.read(name).decode("utf-8", "replace").splitlines())
