"""Bodies without their zeros: they come back to the bit, are never larger, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import ProtocolError
from legion_iot.wire import zeros

SIZES = st.sampled_from((1, 2, 4, 8))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """A body, the bytes of its elements, and how many of them are not the one that occurs most."""
    element_bytes, count = draw(SIZES), draw(st.integers(1, 5000))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    zero = draw(st.integers(0, 255)) if element_bytes == 1 else 0
    elements = np.full(count, zero, f"u{element_bytes}")
    others = random.random(count) < draw(st.floats(0, 1))
    elements[others] = random.integers(0, 256 ** min(element_bytes, 7), int(others.sum()))
    return elements.tobytes(), element_bytes, int(np.count_nonzero(elements != zero))


@given(bodies())
def test_a_body_comes_back_to_the_bit_and_is_smaller(made: tuple[bytes, int, int]) -> None:
    body, element_bytes, _ = made
    packed = zeros.pack(memoryview(body), element_bytes)
    if packed is not None:
        assert len(packed) * zeros.LEAST_RATIO <= len(body)
        assert zeros.unpack(memoryview(packed), element_bytes, len(body)).tobytes() == body


@given(bodies())
def test_the_size_is_that_of_the_formula(made: tuple[bytes, int, int]) -> None:
    body, element_bytes, others = made
    count = len(body) // element_bytes
    expected = element_bytes + (count + 7) // 8 + others * element_bytes
    packed = zeros.pack(memoryview(body), element_bytes)
    if element_bytes > 1:  # of bytes, a sample decides which is left out
        assert (packed is None) == (expected * zeros.LEAST_RATIO > len(body))
        assert packed is None or len(packed) == expected


def test_a_zero_point_is_found_wherever_it_is() -> None:
    for zero in (0, 3, 128, 255):
        body = np.full(3000, zero, np.uint8)
        body[::7] = zero ^ 1
        packed = zeros.pack(body.data, 1)
        assert packed is not None
        assert packed[0] == zero
        assert len(packed) == 1 + 375 + 429


def test_negative_zero_and_nan_keep_their_bits() -> None:
    values = np.zeros(100, np.float32)
    values[:4] = -0.0, np.nan, np.inf, 1.0
    packed = zeros.pack(values.data.cast("B"), 4)
    assert packed is not None
    assert len(packed) == 4 + 13 + 16
    assert zeros.unpack(memoryview(packed), 4, 400).tobytes() == values.tobytes()


@given(SIZES, st.integers(1, 400), st.binary(max_size=600))
def test_anything_else_is_refused_or_has_exactly_the_size(element_bytes: int, count: int, body: bytes) -> None:
    size = element_bytes * count
    try:
        unpacked = zeros.unpack(memoryview(body), element_bytes, size)
    except ProtocolError:
        return
    assert len(unpacked) == size


@pytest.mark.parametrize("change", [-1, 1, 4])
def test_cut_short_and_too_long(change: int) -> None:
    values = np.zeros(64, np.float32)
    values[::5] = 1.5
    packed = zeros.pack(values.data.cast("B"), 4)
    assert packed is not None
    wrong = packed[:change] if change < 0 else packed + bytes(change)
    with pytest.raises(ProtocolError, match="without zeros has"):
        zeros.unpack(memoryview(wrong), 4, 256)
