"""From the pixels of a picture to the tensor a network takes.

    picture --crop_box, resize (elsewhere: that needs an image library)--> [H, W, 3] uint8 --normalise--> [1, H, W, C]

The value of one channel is (byte − mean) / std. Where the network's input is quantised, `normalise` also applies the
input's scale and zero point, or, with `raw`, hands the bytes over as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from legion_iot.errors import ModelError
from legion_iot.model.graph import Tensor

Channels = Literal["rgb", "bgr", "gray"]
Fit = Literal["stretch", "center-crop"]
Box = tuple[float, float, float, float]  # of a picture: left, top, right, bottom, in its pixels
Edges = tuple[float, float, float, float]  # top, left, bottom, right, in fractions of a picture's height and width

# ITU-R BT.601, as JPEG and Pillow weigh colours.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes a network's input; the size is the input tensor's.

    `mean` and `std` are in bytes (0–255) and in the network's channel order, one entry each or one per channel.
    `fit` "center-crop" keeps the proportions: the largest central box of the input's shape, times `crop`; "stretch"
    takes the whole picture. `raw` leaves bytes as they are (int8: minus 128).
    """

    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (127.5,)
    channels: Channels = "rgb"
    fit: Fit = "center-crop"
    crop: float = 1.0
    raw: bool = False

    def __post_init__(self) -> None:
        depth = 1 if self.channels == "gray" else 3
        if self.channels not in get_args(Channels) or self.fit not in get_args(Fit):
            raise ValueError(f"unknown channel order {self.channels!r} or fit {self.fit!r}")
        if len(self.mean) not in {1, depth} or len(self.std) not in {1, depth}:
            raise ValueError(f"mean and std need one number, or one for each of the {depth} channels")
        if not 0 < self.crop <= 1 or not all(0 < value < np.inf for value in self.std):
            raise ValueError("crop must be in (0, 1] and every std positive")
        if not all(-np.inf < value < np.inf for value in self.mean):
            raise ValueError("every mean must be finite")

    def crop_box(self, picture: tuple[int, int], target: tuple[int, int]) -> Box:
        """The part of a picture to resize.

        `picture` is (width, height), as image libraries have it; `target` is the network's (height, width).
        """
        width, height = picture
        if self.fit == "stretch":
            kept_width, kept_height = float(width), float(height)
        else:
            scale = min(width / target[1], height / target[0]) * self.crop
            kept_width, kept_height = target[1] * scale, target[0] * scale
        left, top = (width - kept_width) / 2, (height - kept_height) / 2
        return (left, top, left + kept_width, top + kept_height)


@dataclass(frozen=True, slots=True)
class View:
    """What a network sees of a picture of `size` (width, height): the `box`."""

    size: tuple[int, int]
    box: Box

    @property
    def pixels(self) -> tuple[int, int]:
        """Its (width, height) in whole pixels of the picture, at least one of each."""
        left, top, right, bottom = self.box
        return max(1, round(right - left)), max(1, round(bottom - top))

    def on_picture(self, edges: Edges) -> Edges:
        """In fractions of the picture what is given in fractions of the view."""
        left, top, right, bottom = self.box
        width, height = self.size
        return (
            (top + edges[0] * (bottom - top)) / height,
            (left + edges[1] * (right - left)) / width,
            (top + edges[2] * (bottom - top)) / height,
            (left + edges[3] * (right - left)) / width,
        )

    def shaped(self, size: tuple[int, int]) -> tuple[int, int]:
        """A (width, height) of about as many pixels as `size`, in the view's proportions."""
        left, top, right, bottom = self.box
        scale = math.sqrt(size[0] * size[1] / ((right - left) * (bottom - top)))
        return max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))


def normalise(picture: npt.NDArray[np.uint8], how: Preprocessing, tensor: Tensor) -> npt.NDArray[Any]:
    """The input of shape and dtype `tensor` for a picture [H, W, 3] of RGB bytes, already cropped and resized.

    Raises ModelError where the tensor is not [1, H, W, C] of the picture's size, or has a dtype no picture fits.
    """
    depth = 1 if how.channels == "gray" else 3
    wanted = (1, *picture.shape[:2], depth)
    if tensor.shape != wanted or picture.shape[2:] != (3,) or picture.dtype != np.uint8:
        raise ModelError(
            f"a picture of shape {picture.shape} gives an input of shape {wanted}, and the model takes {tensor.shape}; "
            "give it a tensor file instead"
        )
    if how.raw:
        return _raw(_in_order(picture, how.channels), tensor)
    mean, std = np.asarray(how.mean, np.float32), np.asarray(how.std, np.float32)
    values = (_in_order(picture, how.channels) - mean) / std
    if tensor.dtype in {"float32", "float16"}:
        return np.ascontiguousarray(values[np.newaxis], tensor.numpy_dtype)
    return _quantised(values, tensor)[np.newaxis]


def _in_order(picture: npt.NDArray[np.uint8], channels: Channels) -> npt.NDArray[np.float32]:
    values = picture.astype(np.float32)
    if channels == "gray":
        return np.asarray((values @ _LUMA)[..., np.newaxis])
    return values[..., ::-1] if channels == "bgr" else values


def _raw(values: npt.NDArray[np.float32], tensor: Tensor) -> npt.NDArray[Any]:
    if tensor.dtype not in {"uint8", "int8"}:
        raise ModelError(f"raw bytes are for uint8 and int8 inputs, not for {tensor.dtype}")
    offset = 128 if tensor.dtype == "int8" else 0
    return np.ascontiguousarray(np.rint(values)[np.newaxis] - offset).astype(tensor.numpy_dtype)


def _quantised(values: npt.NDArray[np.float32], tensor: Tensor) -> npt.NDArray[Any]:
    """Real values by the input's own scale and zero point, rounded half to even and clipped."""
    if tensor.dtype not in {"uint8", "int8", "int16"} or tensor.quantization is None:
        raise ModelError(
            f"a picture cannot be turned into an input of dtype {tensor.dtype}; give a tensor file instead"
        )
    limits = np.iinfo(tensor.numpy_dtype)
    scaled = np.rint(values / np.float32(tensor.quantization.scale[0])) + tensor.quantization.zero_point[0]
    return np.ascontiguousarray(np.clip(scaled, limits.min, limits.max)).astype(tensor.numpy_dtype)
