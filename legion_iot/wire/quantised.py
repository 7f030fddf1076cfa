"""Float32 feature maps in fewer bytes: what a fragment's body holds when its header names a wire dtype.

The rules. `float16`: each element rounded to the nearest IEEE 754 binary16, ties to even; finite values beyond ±65504
become ±65504; infinities and NaN stay. The body is the elements, 2 bytes each, little-endian.

`int8`: each channel c of the fragment is divided into 255 equal parts between its least and its greatest value,

    scale[c] = (greatest - least) / 255        q = round((x - least[c]) / scale[c]) - 128
    x' = (q + 128) * scale[c] + least[c]       |x - x'| <= scale[c] / 2, and rounding to float32

so `least` plays the part of a zero point, as a real number: a channel of a ReLU has 0 to the bit. A channel with one
value has scale 0 and comes back to the bit. The body is `scale`, then `least` (float32, little-endian), then the
elements, 1 byte each.

What `int8` cannot hold travels as float32, fragment by fragment: values that are not finite, channels whose scale is
no normal float32, and regions of fewer elements per channel than make it smaller.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import ProtocolError
from legion_iot.wire.half import from_half, to_half

ELEMENT_BYTES = {"float16": 2, "int8": 1}
CHANNEL_BYTES = {"float16": 0, "int8": 8}  # scale and least value
LEAST_AREA = 3  # elements per channel from which int8 is smaller than float32: area + 8 < 4 · area

_LEVELS = 255

Array = npt.NDArray[Any]


def body_size(area: int, channels: int, wire: str) -> int:
    """Bytes of the body of a fragment with `area` elements in each channel."""
    if wire == "int8" and area < LEAST_AREA:
        return area * channels * 4
    return area * channels * ELEMENT_BYTES[wire] + channels * CHANNEL_BYTES[wire]


def encode(values: Array, wire: str) -> memoryview | None:
    """The body for contiguous float32 values (rows, columns, channels); None where they have to travel as they are."""
    return to_half(values).data.cast("B") if wire == "float16" else _to_int8(values)


def decode(body: memoryview, shape: tuple[int, int, int], wire: str) -> Array:
    """The float32 values in a body, (rows, columns, channels); raises ProtocolError where it is not one of `wire`."""
    rows, columns, channels = shape
    size = rows * columns * channels
    if wire not in ELEMENT_BYTES or len(body) != size * ELEMENT_BYTES[wire] + channels * CHANNEL_BYTES[wire]:
        raise ProtocolError(f"fragment of {size} elements as {wire!r:.20} has {len(body)} bytes")
    if wire == "float16":
        return from_half(np.frombuffer(body, "<f2")).reshape(shape)
    scale, least = np.frombuffer(body, "<f4", 2 * channels).reshape(2, channels)
    if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(least)) and np.all(scale >= 0)):
        raise ProtocolError("fragment as int8 has a scale or a least value that cannot be")
    values = np.frombuffer(body, np.int8, offset=8 * channels).reshape(shape).astype(np.float32)
    with np.errstate(over="ignore"):  # what a sender of ours never sends is no reason for a warning
        values += 128
        values *= scale
        values += least
    return values


def _to_int8(values: Array) -> memoryview | None:
    area = math.prod(values.shape[:2])
    if area < LEAST_AREA:
        return None
    flat = values.reshape(area, values.shape[2])
    least, greatest = flat.min(axis=0), flat.max(axis=0)  # NaN in a channel makes both NaN
    with np.errstate(over="ignore", invalid="ignore"):
        span = greatest - least
    scale = span / np.float32(_LEVELS)
    if not np.all(np.isfinite(span)) or np.any((span > 0) & (scale < np.finfo(np.float32).tiny)):
        return None
    levels = flat - least
    levels *= np.where(span > 0, np.float32(1) / np.where(span > 0, scale, 1), 0).astype(np.float32)
    np.rint(levels, out=levels)
    np.minimum(levels, _LEVELS, out=levels)  # the reciprocal may be rounded up
    levels -= 128
    parts = (scale.astype("<f4").tobytes(), least.astype("<f4").tobytes(), levels.astype(np.int8).tobytes())
    return memoryview(b"".join(parts))
