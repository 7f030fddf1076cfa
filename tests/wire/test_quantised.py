"""Feature maps in fewer bytes: within the documented bound of what was sent, or exactly it, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from legion_iot.errors import ProtocolError
from legion_iot.model.geometry import Interval, Region
from legion_iot.wire import quantised
from legion_iot.wire.messages import Fragment
from legion_iot.wire.tensors import (
    MOST_PIECE,
    Array,
    Assembly,
    body_size,
    fragments,
    read_fragment,
    region_of,
    wire_bytes,
)

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
ANY = st.floats(width=32)
FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


def round_trip(values: Array, wire: str) -> Array | None:
    body = quantised.encode(values, wire)
    if body is None:
        return None
    rows, columns, channels = values.shape
    assert len(body) == quantised.body_size(rows * columns, channels, wire)
    back = quantised.decode(memoryview(body), (rows, columns, channels), wire)
    assert back.dtype == np.float32
    return back


@given(SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=ANY)))
def test_float16_is_the_nearest_binary16(values: Array) -> None:
    back = round_trip(values, "float16")
    assert back is not None
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float16).astype(np.float32)
    fits = np.isfinite(nearest) | ~np.isfinite(values)
    np.testing.assert_array_equal(back[fits], nearest[fits])
    np.testing.assert_array_equal(back[~fits], np.copysign(np.float32(65504), values[~fits]))
    normal = np.isfinite(values) & (np.abs(values) <= 65504)
    error = np.abs(back[normal].astype(np.float64) - values[normal])
    assert np.all(error <= np.maximum(np.abs(values[normal]) * 2.0**-11, 2.0**-25))


@given(SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=FINITE)))
def test_int8_is_within_half_a_step_of_its_channel(values: Array) -> None:
    back = round_trip(values, "int8")
    if back is None:  # too few elements, or a span below what float32 can divide
        span = np.ptp(values.astype(np.float64), axis=(0, 1))
        assert values[..., 0].size < quantised.LEAST_AREA or np.any((span > 0) & (span < 1e-35))
        return
    exact = values.astype(np.float64)
    scale = np.ptp(exact, axis=(0, 1)) / 255
    rounding = 4 * np.spacing(np.abs(values).max(axis=(0, 1))).astype(np.float64) + scale * 1e-4
    assert np.all(np.abs(back - exact) <= scale / 2 + rounding)
    least = values.min(axis=(0, 1))
    np.testing.assert_array_equal(back[np.broadcast_to(values == least, values.shape)], values[values == least])


def test_zeros_of_a_relu_and_constant_channels_come_back_to_the_bit() -> None:
    values = np.maximum(np.random.default_rng(1).standard_normal((9, 7, 3)), 0).astype(np.float32)
    values[..., 2] = 3.25
    back = round_trip(values, "int8")
    assert back is not None
    assert np.all(back[values == 0] == 0)
    assert np.all(back[..., 2] == 3.25)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_int8_cannot_hold_travels_as_it_is(value: float) -> None:
    values = np.linspace(-3e38, 1, 20 * 100 * 16, dtype=np.float32).reshape(20, 100, 16)  # one piece as int8
    values[3, 4, 5] = value
    np.testing.assert_array_equal(carried(values, "int8"), values)


def carried(values: Array, wire: str) -> Array:
    """What a receiver puts together."""
    region = Region(Interval(0, values.shape[0]), Interval(0, values.shape[1]))
    header = Fragment("r", 1, 1, 0, 0, (0, values.shape[0], 0, values.shape[1]), values.shape[2], "float32", wire)
    assembly = Assembly(region, values.shape[2], "float32")
    size = 0
    for piece in fragments(header, values, region):
        assert piece.header.wire in ("", wire)
        assert len(piece.body) == body_size(piece.header) <= MOST_PIECE + 8 * values.shape[2]
        assembly.put(region_of(piece.header.region), read_fragment(piece.header, piece.body))
        size += len(piece.body)
    assert not assembly.missing
    if np.all(np.abs(values) < 1e30):
        assert size == wire_bytes(region, values.shape[2], "float32", wire)
    return assembly.values


@pytest.mark.parametrize(("wire", "size"), [("float16", 2), ("int8", 1)])
@pytest.mark.parametrize("shape", [(300, 40, 64), (1, 9000, 1), (1, 1, 5000), (2, 1, 3), (1, 3, 70)])
def test_a_region_in_pieces(wire: str, size: int, shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(carried(values, wire), values, atol=0.03)
    region = Region(Interval(0, shape[0]), Interval(0, shape[1]))
    assert wire_bytes(region, shape[2], "float32", wire) <= wire_bytes(region, shape[2], "float32")
    if values.size > 1e5:
        assert wire_bytes(region, shape[2], "float32", wire) < values.size * size * 1.02


def int8_body(scale: float, least: float) -> memoryview:
    return memoryview(np.array([scale, least], "<f4").tobytes() + bytes(4))


@pytest.mark.parametrize(
    ("wire", "dtype", "body"),
    [
        ("float16", "float32", memoryview(bytes(7))),
        ("int8", "float32", memoryview(bytes(11))),
        ("int8", "int8", int8_body(1.0, 0.0)),
        ("int8", "float64", int8_body(1.0, 0.0)),
        ("float64", "float32", memoryview(bytes(16))),
        ("float32", "float32", memoryview(bytes(16))),
        ("int8", "float32", int8_body(-1.0, 0.0)),
        ("int8", "float32", int8_body(float("inf"), 0.0)),
        ("int8", "float32", int8_body(1.0, float("nan"))),
    ],
)
def test_bodies_that_cannot_be(wire: str, dtype: str, body: memoryview) -> None:
    header = Fragment("r", 1, 1, 0, 0, (0, 2, 0, 2), 1, dtype, wire)
    with pytest.raises(ProtocolError):
        read_fragment(header, body)


def test_a_header_that_claims_too_much_costs_nothing() -> None:
    header = Fragment("r", 1, 1, 0, 0, (0, 1 << 30, 0, 1 << 30), 1 << 30, "float32", "int8")
    with pytest.raises(ProtocolError):
        read_fragment(header, memoryview(bytes(64)))
