"""Float32 values to IEEE 754 binary16 and back, in whole-array operations that numpy has vectorised.

numpy's own casts go element by element, through branches that the zeros of a ReLU make unpredictable; these here do the
same to every element, so what the values are does not matter. They give numpy's bits, with one exception: finite values
beyond ±65504 become ±65504.

To binary16. Let e be the exponent of |x|, at least -14, so that binary16 keeps multiples of 2^(e-10) there. The sum of
|x| and 2^(e+13) is rounded to such multiples by the processor, ties to even, and its lowest bits count them: k, from 0
to 2048. The result is ((e + 14) << 10) + k; where k is 2048, it carries into the exponent, as it should.

From binary16. Exponent and fraction, moved to where float32 has them, are x · 2^-112, subnormal or not. Multiplying by
2^112 is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 14  # elements; what is between two operations stays in the caches next to a core
LARGEST = 65504.0  # of the finite values of binary16

_LARGEST = np.float32(LARGEST).view(np.uint32)
_MAGNITUDE, _EXPONENT, _FRACTION_SHIFT = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000), np.uint32(13)
_LEAST = np.float32(2.0**-14).view(np.uint32)
_UNIT = np.uint32(13 << 23)  # raises an exponent by 13
_BIAS = np.uint16(2 << 10)  # e + 14 from e + 13 + 127, modulo the 6 bits that an exponent and a sign have
_SIGN, _SIGN_SHIFT = np.uint32(0x8000), np.uint32(16)
_MAGNITUDE16, _INFINITY16 = np.uint16(0x7FFF), 0x7C00
_SIGN_AND_VALUE = np.uint32(0x8FFFE000).astype(np.int32)
_SCALE = np.float32(2.0**112)
# Vector units of some 32-bit processors take subnormal numbers for zero.
_KEEPS_SUBNORMALS = bool(np.all(np.full(64, 2.0**-140, np.float32) * _SCALE == 2.0**-28))

Array = npt.NDArray[Any]


def to_half(values: Array) -> Array:
    """Contiguous float32 `values` as little-endian binary16, each to the nearest one, ties to even; of one dimension.

    Finite values beyond ±65504 become ±65504; infinities and NaN stay.
    """
    bits = values.reshape(-1).view(np.uint32)
    found = np.empty(bits.size, "<u2")
    for start in range(0, bits.size, BLOCK):
        _round(bits[start : start + BLOCK], found[start : start + BLOCK])
    return found.view("<f2")


def _round(bits: Array, found: Array) -> None:
    """Write the binary16 of one block."""
    magnitude = bits
    is_signed = bool(bits.max() > _LARGEST)  # or too large, or not finite
    if is_signed:
        magnitude = bits & _MAGNITUDE
        if magnitude.max() > _LARGEST:
            found[...] = _cast(bits.view(np.float32)).view("<u2")
            return
    unit = magnitude & _EXPONENT
    np.maximum(unit, _LEAST, out=unit)
    unit += _UNIT
    count = (magnitude.view(np.float32) + unit.view(np.float32)).view(np.uint32)
    unit >>= _FRACTION_SHIFT
    count += unit
    found[...] = count  # the lower half
    found += _BIAS
    if is_signed:
        sign = bits >> _SIGN_SHIFT
        sign &= _SIGN
        found |= sign.astype(np.uint16)


def _cast(values: Array) -> Array:
    """By numpy, whatever the values."""
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    too_large = np.isinf(half) & np.isfinite(values)
    half[too_large] = np.copysign(LARGEST, values[too_large])
    return half


def from_half(half: Array) -> Array:
    """Little-endian binary16 as float32, of one dimension."""
    if not _KEEPS_SUBNORMALS:
        return half.reshape(-1).astype(np.float32)
    bits = half.reshape(-1).view("<u2")
    found = np.empty(bits.size, np.float32)
    for start in range(0, bits.size, BLOCK):
        _widen(bits[start : start + BLOCK], found[start : start + BLOCK])
    return found


def _widen(bits: Array, found: Array) -> None:
    """Write the float32 of one block."""
    if bits.max() < _INFINITY16:
        moved = found.view(np.uint32)
        moved[...] = bits
        moved <<= _FRACTION_SHIFT
    elif (bits & _MAGNITUDE16).max() < _INFINITY16:
        moved = found.view(np.int32)
        moved[...] = bits.view("<i2")  # a negative one fills what is above with its sign
        moved <<= np.int32(13)
        moved &= _SIGN_AND_VALUE
    else:
        found[...] = bits.view("<f2")
        return
    found *= _SCALE
