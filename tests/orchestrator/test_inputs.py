"""What may come in on an infer topic: pictures and arrays, and whatever else somebody sends."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zlib
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from legion_iot.errors import InputError
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.description import ModelDescription
from legion_iot.model.graph import Graph
from legion_iot.model.preprocessing import Preprocessing
from legion_iot.orchestrator.inputs import MAX_PAYLOAD, read_input

AS_BYTES = ModelDescription("classes", Preprocessing(mean=(0.0,), std=(1.0,), fit="stretch"))


def network(shape: tuple[int, ...] = (1, 4, 6, 3)) -> Graph:
    net = GraphBuilder("any")
    x = net.input(shape)
    return net.finish(net.activation(x, "relu"))


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def saved(array: npt.NDArray[Any], version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def pixels(seed: int = 0, size: tuple[int, int] = (4, 6)) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_a_png_of_the_networks_size_arrives_byte_for_byte() -> None:
    values = pixels()
    array = read_input(encoded(Image.fromarray(values)), network(), AS_BYTES).values
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[0], values)


def test_a_jpeg_is_close() -> None:
    smooth = np.full((40, 60, 3), (200, 100, 50), np.uint8)
    array = read_input(encoded(Image.fromarray(smooth), "JPEG", quality=95), network(), AS_BYTES).values
    assert np.abs(array[0] - smooth[0, 0]).max() <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_colour_mode(mode: str) -> None:
    image = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode)
    array = read_input(encoded(image, "JPEG" if mode == "CMYK" else "PNG"), network(), AS_BYTES).values
    assert array.min() >= 250


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    image = Image.fromarray(np.full((4, 6), 128 << 8, np.uint16))
    assert np.all(read_input(encoded(image), network(), AS_BYTES).values == 128)


def test_a_picture_is_turned_as_its_camera_was_held() -> None:
    values = pixels()
    turned = Image.fromarray(values).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown by turning it a quarter clockwise
    payload = encoded(turned, exif=exif.tobytes())
    read = read_input(payload, network(), AS_BYTES)
    np.testing.assert_array_equal(read.values[0], values)
    assert read.view is not None
    assert read.view.size == read.view.pixels == (6, 4)


def test_what_the_network_sees_of_a_picture() -> None:
    payload = encoded(Image.new("RGB", (600, 200)))
    cropped = ModelDescription("image", Preprocessing())
    whole, part = (read_input(payload, network(), how).view for how in (AS_BYTES, cropped))
    assert whole is not None
    assert whole.pixels == (600, 200)
    assert part is not None
    assert (part.pixels, part.box) == ((300, 200), (150, 0, 450, 200))
    assert read_input(saved(np.zeros((1, 4, 6, 3), np.float32)), network(), cropped).view is None


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_an_array_arrives_as_it_is(version: tuple[int, int]) -> None:
    values = np.random.default_rng(1).standard_normal((1, 4, 6, 3)).astype(np.float32)
    for array in (values, np.asfortranarray(values)):
        result = read_input(saved(array, version), network(), AS_BYTES).values
        np.testing.assert_array_equal(result, values)
        assert result.flags.c_contiguous


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 4, 6, 1), np.float32),
        np.zeros((4, 6, 3), np.float32),
        np.zeros((1, 4, 6, 3), np.float64),
        np.zeros((1, 4, 6, 3), ">f4"),
        np.zeros((1, 4, 6, 3), [("a", "f4")]),
    ],
)
def test_an_array_of_another_form_is_refused(array: npt.NDArray[Any]) -> None:
    with pytest.raises(InputError, match=r"the model takes float32 \[1, 4, 6, 3\]"):
        read_input(saved(array), network(), AS_BYTES)


def test_a_msgpack_array_arrives_as_it_is() -> None:
    values = np.random.default_rng(1).standard_normal((1, 4, 6, 3)).astype(np.float32)
    payload = msgpack.packb({"shape": values.shape, "dtype": "float32", "data": values.tobytes()})
    read = read_input(payload, network(), AS_BYTES)
    np.testing.assert_array_equal(read.values, values)
    assert read.view is None


@pytest.mark.parametrize(
    ("shape", "dtype", "data", "says"),
    [
        ((1, 4, 6, 1), "float32", bytes(96), r"the model takes float32 \[1, 4, 6, 3\]"),
        ((1, 4, 6, 3), "float64", bytes(576), r"the model takes float32 \[1, 4, 6, 3\]"),
        ((1, 4, 6, 3), ">f4", bytes(288), r"the model takes float32 \[1, 4, 6, 3\]"),
        ((1, 4, 6, 3), "float32", bytes(287), "287 bytes"),
        ((1, 4, 6, 3), "float32", b"", "0 bytes"),
        ((10**12,), "float32", b"", "the model takes"),
        ((1.0, 4, 6, 3), "float32", bytes(288), "cannot be read"),
        ((1,) * 17, "float32", bytes(288), "cannot be read"),
        ((1, 4, 6, 3), "float32" * 9, bytes(288), "cannot be read"),
        (3, "float32", bytes(288), "cannot be read"),
        ((1, 4, 6, 3), "float32", "text", "cannot be read"),
    ],
)
def test_a_msgpack_array_of_another_form_is_refused(shape: Any, dtype: str, data: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_input(msgpack.packb({"shape": shape, "dtype": dtype, "data": data}), network(), AS_BYTES)


def test_msgpack_that_promises_more_than_it_is_costs_nothing() -> None:
    for payload in (b"\x83\xa4data\xc6\xff\xff\xff\xff", b"\x83\xdd\xff\xff\xff\xff", b"\x83" + b"\x91" * 100_000):
        tracemalloc.start()
        with pytest.raises(InputError):
            read_input(payload, network(), AS_BYTES)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4_000_000


def _npy(header: bytes, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def _png(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


GOOD_PNG = encoded(Image.fromarray(pixels()))
GOOD_JPEG = encoded(Image.fromarray(pixels(size=(32, 32))), "JPEG")
GOOD_NPY = saved(np.zeros((1, 4, 6, 3), np.float32))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"GIF89a" + bytes(40),
        b"P6 4 6 255\n" + bytes(72),
        GOOD_PNG[:40],
        GOOD_JPEG[: len(GOOD_JPEG) // 2],
        GOOD_NPY[:-1],
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00" + bytes(40),
        _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 6, 3), }\n"),
        _npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 4, 6, 3), }\n", b"cos\nsystem\n"),
        _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"),
        _npy(b"(" * 1000),
        _npy(b"[" * 60000),
        _png(60_000, 60_000),
        _png(0, 0),
    ],
    ids=range(15),
)
def test_damaged_and_hostile_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(InputError):
        read_input(payload, network(), AS_BYTES)


def test_a_payload_without_end_is_refused() -> None:
    with pytest.raises(InputError, match="bytes"):
        read_input(bytes(MAX_PAYLOAD + 1), network(), AS_BYTES)


@given(st.sampled_from([GOOD_PNG, GOOD_JPEG, GOOD_NPY]), st.data())
def test_flipped_bytes_are_read_or_refused(good: bytes, data: st.DataObject) -> None:
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        assert read_input(bytes(damaged), network(), AS_BYTES).values.shape == (1, 4, 6, 3)


def test_a_network_with_two_inputs_and_one_without_a_picture() -> None:
    net = GraphBuilder("two")
    pair = net.finish(net.add(net.input((1, 2, 2, 3), "a"), net.input((1, 2, 2, 3), "b")))
    with pytest.raises(InputError, match="2 inputs"):
        read_input(GOOD_PNG, pair, AS_BYTES)
    with pytest.raises(InputError, match="not a picture"):
        read_input(GOOD_PNG, network((1, 12)), AS_BYTES)
    assert read_input(saved(np.ones((1, 12), np.float32)), network((1, 12)), AS_BYTES).values.shape == (1, 12)
