"""Seeded weights: the same numbers for the same seed, on every machine and with every numpy.

numpy promises that the raw stream of a bit generator never changes, and promises nothing of the kind for the
distributions drawn from it. So the uniform numbers here are made from raw bits by exact float32 arithmetic.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

# E[f(x)²] / E[x²] for a symmetric x: what an activation leaves of the second moment of its input.
KEPT_BY_RELU = 0.5


def uniform(shape: tuple[int, ...], bound: float, seed: int, stream: int) -> Array:
    """float32 values uniform in [−bound, bound), the `stream`-th independent draw of `seed`."""
    count = math.prod(shape)
    raw = np.random.PCG64([seed, stream]).random_raw((count + 1) // 2)
    # Little-endian on purpose: the order of the two halves must not depend on the machine.
    words = np.asarray(raw, dtype="<u8").view("<u4")[:count]
    unit = (words >> np.uint32(8)).astype(np.float32)
    unit *= np.float32(2.0**-23)
    unit -= np.float32(1.0)
    unit *= np.float32(bound)
    return unit.reshape(shape)


def he_uniform(shape: tuple[int, ...], fan_in: int, kept: float, seed: int, stream: int) -> Array:
    """Weights that keep the second moment of the activations at one, layer after layer.

    `kept` is what the activation behind these weights keeps of the second moment (`KEPT_BY_RELU`, 1 for none). Source:
    He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 10: variance 1 / (kept · fan_in).
    """
    return uniform(shape, math.sqrt(3.0 / (kept * fan_in)), seed, stream)
