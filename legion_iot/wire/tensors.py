"""Regions of feature maps as fragments, and fragments put together again.

A fragment is itself a region: a large region is divided into runs of rows (of columns, where one row is too large)
that each fit into `PIECE` bytes, so pieces need no numbering and no order. `Assembly` collects them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import ProtocolError
from legion_iot.model.geometry import Interval, Region
from legion_iot.model.graph import NUMPY_DTYPES
from legion_iot.wire import codec, quantised
from legion_iot.wire.messages import Chunk, ChunkRequest, Fragment, RegionBounds

PIECE = 256 << 10  # bytes of elements in one message (findings: larger ones hold up the broker)
WIRE_DTYPES = frozenset({"float32", "float16", "int8", "uint8", "int16", "int32", "int64", "float64", "bool"})
MAX_BODY = 4 << 20  # bytes; one element's channels may exceed PIECE, nothing exceeds this

INBOX = {cls.__name__: cls for cls in (Fragment, Chunk, ChunkRequest)}

Array = npt.NDArray[Any]
Buffers = tuple[bytes, memoryview]


def bounds(region: Region) -> RegionBounds:
    """The region as it stands in messages."""
    return region.rows.start, region.rows.stop, region.columns.start, region.columns.stop


def region_of(values: RegionBounds) -> Region:
    """The region in a message; raises ProtocolError where it is negative or inside out."""
    top, bottom, left, right = values
    if not (0 <= top <= bottom and 0 <= left <= right):
        raise ProtocolError(f"region {values} is inside out")
    return Region(Interval(top, bottom), Interval(left, right))


def as_map(values: Array) -> Array:
    """A tensor as (rows, columns, channels): a feature map of batch one as it is, anything else as one row."""
    return values[0] if values.ndim == 4 and values.shape[0] == 1 else values.reshape(1, -1, 1)


def pieces(region: Region, element_bytes: int) -> Iterator[Region]:
    """The region, divided into regions of at most `PIECE` bytes of elements (always at least one element)."""
    row_bytes = len(region.columns) * element_bytes
    rows = max(1, PIECE // max(1, row_bytes))
    columns = max(1, len(region.columns) if row_bytes <= PIECE else PIECE // element_bytes)
    for top in range(region.rows.start, region.rows.stop, rows):
        for left in range(region.columns.start, region.columns.stop, columns):
            yield Region(
                Interval(top, min(top + rows, region.rows.stop)),
                Interval(left, min(left + columns, region.columns.stop)),
            )


def fragments(header: Fragment, held: Array, origin: Region) -> Iterator[bytes]:
    """The messages that carry `header.region` out of `held`, (rows, columns, channels) of the region `origin`."""
    return map(b"".join, fragment_buffers(header, held, origin))


def fragment_buffers(header: Fragment, held: Array, origin: Region) -> Iterator[Buffers]:
    """Those messages as buffers to be sent one after the other; runs of whole rows are views of `held`, not copies."""
    if header.wire:
        yield from _quantised_fragments(header, held, origin)
        return
    for piece in pieces(region_of(header.region), held.shape[2] * held.itemsize):
        part = np.ascontiguousarray(held[_within(piece, origin)])
        yield codec.pack(dataclasses.replace(header, region=bounds(piece))), part.data.cast("B")


def _quantised_fragments(header: Fragment, held: Array, origin: Region) -> Iterator[Buffers]:
    for piece in pieces(region_of(header.region), held.shape[2] * quantised.ELEMENT_BYTES[header.wire]):
        sent = dataclasses.replace(header, region=bounds(piece))
        body = quantised.encode(np.ascontiguousarray(held[_within(piece, origin)]), header.wire)
        if body is None:
            yield from fragment_buffers(dataclasses.replace(sent, wire=""), held, origin)
        else:
            yield codec.pack(sent), memoryview(body)


def wire_bytes(region: Region, channels: int, dtype: str, wire: str = "") -> int:
    """Bytes of the bodies that carry a region, where all its values can travel as `wire`."""
    if not wire:
        return region.area * channels * NUMPY_DTYPES[dtype].itemsize
    sizes = pieces(region, channels * quantised.ELEMENT_BYTES[wire])
    return sum(quantised.body_size(piece.area, channels, wire) for piece in sizes)


def read_fragment(header: Fragment, body: memoryview) -> Array:
    """The elements of a fragment as (rows, columns, channels), where it can be a view of `body`.

    Raises ProtocolError where header and body do not belong together.
    """
    region = region_of(header.region)
    if header.dtype not in WIRE_DTYPES:
        raise ProtocolError(f"fragment of dtype {header.dtype!r}, which is not allowed")
    dtype = NUMPY_DTYPES[header.dtype]
    if header.wire:
        return _read_quantised(header, region, body)
    expected = region.area * header.channels * dtype.itemsize
    if header.channels < 1 or not 0 < expected <= MAX_BODY or expected != len(body):
        raise ProtocolError(f"fragment of {region.area}×{header.channels} {header.dtype} has {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(len(region.rows), len(region.columns), header.channels)


def _read_quantised(header: Fragment, region: Region, body: memoryview) -> Array:
    if header.dtype != "float32":
        raise ProtocolError(f"fragment of {header.dtype} travels as {header.wire!r:.20}, which only float32 may")
    if header.channels < 1 or not 0 < region.area * header.channels <= MAX_BODY // 4:
        raise ProtocolError(f"fragment of {region.area}×{header.channels} elements is empty or too large")
    return quantised.decode(body, (len(region.rows), len(region.columns), header.channels), header.wire)


def _within(region: Region, origin: Region) -> tuple[slice, slice]:
    """The region as slices of an array that covers `origin`."""
    top, left = origin.rows.start, origin.columns.start
    return (
        slice(region.rows.start - top, region.rows.stop - top),
        slice(region.columns.start - left, region.columns.stop - left),
    )


class Assembly:
    """One region of a feature map being put together; complete when every element has come once.

    Elements that come twice are written twice, with the same values, and counted once.
    """

    def __init__(self, region: Region, channels: int, dtype: str) -> None:
        self.region = region
        self.values: Array = np.empty((len(region.rows), len(region.columns), channels), NUMPY_DTYPES[dtype])
        self._there = np.zeros(self.values.shape[:2], dtype=bool)
        self.missing = region.area

    def put(self, region: Region, values: Array) -> None:
        """Write `values` (rows, columns, channels) to their place; raises ProtocolError where they do not fit."""
        shape = (len(region.rows), len(region.columns), self.values.shape[2])
        if region not in self.region or values.dtype != self.values.dtype or values.shape != shape:
            raise ProtocolError(f"fragment {bounds(region)} of {values.dtype} does not belong to {bounds(self.region)}")
        place = _within(region, self.region)
        self.values[place] = values
        self.missing -= region.area - int(np.count_nonzero(self._there[place]))
        self._there[place] = True
