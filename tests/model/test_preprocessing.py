"""Pixels become the numbers a network wants, for every kind of input."""

from __future__ import annotations

import numpy as np
import pytest

from legion_iot.errors import ModelError
from legion_iot.model.graph import Quantization, Tensor
from legion_iot.model.preprocessing import Preprocessing, normalise

PICTURE = np.array([[[0, 127, 255], [10, 20, 30]]], np.uint8)


def tensor(dtype: str, channels: int = 3, quantization: Quantization | None = None) -> Tensor:
    return Tensor("input", (1, 1, 2, channels), dtype, quantization=quantization)


def test_float_input() -> None:
    values = normalise(PICTURE, Preprocessing(), tensor("float32"))
    assert values.dtype == np.float32
    assert values.shape == (1, 1, 2, 3)
    np.testing.assert_allclose(values[0], PICTURE / 127.5 - 1, atol=1e-6)


def test_channel_order_and_means_per_channel() -> None:
    how = Preprocessing(mean=(1.0, 2.0, 3.0), std=(1.0,), channels="bgr")
    values = normalise(PICTURE, how, tensor("float32"))
    assert values[0, 0].tolist() == [[254, 125, -3], [29, 18, 7]]


def test_gray_input() -> None:
    values = normalise(PICTURE, Preprocessing(mean=(0.0,), std=(1.0,), channels="gray"), tensor("float32", 1))
    np.testing.assert_allclose(values[0, 0, :, 0], [0.587 * 127 + 0.114 * 255, 2.99 + 11.74 + 3.42], rtol=1e-6)


@pytest.mark.parametrize(("dtype", "offset"), [("uint8", 0), ("int8", 128)])
def test_raw_bytes(dtype: str, offset: int) -> None:
    values = normalise(PICTURE, Preprocessing(raw=True), tensor(dtype))
    assert values.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(values[0].astype(int), PICTURE.astype(int) - offset)


def test_quantised_input_by_its_own_scale() -> None:
    # byte / 255 in steps of 1/255 from −128: the usual int8 input, which the raw bytes agree with.
    how = Preprocessing(mean=(0.0,), std=(255.0,))
    values = normalise(PICTURE, how, tensor("int8", quantization=Quantization((1 / 255,), (-128,))))
    np.testing.assert_array_equal(values, normalise(PICTURE, Preprocessing(raw=True), tensor("int8")))


def test_quantised_values_are_clipped() -> None:
    values = normalise(PICTURE, Preprocessing((0.0,), (1.0,)), tensor("uint8", quantization=Quantization((0.1,), (0,))))
    assert values[0, 0].tolist() == [[0, 255, 255], [100, 200, 255]]


@pytest.mark.parametrize("target", [tensor("float32", 1), tensor("int32"), tensor("int8"), tensor("bool")])
def test_what_no_picture_fits_is_refused(target: Tensor) -> None:
    with pytest.raises(ModelError, match="tensor file"):
        normalise(PICTURE, Preprocessing(), target)


def test_raw_float_is_refused() -> None:
    with pytest.raises(ModelError, match="raw bytes"):
        normalise(PICTURE, Preprocessing(raw=True), tensor("float32"))


def test_crop_box() -> None:
    assert Preprocessing(fit="stretch").crop_box((640, 480), (224, 224)) == (0, 0, 640, 480)
    assert Preprocessing(fit="center-crop").crop_box((640, 480), (224, 224)) == (80, 0, 560, 480)
    assert Preprocessing(fit="center-crop", crop=0.5).crop_box((640, 480), (224, 224)) == (200, 120, 440, 360)
    # A landscape network on a portrait picture: full width, a central band.
    assert Preprocessing(fit="center-crop").crop_box((480, 640), (320, 480)) == (0, 160, 480, 480)


@pytest.mark.parametrize(
    "wrong",
    [{"std": (0.0,)}, {"mean": (1.0, 2.0)}, {"crop": 0.0}, {"crop": 1.5}, {"fit": "tile"}, {"channels": "xyz"},
     {"mean": (float("nan"),)}, {"channels": "gray", "mean": (1.0, 2.0, 3.0)}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"mean|crop|unknown"):
        Preprocessing(**wrong)  # type: ignore[arg-type]
