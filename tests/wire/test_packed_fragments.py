"""Fragments that travel packed: the same elements, whatever their form, and no header that claims too much."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.errors import ProtocolError
from legion_iot.model.geometry import Interval, Region
from legion_iot.wire import codec, zeros
from legion_iot.wire.messages import Fragment, Parcel
from legion_iot.wire.tensors import (
    INBOX,
    Array,
    Assembly,
    bounds,
    fragments,
    open_parcel,
    pack_parcel,
    read_fragment,
    region_of,
)


def relu(shape: tuple[int, int, int], kept: float, dtype: str, zero: int = 0) -> Array:
    random = np.random.default_rng(5)
    values = (random.random(shape) * 100 + 1).astype(dtype)
    values[random.random(shape) >= kept] = zero
    return values


def carried(values: Array, wire: str = "", asked: str = zeros.CODEC) -> tuple[Array, int, set[str]]:
    """The map as a receiver has it, the bytes of its bodies, and the codecs they came by."""
    whole = Region(Interval(0, values.shape[0]), Interval(0, values.shape[1]))
    header = Fragment("r", 1, 1, 1, 1, bounds(whole), values.shape[2], str(values.dtype), wire, asked)
    assembly = Assembly(whole, values.shape[2], str(values.dtype))
    size, codecs = 0, set()
    for number, piece in enumerate(fragments(header, values, whole)):
        message = b"".join(pack_parcel(Parcel(1, number, 0, 0, False, (piece.header,)), (piece.body,)))
        parcel, body = codec.unpack(INBOX, message)
        ((came, elements),) = open_parcel(parcel, body)
        assembly.put(region_of(came.region), read_fragment(came, elements))
        size += len(elements)
        codecs.add(came.codec)
    assert assembly.missing == 0
    return assembly.values, size, codecs


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 70)),
    st.floats(0, 1),
    st.sampled_from(("float32", "float64", "int8", "uint8", "int16", "int32")),
    st.integers(0, 100),
)
def test_packed_or_not_every_element_is_the_same(
    shape: tuple[int, int, int], kept: float, dtype: str, zero: int
) -> None:
    values = relu(shape, kept, dtype, zero)
    assert carried(values)[0].tobytes() == values.tobytes()


@pytest.mark.parametrize("wire", ["", "float16", "int8"])
def test_half_of_it_zero_is_smaller_in_every_form(wire: str) -> None:
    values = relu((56, 56, 64), 0.5, "float32")
    plain, size, _ = carried(values, wire, asked="")
    packed, smaller, codecs = carried(values, wire)
    assert packed.tobytes() == plain.tobytes()
    assert codecs == {"zeros"}
    bits = {"": 32, "float16": 16, "int8": 8}[wire]
    assert size / smaller == pytest.approx(bits / (1 + bits / 2), rel=0.03)


def test_noise_travels_as_it_is() -> None:
    values = np.random.default_rng(1).standard_normal((56, 56, 64), np.float32)
    _, size, codecs = carried(values)
    assert (size, codecs) == (values.nbytes, {""})


HEADER = Fragment("r", 1, 1, 1, 1, (0, 8, 0, 8), 4, "float32", "", "zeros", 40)


@pytest.mark.parametrize(
    "change", [{"codec": "zip"}, {"codec": ""}, {"packed": 0}, {"packed": -1}, {"packed": 1024}, {"packed": 1 << 40}]
)
def test_headers_that_cannot_be(change: dict[str, object]) -> None:
    header = dataclasses.replace(HEADER, **change)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ProtocolError):
        open_parcel(Parcel(1, 0, 0, 0, False, (header,)), memoryview(bytes(40)))
    with pytest.raises(ProtocolError):
        read_fragment(header, memoryview(bytes(40)))


def test_a_region_too_large_is_refused_before_anything_is_unpacked() -> None:
    bomb = dataclasses.replace(HEADER, region=(0, 1 << 20, 0, 1 << 20))
    with pytest.raises(ProtocolError, match="too large"):
        read_fragment(bomb, memoryview(bytes(40)))
