"""What travels from one participant to another: how many bytes, in which fragments, under a plan's wire dtype.

The sizes are those of `wire.tensors.fragments`: a region is divided into runs of whole rows that fit into a piece, or
into runs of columns where one row does not. Headers, some hundred bytes each, are left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from legion_iot.model.graph import NUMPY_DTYPES, Tensor
from legion_iot.planning.links import Link
from legion_iot.planning.routing import ORCHESTRATOR, Transfer
from legion_iot.planning.strips import Floats

SHARE = 32  # fragments to a large region
LEAST_PIECE, MOST_PIECE = 32 << 10, 512 << 10  # bytes of elements in one fragment of a region that is divided
EXACT = "float32"

_ELEMENT_BYTES = {"float16": 2, "int8": 1}
_CHANNEL_BYTES = {"float16": 0, "int8": 8}  # scale and least value of each channel
_LEAST_AREA = 3  # of a piece; below it, int8 would not be smaller


def messages(transfer: Transfer, tensor: Tensor, wire: str = EXACT) -> tuple[int, ...]:
    """Bytes of each fragment of a transfer of `tensor`; `wire` is the plan's wire dtype."""
    is_map = len(tensor.shape) == 4 and tensor.shape[0] == 1
    channels = tensor.shape[3] if is_map else 1
    quantised = wire != EXACT and tensor.dtype == EXACT and ORCHESTRATOR not in (transfer.source, transfer.target)
    rows, columns = len(transfer.region.rows), len(transfer.region.columns)
    return _messages(rows, columns, channels, NUMPY_DTYPES[tensor.dtype].itemsize, wire if quantised else "")


def least_element_bytes(tensor: Tensor, wire: str) -> int:
    """The fewest bytes in which an element can travel between agents."""
    return _ELEMENT_BYTES[wire] if wire != EXACT and tensor.dtype == EXACT else NUMPY_DTYPES[tensor.dtype].itemsize


def handling_seconds(links: Sequence[Link], nbytes: Floats) -> Floats:
    """About how long the processors of participants (last axis) are busy with so many bytes, sent or received.

    They are taken for one region, in fragments; for searches that cannot look at each message.
    """
    of_message = np.array([link.message_seconds for link in links])
    of_byte = np.array([link.byte_seconds for link in links])
    fragments = 1 + np.minimum(nbytes / LEAST_PIECE, SHARE)
    seconds: Floats = np.where(nbytes > 0, of_message * fragments + of_byte * nbytes, 0.0)
    return seconds


@functools.lru_cache(maxsize=1 << 16)
def _messages(rows: int, columns: int, channels: int, itemsize: int, wire: str) -> tuple[int, ...]:
    element = channels * (_ELEMENT_BYTES[wire] if wire else itemsize)
    extra = channels * _CHANNEL_BYTES[wire] if wire else 0
    most = min(MOST_PIECE, max(LEAST_PIECE, rows * columns * element // SHARE, SHARE * extra))
    return tuple(_body(area, channels, itemsize, wire) for area in _areas(rows, columns, element, most))


def _areas(rows: int, columns: int, element_bytes: int, most: int) -> Iterator[int]:
    """Elements per channel of each fragment, which has no more than `most` bytes where it has several elements."""
    row_bytes = columns * element_bytes
    if row_bytes <= most:
        whole, rest = divmod(rows, most // row_bytes)
        yield from [most // row_bytes * columns] * whole
        if rest:
            yield rest * columns
        return
    width = math.ceil(columns / math.ceil(columns / max(1, most // element_bytes)))  # into parts alike
    whole, rest = divmod(columns, width)
    for _ in range(rows):
        yield from [width] * whole
        if rest:
            yield rest


def _body(area: int, channels: int, itemsize: int, wire: str) -> int:
    if not wire or (wire == "int8" and area < _LEAST_AREA):
        return area * channels * itemsize
    return area * channels * _ELEMENT_BYTES[wire] + channels * _CHANNEL_BYTES[wire]
