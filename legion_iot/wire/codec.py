"""Messages to bytes and back: JSON for what people may read, msgpack for what carries tensors.

The only module that imports msgpack. Everything read is checked against the message's types and against hard limits,
so that a hostile payload costs no more than its own size; what does not fit raises ProtocolError.

A binary message is a 4-byte little-endian header length, a msgpack map, and the raw bytes of regions or a chunk.

The theory. Pieces of feature maps come by the hundred, and each has a header: so what a class's types ask for is found
out once, as functions that call each other, instead of being looked up for each message.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import struct
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import msgpack

from legion_iot.errors import ProtocolError

SCHEMA = 1  # version of every message; a reader refuses any other
MAX_JSON = 4 << 20  # bytes
MAX_HEADER = 4096  # bytes of a binary message's msgpack map
MAX_ITEMS = 100_000  # entries of any list or map in a message
MAX_INTEGER = 2**63 - 1

_LENGTH = struct.Struct("<I")

_Message = TypeVar("_Message")
_Reader = Callable[[Any], Any]


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
    return b"".join((_LENGTH.pack(len(header)), header, body))


def unpack(classes: Mapping[str, type[Any]], payload: bytes) -> tuple[Any, memoryview]:
    """The message and a view of its raw bytes, of one of the `classes` by name; raises ProtocolError."""
    view = memoryview(payload)
    if len(view) < 4:
        raise ProtocolError("binary message is cut short")
    (length,) = _LENGTH.unpack_from(view)
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


def read_array(payload: bytes) -> tuple[tuple[int, ...], str, bytes]:
    """Shape, dtype and elements of a msgpack map of just these, as a client may send it; raises ProtocolError."""
    try:
        value = msgpack.unpackb(
            payload, max_str_len=32, max_bin_len=len(payload), max_array_len=16, max_map_len=3, max_ext_len=0
        )
    except (ValueError, msgpack.UnpackException, RecursionError):
        raise ProtocolError("no readable msgpack map") from None
    match value:
        case {"shape": [*shape], "dtype": str(dtype), "data": bytes(data)} if all(type(n) is int for n in shape):
            return tuple(shape), dtype, data
    raise ProtocolError("no msgpack map of shape, dtype and data")


def _plain(value: Any) -> Any:
    """What JSON and msgpack can write in place of `value`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _writer(type(value))(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return value


@functools.cache
def _writer(cls: Any) -> Callable[[Any], dict[str, Any]]:
    """What makes a map of a message of this class; fields of numbers and texts are taken over as they are."""
    names = [field.name for field in dataclasses.fields(cls)]
    nested = [name for name in names if not _is_flat(_hints(cls)[name])]
    if len(names) < 2:
        return lambda message: {name: _plain(getattr(message, name)) for name in names}
    values = operator.attrgetter(*names)

    def write(message: Any) -> dict[str, Any]:
        plain = dict(zip(names, values(message), strict=True))
        for name in nested:
            plain[name] = _plain(plain[name])
        return plain

    return write


def _is_flat(kind: Any) -> bool:
    """Whether values of this type hold numbers and texts only, at most in one tuple."""
    if typing.get_origin(kind) is tuple:
        return all(argument is Ellipsis or argument in _SCALARS for argument in typing.get_args(kind))
    return kind in _SCALARS


def _from_map(cls: type[_Message], value: Any) -> _Message:
    if not isinstance(value, dict) or value.pop("schema", None) != SCHEMA:
        raise ProtocolError(f"{cls.__name__} is not of schema {SCHEMA}; update the older side")
    kind: Any = cls  # mypy does not take a class for hashable
    return cast(_Message, _reader(kind, cls.__name__)(value))


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def _reader(kind: Any, place: str) -> _Reader:
    """What turns a value into the type `kind`, checked; `place` names it in errors."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_reader(kind, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return _tuple_reader(arguments, place)
    if origin in (types.UnionType, typing.Union):
        read = _reader(next(t for t in arguments if t is not type(None)), place)
        return (lambda value: None if value is None else read(value)) if type(None) in arguments else read
    if origin is dict:
        read_key, read_entry = (_reader(argument, place) for argument in arguments)

        def read_map(value: Any) -> Any:
            if not isinstance(value, dict) or len(value) > MAX_ITEMS:
                raise ProtocolError(f"{place} is no map")
            return {read_key(key): read_entry(entry) for key, entry in value.items()}

        return read_map
    return _scalar_reader(kind, place)


def _tuple_reader(arguments: tuple[Any, ...], place: str) -> _Reader:
    is_open = len(arguments) == 2 and arguments[1] is Ellipsis
    are_integers = set(arguments) == {int}
    readers = tuple(_reader(argument, place) for argument in arguments if argument is not Ellipsis)

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise ProtocolError(f"{place} is no list")
        if is_open:
            return tuple(map(readers[0], value))
        if len(value) != len(readers):
            raise ProtocolError(f"{place} has {len(value)} entries, not {len(readers)}")
        if are_integers and tuple(map(type, value)) == arguments and max(map(abs, value)) <= MAX_INTEGER:
            return tuple(value)
        return tuple([reader(entry) for reader, entry in zip(readers, value, strict=True)])

    return read


def _scalar_reader(kind: Any, place: str) -> _Reader:
    is_sound = _SCALARS.get(kind)
    if is_sound is None:
        raise TypeError(f"{place}: messages hold no {kind}")

    def read(value: Any) -> Any:
        if type(value) is kind and is_sound(value):
            return value
        if kind is float and type(value) is int and abs(value) <= MAX_INTEGER:
            return float(value)
        raise ProtocolError(f"{place} is {value!r:.40}, not of type {kind.__name__}")

    return read


def _dataclass_reader(cls: Any, place: str) -> _Reader:
    hints = _hints(cls)
    fields = [
        (field.name, _reader(hints[field.name], f"{place}.{field.name}"), field.default)
        for field in dataclasses.fields(cls)
    ]

    read_promptly = _prompt_reader(cls, place)

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ProtocolError(f"{place} is no map")
        if (message := read_promptly(value)) is not None:
            return message
        arguments = []
        for name, read_field, default in fields:
            if name in value:
                arguments.append(read_field(value[name]))
            elif default is dataclasses.MISSING:
                raise ProtocolError(f"{place} lacks {name!r}")
            else:
                arguments.append(default)
        # Fields this version does not know are left out: a newer sender of the same schema may add some.
        return cls(*arguments)

    return read


def _prompt_reader(cls: Any, place: str) -> Callable[[dict[str, Any]], Any]:
    """What makes a message of a map that has all fields with sound numbers and texts, and None of any other map.

    All types are compared at once. What is wrong with a map, or missing, is for the reader that takes field by field.
    """
    kinds = {field.name: _hints(cls)[field.name] for field in dataclasses.fields(cls)}
    flat = {at: kind for at, kind in enumerate(kinds.values()) if kind in _SCALARS}
    others = [(at, _reader(kind, f"{place}.{name}")) for at, (name, kind) in enumerate(kinds.items()) if at not in flat]
    if len(flat) < 2:
        return lambda value: None
    values_of = operator.itemgetter(*kinds)
    flat_of, wanted = operator.itemgetter(*flat), tuple(flat.values())
    checks = [(at, _SCALARS[kind]) for at, kind in flat.items() if kind is not bool]

    def read(value: dict[str, Any]) -> Any:
        try:
            values = list(values_of(value))
        except KeyError:
            return None
        if tuple(map(type, flat_of(values))) != wanted:
            return None
        for at, is_sound in checks:
            if not is_sound(values[at]):
                return None
        for at, read_other in others:
            values[at] = read_other(values[at])
        return cls(*values)

    return read


def _is_text(value: str) -> bool:
    """Whether it has a UTF-8 form: JSON can spell half a surrogate pair, which no terminal and no msgpack can take."""
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


# The types a message is made of, and whether every reader can hold the value: a finite number of 64 bits, or a text.
_SCALARS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: True,
    int: lambda value: -MAX_INTEGER <= value <= MAX_INTEGER,
    float: math.isfinite,
    str: _is_text,
}
