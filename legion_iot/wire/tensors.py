"""Regions of feature maps as fragments, and fragments put together again.

A fragment is itself a region: a large region is divided into runs of rows (of columns, where one row is too large), so
fragments need no numbering and no order. `Assembly` collects them. On their way they are packed into parcels
(`delivery`), one or several to a message.

The size of a fragment. A broker forwards a message when it has all of it, so a map arrives later by the time that its
largest fragment takes on one link: for a share of it, `SHARE`, that is 3 % whatever the link. Each fragment costs
either end some hundred microseconds, so none is smaller than `LEAST_PIECE`; and none larger than `MOST_PIECE`, since
brokers have limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import ProtocolError
from legion_iot.model.geometry import Interval, Region
from legion_iot.model.graph import NUMPY_DTYPES
from legion_iot.wire import codec, quantised, zeros
from legion_iot.wire.messages import Chunk, ChunkRequest, Echo, Fragment, Parcel, Receipt, RegionBounds

SHARE = 32  # fragments to a large region
LEAST_PIECE, MOST_PIECE = 32 << 10, 512 << 10  # bytes of elements in one fragment of a region that is divided
WIRE_DTYPES = frozenset({"float32", "float16", "int8", "uint8", "int16", "int32", "int64", "float64", "bool"})
MAX_BODY = 4 << 20  # bytes; one element's channels may exceed MOST_PIECE, nothing exceeds this

INBOX = {cls.__name__: cls for cls in (Parcel, Receipt, Chunk, ChunkRequest, Echo)}

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A fragment that is to be sent: what stands in its header, and its elements, which nobody writes into any more.

    It is `small` when it is all of a region.
    """

    header: Fragment
    body: memoryview
    small: bool


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


def pieces(region: Region, element_bytes: int, extra_bytes: int = 0) -> Iterator[Region]:
    """The region, divided into regions to be sent (always of at least one element).

    `element_bytes` are those of all channels at one place; `extra_bytes` is what each piece needs beside its elements.
    """
    most = min(MOST_PIECE, max(LEAST_PIECE, region.area * element_bytes // SHARE, SHARE * extra_bytes))
    row_bytes = len(region.columns) * element_bytes
    rows = max(1, most // max(1, row_bytes))
    columns = max(1, len(region.columns))
    if row_bytes > most:  # into parts alike
        columns = max(1, math.ceil(columns / math.ceil(columns / max(1, most // element_bytes))))
    for top in range(region.rows.start, region.rows.stop, rows):
        for left in range(region.columns.start, region.columns.stop, columns):
            yield Region(
                Interval(top, min(top + rows, region.rows.stop)),
                Interval(left, min(left + columns, region.columns.stop)),
            )


def fragments(header: Fragment, held: Array, origin: Region) -> Iterator[Piece]:
    """What carries `header.region` out of `held`, (rows, columns, channels) of the region `origin`.

    `header.wire` and `header.codec` are tried; each fragment's own header says what became of it. Runs of whole rows
    that stay as they are are views of `held`, not copies.
    """
    whole = region_of(header.region)
    if header.wire:
        regions = _quantised_pieces(whole, held.shape[2], header.wire)
    else:
        regions = pieces(whole, held.shape[2] * held.itemsize)
    for region in regions:
        part = np.ascontiguousarray(held[_within(region, origin)])
        encoded = quantised.encode(part, header.wire) if header.wire else None
        wire, body = ("", part.data.cast("B")) if encoded is None else (header.wire, encoded)
        packed = zeros.pack(body, _element_bytes(header.dtype, wire)) if header.codec == zeros.CODEC else None
        if packed is None:
            yield Piece(_of(header, region, wire), body, region == whole)
        else:
            yield Piece(_of(header, region, wire, zeros.CODEC, len(packed)), memoryview(packed), region == whole)


def _of(header: Fragment, region: Region, wire: str, packed_by: str = "", packed: int = 0) -> Fragment:
    """The header of a part of a region; `dataclasses.replace` takes three times as long."""
    return Fragment(
        header.request, header.attempt, header.epoch, header.step, header.tensor, bounds(region), header.channels,
        header.dtype, wire, packed_by, packed,
    )  # fmt: skip


def _element_bytes(dtype: str, wire: str) -> int:
    return quantised.ELEMENT_BYTES[wire] if wire else NUMPY_DTYPES[dtype].itemsize


def _quantised_pieces(region: Region, channels: int, wire: str) -> Iterator[Region]:
    return pieces(region, channels * quantised.ELEMENT_BYTES[wire], channels * quantised.CHANNEL_BYTES[wire])


def pack_parcel(parcel: Parcel, bodies: Sequence[memoryview]) -> tuple[bytes | memoryview, ...]:
    """The message of a parcel as buffers to be sent one after the other."""
    return codec.pack(parcel), *bodies


def open_parcel(parcel: Parcel, body: memoryview) -> list[tuple[Fragment, memoryview]]:
    """Its fragments, each with its elements as a view of `body`; raises ProtocolError where that is not their size."""
    opened, start = [], 0
    for header in parcel.fragments:
        end = start + carried_size(header)
        opened.append((header, body[start:end]))
        start = end
    if start != len(body):
        raise ProtocolError(f"parcel of {start} bytes has {len(body)}")
    return opened


def body_size(header: Fragment) -> int:
    """Bytes of a fragment's elements, unpacked; raises ProtocolError where it has none, or its form is not known."""
    area = region_of(header.region).area
    if header.dtype not in WIRE_DTYPES:
        raise ProtocolError(f"fragment of dtype {header.dtype!r:.20}, which is not allowed")
    if header.wire and (header.dtype != "float32" or header.wire not in quantised.ELEMENT_BYTES):
        raise ProtocolError(f"fragment of {header.dtype} travels as {header.wire!r:.20}, which it may not")
    if header.wire:
        size = area * header.channels * quantised.ELEMENT_BYTES[header.wire]
        extra = header.channels * quantised.CHANNEL_BYTES[header.wire]
    else:
        size, extra = area * header.channels * NUMPY_DTYPES[header.dtype].itemsize, 0
    if header.channels < 1 or not 0 < size <= MAX_BODY:
        raise ProtocolError(f"fragment of {area}×{header.channels} {header.dtype} is empty or too large")
    return size + extra


def has_nan(values: Array) -> bool:
    """Whether any element is not a number; one pass without a copy, 15 µs per MB of float32 on one x86-64 core."""
    if values.dtype.kind != "f" or not values.size:
        return False
    return math.isnan(np.minimum.reduce(values, axis=None))  # NaN is less than anything


def carried_size(header: Fragment) -> int:
    """Bytes of a fragment's body as it travels; raises ProtocolError where it cannot be."""
    size = body_size(header)
    if not header.codec and not header.packed:
        return size
    if header.codec != zeros.CODEC or not 0 < header.packed < size:
        raise ProtocolError(f"fragment of {size} bytes is packed by {header.codec!r:.20} into {header.packed}")
    return header.packed


def wire_bytes(region: Region, channels: int, dtype: str, wire: str = "") -> int:
    """Bytes of the bodies that carry a region, unpacked, where all its values can travel as `wire`."""
    if not wire:
        return region.area * channels * NUMPY_DTYPES[dtype].itemsize
    return sum(quantised.body_size(piece.area, channels, wire) for piece in _quantised_pieces(region, channels, wire))


@dataclass(frozen=True, slots=True)
class Layout:
    """How the elements of a fragment lie in its body, of `size` bytes unpacked; fragments that are alike share it."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    size: int


def layout_of(header: Fragment) -> Layout:
    """That of a fragment, whoever it is of; raises ProtocolError where it cannot have elements."""
    size, region = body_size(header), region_of(header.region)
    shape = (len(region.rows), len(region.columns), header.channels)
    return Layout(shape, NUMPY_DTYPES[header.dtype], size)


def read_fragment(header: Fragment, body: memoryview, layout: Layout | None = None) -> Array:
    """The elements of a fragment as (rows, columns, channels), where it can be a view of `body`.

    `layout` is the header's, where that is known already. Raises ProtocolError where header and body do not belong
    together.
    """
    layout = layout or layout_of(header)
    packed = bool(header.codec or header.packed)
    if len(body) != (carried_size(header) if packed else layout.size):
        raise ProtocolError(f"fragment {header.region} of {header.channels}×{header.dtype} has {len(body)} bytes")
    if packed:
        body = zeros.unpack(body, _element_bytes(header.dtype, header.wire), layout.size)
    if header.wire:
        return quantised.decode(body, layout.shape, header.wire)
    return np.frombuffer(body, layout.dtype).reshape(layout.shape)


def _within(region: Region, origin: Region) -> tuple[slice, slice]:
    """The region as slices of an array that covers `origin`."""
    top, left = origin.rows.start, origin.columns.start
    return (
        slice(region.rows.start - top, region.rows.stop - top),
        slice(region.columns.start - left, region.columns.stop - left),
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a region of a map lies in an array of a region that holds it; `shape` are its rows and columns."""

    index: tuple[slice, slice]
    shape: tuple[int, int]
    area: int


def place_of(region: Region, whole: Region) -> Place:
    """Where `region` lies in `whole`; raises ProtocolError where it does not."""
    if region not in whole:
        raise ProtocolError(f"region {bounds(region)} does not belong to {bounds(whole)}")
    return Place(_within(region, whole), (len(region.rows), len(region.columns)), region.area)


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
        self.put_at(place_of(region, self.region), values)

    def put_at(self, place: Place, values: Array) -> None:
        """As `put`, to a place in this region."""
        if values.shape[:2] != place.shape or values.shape[2] != self.values.shape[2]:
            raise ProtocolError(f"values of shape {values.shape} do not fit {place.shape} of {self.values.shape}")
        if values.dtype != self.values.dtype:
            raise ProtocolError(f"values of {values.dtype} do not fit {self.values.dtype}")
        self.values[place.index] = values
        there = self._there[place.index]
        self.missing -= place.area - int(np.count_nonzero(there))
        there[...] = True
