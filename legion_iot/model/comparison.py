"""How two tensors compare: to the bit, and by how much where they differ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def same_bits(value: Array, expected: Array) -> bool:
    """Whether shape, dtype and every bit agree, the sign of zeros included."""
    return value.dtype == expected.dtype and value.shape == expected.shape and value.tobytes() == expected.tobytes()


def difference(value: Array, expected: Array) -> tuple[float, float]:
    """The largest absolute difference, and the same relative to the largest finite magnitude of `expected`.

    NaN in the same place counts as equal; NaN in one only, and shapes that differ, as infinitely different.
    """
    if value.shape != expected.shape:
        return math.inf, math.inf
    ours, theirs = value.astype(np.float64), expected.astype(np.float64)
    equal = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        gaps = np.where(equal, 0.0, np.abs(ours - theirs))
    absolute = float(np.max(np.nan_to_num(gaps, nan=np.inf, posinf=np.inf), initial=0.0))
    magnitude = float(np.max(np.abs(theirs[np.isfinite(theirs)]), initial=0.0))
    return absolute, absolute / magnitude if magnitude else absolute
