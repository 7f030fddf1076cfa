"""Messages to bytes and back: JSON for what people may read, msgpack for what carries tensors.

The only module that imports msgpack. Everything read is checked against the message's types and against hard limits,
so that a hostile payload costs no more than its own size; what does not fit raises ProtocolError.

A binary message is a 4-byte little-endian header length, a msgpack map, and the raw bytes of a region or chunk.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import struct
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgpack

from legion_iot.errors import ProtocolError

SCHEMA = 1  # version of every message; a reader refuses any other
MAX_JSON = 4 << 20  # bytes
MAX_HEADER = 4096  # bytes of a binary message's msgpack map
MAX_ITEMS = 100_000  # entries of any list or map in a message
MAX_INTEGER = 2**63 - 1

_Message = TypeVar("_Message")


def to_json(message: Any) -> bytes:
    """A message dataclass as JSON, with the schema version first."""
    return json.dumps({"schema": SCHEMA, **_plain(message)}, separators=(",", ":"), allow_nan=False).encode()


def from_json(cls: type[_Message], payload: bytes) -> _Message:
    """The message of class `cls` in a JSON payload; raises ProtocolError where it is none."""
    if len(payload) > MAX_JSON:
        raise ProtocolError(f"{cls.__name__} of {len(payload)} bytes is above the limit of {MAX_JSON}")
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        raise ProtocolError(f"{cls.__name__} is no JSON") from None
    return _from_map(cls, value)


def pack(message: Any, body: bytes | memoryview = b"") -> bytes:
    """A binary message: the dataclass as header, and its raw bytes."""
    header = msgpack.packb({"schema": SCHEMA, "kind": type(message).__name__, **_plain(message)})
    return b"".join((struct.pack("<I", len(header)), header, body))


def unpack(classes: Mapping[str, type[Any]], payload: bytes) -> tuple[Any, memoryview]:
    """The message and a view of its raw bytes, of one of the `classes` by name; raises ProtocolError."""
    view = memoryview(payload)
    if len(view) < 4:
        raise ProtocolError("binary message is cut short")
    (length,) = struct.unpack_from("<I", view)
    if not 0 < length <= min(MAX_HEADER, len(view) - 4):
        raise ProtocolError(f"binary message claims a header of {length} bytes")
    try:
        value = msgpack.unpackb(
            view[4 : 4 + length], max_str_len=256, max_bin_len=0, max_array_len=64, max_map_len=64, max_ext_len=0
        )
    except (ValueError, msgpack.UnpackException, RecursionError):
        raise ProtocolError("binary message has no readable header") from None
    kind = value.pop("kind", None) if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in classes:
        raise ProtocolError(f"binary message of unknown kind {kind!r}")
    return _from_map(classes[kind], value), view[4 + length :]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return value


def _from_map(cls: type[_Message], value: Any) -> _Message:
    if not isinstance(value, dict) or value.pop("schema", None) != SCHEMA:
        raise ProtocolError(f"{cls.__name__} is not of schema {SCHEMA}; update the older side")
    return cast(_Message, _build(cls, value, cls.__name__))


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _build(kind: Any, value: Any, place: str) -> Any:
    """`value` as the type `kind`, checked; `place` names it in errors."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_dataclass(kind, value, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise ProtocolError(f"{place} is no list")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_build(arguments[0], entry, place) for entry in value)
        if len(value) != len(arguments):
            raise ProtocolError(f"{place} has {len(value)} entries, not {len(arguments)}")
        return tuple(_build(t, entry, place) for t, entry in zip(arguments, value, strict=True))
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _build(next(t for t in arguments if t is not type(None)), value, place)
    if origin is dict:
        if not isinstance(value, dict) or len(value) > MAX_ITEMS:
            raise ProtocolError(f"{place} is no map")
        return {_build(arguments[0], k, place): _build(arguments[1], v, place) for k, v in value.items()}
    return _build_scalar(kind, value, place)


def _build_scalar(kind: Any, value: Any, place: str) -> Any:
    if kind is float and type(value) is int and abs(value) <= MAX_INTEGER:
        value = float(value)
    if type(value) is kind and _is_sound(value):
        return value
    raise ProtocolError(f"{place} is {value!r:.40}, not of type {getattr(kind, '__name__', kind)}")


def _is_sound(value: Any) -> bool:
    """Whether every reader can hold the value: a finite number of 64 bits, or a text that has a UTF-8 form."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    # JSON can spell half a surrogate pair, which no terminal and no msgpack can take.
    return not (isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value))


def _build_dataclass(cls: type[Any], value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise ProtocolError(f"{place} is no map")
    key: Any = cls  # mypy does not take a class for hashable
    arguments, hints = {}, _hints(key)
    for field in dataclasses.fields(cls):
        if field.name in value:
            arguments[field.name] = _build(hints[field.name], value[field.name], f"{place}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ProtocolError(f"{place} lacks {field.name!r}")
    # Fields this version does not know are left out: a newer sender of the same schema may add some.
    return cls(**arguments)
