"""Regions are divided without gap or overlap, and come together again in any order."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.errors import ProtocolError
from legion_iot.model.geometry import Interval, Region
from legion_iot.wire import codec, tensors
from legion_iot.wire.delivery import CREDIT_PARCELS, PARCEL_FRAGMENTS
from legion_iot.wire.messages import Fragment, Parcel, Receipt
from legion_iot.wire.tensors import (
    INBOX,
    LEAST_PIECE,
    MAX_BODY,
    MOST_PIECE,
    SHARE,
    WIRE_DTYPES,
    Array,
    Assembly,
    as_map,
    body_size,
    bounds,
    fragments,
    has_nan,
    open_parcel,
    pack_parcel,
    pieces,
    read_fragment,
    region_of,
)


def region(top: int, bottom: int, left: int, right: int) -> Region:
    return Region(Interval(top, bottom), Interval(left, right))


@st.composite
def regions(draw: st.DrawFn, largest: int = 40) -> Region:
    top, left = draw(st.integers(0, 50)), draw(st.integers(0, 50))
    return region(top, top + draw(st.integers(0, largest)), left, left + draw(st.integers(0, largest)))


@settings(deadline=None)
@given(regions(), st.integers(1, 2 * MOST_PIECE), st.integers(0, 9000))
def test_pieces_partition_a_region(whole: Region, element_bytes: int, extra: int) -> None:
    count = np.zeros((100, 100), int)
    most = max(LEAST_PIECE, whole.area * element_bytes / SHARE, SHARE * extra)
    for piece in pieces(whole, element_bytes, extra):
        assert piece.area >= 1
        assert piece.area * element_bytes <= min(most, MOST_PIECE) or piece.area == 1
        count[piece.rows.start : piece.rows.stop, piece.columns.start : piece.columns.stop] += 1
    expected = np.zeros_like(count)
    expected[whole.rows.start : whole.rows.stop, whole.columns.start : whole.columns.stop] = 1
    np.testing.assert_array_equal(count, expected)


@given(st.integers(1, 50_000), st.integers(1, 300))
def test_pieces_are_no_more_than_needed(rows: int, row_bytes: int) -> None:
    """Where rows are small, each piece but the last is full to within one row."""
    sizes = [piece.area * row_bytes for piece in pieces(region(0, rows, 0, 1), row_bytes)]
    assert all(size > LEAST_PIECE - row_bytes for size in sizes[:-1])
    assert len(sizes) <= SHARE * 1.1 + 1


@settings(max_examples=60, deadline=None)
@given(
    whole=regions(12), channels=st.integers(1, 5), dtype=st.sampled_from(sorted(WIRE_DTYPES)),
    most=st.sampled_from([1, 16, 100, MOST_PIECE]), seed=st.integers(0, 999), strided=st.booleans(),
)  # fmt: skip
def test_fragments_in_any_order_rebuild_a_region(
    whole: Region, channels: int, dtype: str, most: int, seed: int, strided: bool
) -> None:
    """A part of a larger array travels in small pieces, shuffled, some of them twice."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    held: Array = noise.integers(0, 2, (100, 100, channels)).astype(dtype)
    if dtype != "bool":
        held = noise.integers(0, 100, (100, 100, channels)).astype(dtype)
    if strided:
        held = np.asfortranarray(held)
    header = Fragment("r", 1, 1, 0, 0, bounds(whole), channels, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "MOST_PIECE", most)
        sent = list(fragments(header, held, region(0, 100, 0, 100)))
    arriving = sent + draw.choices(sent, k=len(sent) // 2) if sent else []
    draw.shuffle(arriving)
    assembly = Assembly(whole, channels, dtype)
    left = {piece.header for piece in sent}
    for piece in arriving:
        assert assembly.missing > 0 or not left
        assembly.put(region_of(piece.header.region), read_fragment(piece.header, piece.body))
        left.discard(piece.header)
        assert (assembly.missing == 0) == (not left)
    expected = held[whole.rows.start : whole.rows.stop, whole.columns.start : whole.columns.stop]
    np.testing.assert_array_equal(assembly.values, expected)
    assert assembly.values.dtype == np.dtype(dtype)


def test_a_large_map_travels_in_messages_that_brokers_take() -> None:
    held = np.random.default_rng(1).standard_normal((224, 224, 64)).astype(np.float32)
    whole = region(0, 224, 0, 224)
    header = Fragment("r", 1, 1, 0, 0, bounds(whole), 64, "float32")
    assembly = Assembly(whole, 64, "float32")
    for piece in fragments(header, held, whole):
        assert len(piece.body) <= MOST_PIECE
        assembly.put(region_of(piece.header.region), read_fragment(piece.header, piece.body))
    assert assembly.missing == 0
    assert assembly.values.tobytes() == held.tobytes()


def test_whole_rows_are_sent_as_views_and_parts_of_rows_are_copied_once() -> None:
    held = np.random.default_rng(1).standard_normal((60, 40, 64)).astype(np.float32)
    origin = region(10, 70, 0, 40)
    for wanted, is_view in ((region(20, 62, 0, 40), True), (region(20, 62, 1, 39), False)):
        header = Fragment("r", 1, 1, 0, 0, bounds(wanted), 64, "float32")
        sent = list(fragments(header, held, origin))
        assert len(sent) > 1
        for piece in sent:
            top, bottom, left, right = piece.header.region
            expected = held[top - 10 : bottom - 10, left:right]
            np.testing.assert_array_equal(read_fragment(piece.header, piece.body), expected)
            assert np.shares_memory(np.frombuffer(piece.body, np.float32), held) == is_view


SMALL = [
    Fragment("r", 1, 1, 0, 0, (0, 2, 0, 3), 4, "float32"),
    Fragment("r", 1, 1, 1, 5, (7, 8, 0, 3), 2, "int8"),
    Fragment("r", 1, 1, 1, 6, (0, 3, 0, 3), 2, "float32", "int8"),
    Fragment("r", 1, 1, 1, 6, (0, 3, 0, 3), 2, "float32", "float16"),
]


def test_a_parcel_holds_several_fragments() -> None:
    bodies = [memoryview(bytes([number]) * body_size(header)) for number, header in enumerate(SMALL)]
    assert [len(body) for body in bodies] == [2 * 3 * 4 * 4, 3 * 2, 9 * 2 + 2 * 8, 9 * 2 * 2]
    message = b"".join(pack_parcel(Parcel(1, 2, 0, 0, False, tuple(SMALL)), bodies))
    parcel, body = codec.unpack(INBOX, message)
    assert open_parcel(parcel, body) == list(zip(SMALL, bodies, strict=True))
    for wrong in (body[:-1], memoryview(bytes(body) + b"x"), memoryview(b"")):
        with pytest.raises(ProtocolError):
            open_parcel(parcel, wrong)


def test_a_full_parcel_has_a_header_that_is_read() -> None:
    header = Fragment("9b1cd6b5-123456", 1, 1795417661, 999, 9999, (1000, 2000, 1000, 2000), 1024, "float32", "float16")
    parcel = Parcel(2**48 - 1, 2**40, 2**40 - 63, 2**41, True, (header,) * PARCEL_FRAGMENTS)
    assert codec.unpack(INBOX, codec.pack(parcel))[0] == parcel
    receipt = Receipt(2**48 - 1, 2**41, 2**40, tuple(range(2**40, 2**40 + CREDIT_PARCELS)))
    assert codec.unpack(INBOX, codec.pack(receipt))[0] == receipt


@pytest.mark.parametrize(
    ("place", "shape", "dtype"),
    [
        (region(1, 3, 0, 4), (2, 4, 2), "float32"),  # above
        (region(4, 7, 0, 4), (3, 4, 2), "float32"),  # below
        (region(2, 4, 3, 5), (2, 2, 2), "float32"),  # beside
        (region(2, 4, 0, 4), (2, 4, 2), "float16"),
        (region(2, 4, 0, 4), (2, 4, 3), "float32"),
        (region(2, 4, 0, 4), (2, 4, 1), "float32"),
        (region(2, 4, 0, 4), (1, 1, 2), "float32"),  # numpy would spread it
        (region(2, 4, 0, 4), (4, 2, 2), "float32"),
    ],
)
def test_what_does_not_fit_changes_nothing(place: Region, shape: tuple[int, ...], dtype: str) -> None:
    assembly = Assembly(region(2, 6, 0, 4), 2, "float32")
    assembly.put(region(5, 6, 0, 4), np.full((1, 4, 2), 3, np.float32))
    before, missing = assembly.values.copy(), assembly.missing
    with pytest.raises(ProtocolError):
        assembly.put(place, np.ones(shape, dtype))
    assert assembly.missing == missing == 12
    np.testing.assert_array_equal(assembly.values.view(np.uint8), before.view(np.uint8))


@pytest.mark.parametrize(
    ("values", "channels", "dtype", "size"),
    [
        ((0, 2, 0, 3), 4, "float32", 95),
        ((0, 2, 0, 3), 4, "float32", 97),
        ((0, 2, 0, 3), 4, "complex64", 192),
        ((0, 2, 0, 3), 4, "object", 96),
        ((0, 2, 0, 3), 4, "float32\0", 96),
        ((0, 2, 0, 3), 0, "float32", 0),
        ((0, 2, 0, 3), -4, "float32", 96),
        ((0, 0, 0, 3), 4, "float32", 0),
        ((0, 10**12, 0, 0), 2**62, "float32", 0),
        ((0, 10**12, 0, 10**12), 2**62, "float32", 8),
        ((2, 0, 0, 3), 4, "float32", 96),
        ((-2, 0, 0, 3), 4, "float32", 96),
        ((0, MAX_BODY + 1, 0, 1), 1, "int8", MAX_BODY + 1),
    ],
)
def test_fragments_whose_header_and_body_disagree_are_refused(
    values: tuple[int, int, int, int], channels: int, dtype: str, size: int
) -> None:
    with pytest.raises(ProtocolError):
        read_fragment(Fragment("r", 1, 1, 0, 0, values, channels, dtype), memoryview(bytes(size)))


def test_reading_copies_nothing() -> None:
    body = bytearray(24)
    values = read_fragment(Fragment("r", 1, 1, 0, 0, (0, 2, 0, 3), 1, "float32"), memoryview(body))
    body[0:4] = np.float32(7).tobytes()
    assert values[0, 0, 0] == 7


def test_tensors_that_are_no_maps_travel_as_one_row() -> None:
    assert as_map(np.zeros((1, 4, 5, 6))).shape == (4, 5, 6)
    assert as_map(np.zeros((1, 10))).shape == (1, 10, 1)
    assert as_map(np.zeros((2, 4, 5, 6))).shape == (1, 240, 1)
    assert as_map(np.zeros(())).shape == (1, 1, 1)


@settings(deadline=None)
@given(st.data(), st.sampled_from(["float16", "float32", "float64"]))
def test_nan_is_found_wherever_it_is_and_nothing_else_is_taken_for_it(data: st.DataObject, dtype: str) -> None:
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
    values = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    at = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    values[at] = data.draw(st.sampled_from([np.inf, -np.inf, 0.0, np.finfo(dtype).max]))
    assert not has_nan(values)
    values[at] = np.nan
    assert has_nan(values)
    assert has_nan(values[at[0] :, : at[1] + 1]), "a view with gaps"


def test_integers_and_nothing_at_all_have_no_nan() -> None:
    assert not has_nan(np.zeros((2, 2, 2), np.int8))
    assert not has_nan(np.zeros((0, 2, 2), np.float32))
