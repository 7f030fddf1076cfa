"""Binary16 by whole-array operations: numpy's own casts, to the bit, whatever the values and wherever a block ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from legion_iot.wire import half
from legion_iot.wire.half import BLOCK, LARGEST, from_half, to_half
from legion_iot.wire.tensors import Array

EVERY_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
NOT_NEGATIVE = EVERY_HALF[:0x7C00]
FINITE = np.concatenate([NOT_NEGATIVE, -NOT_NEGATIVE])
BITS = st.integers(0, (1 << 32) - 1)


def nearest(values: Array) -> Array:
    """By numpy, with what is finite kept finite."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float16)
    return np.where(np.isinf(found) & np.isfinite(values), np.copysign(np.float16(LARGEST), found), found)


def same_bits(found: Array, expected: Array) -> bool:
    assert found.dtype == expected.dtype
    assert found.shape == (expected.size,)
    form = f"u{expected.itemsize}"
    return bool(np.array_equal(found.view(form), np.ascontiguousarray(expected).reshape(-1).view(form)))


@given(arrays(np.uint32, st.tuples(st.integers(0, 3), st.integers(0, 9)), elements=BITS))
def test_any_float32_becomes_what_numpy_makes_of_it(bits: Array) -> None:
    values = bits.view(np.float32)
    assert same_bits(to_half(values), nearest(values))


@given(st.integers(0, 1 << 32), st.sampled_from(["not negative", "signed", "with others"]))
def test_blocks_with_and_without_signs_and_what_has_no_nearest(seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    bits = random.integers(0, np.float32(LARGEST).view(np.uint32), BLOCK + 99, dtype=np.uint32, endpoint=True)
    if kind != "not negative":
        bits |= random.integers(0, 2, bits.size, dtype=np.uint32) << np.uint32(31)
    values = bits.view(np.float32)
    if kind == "with others":
        values[random.integers(bits.size)] = random.choice(
            [65504.01, 65519.996, 65520, -1e9, 3e38, np.inf, -np.inf, np.nan]
        )
    assert same_bits(to_half(values), nearest(values))


def test_ties_and_their_neighbours() -> None:
    lower = NOT_NEGATIVE.astype(np.float32)
    ties = (lower[:-1] + lower[1:]) / 2  # exact: float32 has 13 more bits
    for values in (lower, ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))):
        assert same_bits(to_half(values), nearest(values))
        assert same_bits(to_half(-values), nearest(-values))


def test_subnormal_float32_and_zeros_keep_their_sign() -> None:
    values = np.array([0.0, -0.0, 1e-45, -1e-45, 2.0**-126, -(2.0**-126), 2.0**-25, 2.0**-24], np.float32)
    assert same_bits(to_half(values), nearest(values))
    assert same_bits(to_half(np.abs(values)), nearest(np.abs(values)))


@pytest.mark.parametrize("keeps_subnormals", [True, False])
@pytest.mark.parametrize("values", [EVERY_HALF, FINITE, NOT_NEGATIVE, EVERY_HALF[:0]], ids=len)
def test_every_half_becomes_its_float32(values: Array, keeps_subnormals: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "_KEEPS_SUBNORMALS", keeps_subnormals)
    assert same_bits(from_half(values), values.astype(np.float32))


@given(arrays(np.uint16, st.integers(0, 40), elements=st.integers(0, (1 << 16) - 1)))
def test_there_and_back(bits: Array) -> None:
    values = bits.view(np.float16)
    back = to_half(from_half(values))
    assert same_bits(back[~np.isnan(values)], values[~np.isnan(values)])
    assert np.array_equal(np.isnan(back), np.isnan(values))
