"""A request's payload to the network's input: JPEG and PNG pictures, `.npy` and msgpack arrays."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import InputError, ProtocolError
from legion_iot.model.description import ModelDescription
from legion_iot.model.graph import Graph, Tensor
from legion_iot.model.preprocessing import View, normalise
from legion_iot.wire.codec import read_array

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_PAYLOAD = 32 << 20  # bytes
MAX_PIXELS = 64 << 20  # of a picture once decoded; above it is a decompression bomb
NPY_MAGIC = b"\x93NUMPY"
MSGPACK_MAP = b"\x83"  # of three entries
MAX_HEADER = 1024  # bytes, of a .npy file


@dataclass(frozen=True, slots=True, eq=False)
class NetworkInput:
    """A payload as an input tensor; `view` is what of a picture that is, None where the payload is an array."""

    values: npt.NDArray[Any]
    view: View | None = None


def read_input(payload: bytes, graph: Graph, description: ModelDescription) -> NetworkInput:
    """The input for a picture or an array; raises InputError where the payload is neither or does not fit."""
    if len(graph.inputs) != 1:
        raise InputError(f"the model takes {len(graph.inputs)} inputs, and one payload carries one; use another model")
    if len(payload) > MAX_PAYLOAD:
        raise InputError(f"the payload has {len(payload)} bytes, {MAX_PAYLOAD} are allowed; send a smaller picture")
    tensor = graph.tensors[graph.inputs[0]]
    if payload.startswith(NPY_MAGIC):
        return NetworkInput(_read_array(payload, tensor))
    if payload.startswith(MSGPACK_MAP):
        return NetworkInput(_read_msgpack(payload, tensor))
    pixels, view = _read_picture(payload, tensor, description)
    return NetworkInput(normalise(pixels, description.preprocessing, tensor), view)


def _read_array(payload: bytes, tensor: Tensor) -> npt.NDArray[Any]:
    file = io.BytesIO(payload)
    try:
        # The header first: what it promises would be allocated before a byte of it is read.
        shape, dtype = _array_header(file)
        if shape != tensor.shape or dtype != tensor.numpy_dtype:
            raise InputError(
                f"the .npy payload is {dtype} {list(shape)}; the model takes {tensor.dtype} {list(tensor.shape)}"
            )
        file.seek(0)
        array = np.load(file, allow_pickle=False, max_header_size=MAX_HEADER)
    except InputError:
        raise
    except Exception as error:
        # The header is Python source: what numpy's reading of a damaged one raises includes TokenError, SyntaxError, …
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"the .npy payload cannot be read ({cause}); save the array again") from None
    return np.ascontiguousarray(array)


def _read_msgpack(payload: bytes, tensor: Tensor) -> npt.NDArray[Any]:
    try:
        shape, dtype, data = read_array(payload)
    except ProtocolError as error:
        raise InputError(f"the msgpack payload cannot be read ({error}); send shape, dtype and data") from None
    if shape != tensor.shape or dtype != str(tensor.numpy_dtype):
        raise InputError(
            f"the msgpack payload is {dtype:.40} {list(shape)}; the model takes {tensor.dtype} {list(tensor.shape)}"
        )
    wanted = math.prod(shape) * tensor.numpy_dtype.itemsize
    if len(data) != wanted:
        raise InputError(f"the msgpack payload has {len(data)} bytes of data; an array of that shape has {wanted}")
    return np.frombuffer(data, tensor.numpy_dtype).reshape(shape)


def _array_header(file: io.BytesIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=MAX_HEADER)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file, max_header_size=MAX_HEADER)
    else:
        raise ValueError(f"format version {version[0]}.{version[1]}")
    return shape, dtype


def _read_picture(payload: bytes, tensor: Tensor, description: ModelDescription) -> tuple[npt.NDArray[np.uint8], View]:
    """The picture, cropped and resized to the input's size, as RGB bytes [H, W, 3], and what of it that is."""
    from PIL import Image  # noqa: PLC0415 — only who decodes pictures needs Pillow

    if len(tensor.shape) != 4:
        raise InputError(f"the model takes a tensor of shape {list(tensor.shape)}, not a picture; send a .npy array")
    height, width = tensor.shape[1], tensor.shape[2]
    upright = upright_picture(payload)
    view = View(upright.size, description.preprocessing.crop_box(upright.size, (height, width)))
    resized = upright.resize((width, height), Image.Resampling.BICUBIC, box=view.box)
    return np.asarray(resized, dtype=np.uint8), view


def upright_picture(payload: bytes) -> Picture:
    """The picture as its camera was held, as RGB; raises InputError where it is none that can be decoded."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(payload), formats=("JPEG", "PNG")) as picture:
            warnings.simplefilter("ignore")
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(
                    f"the picture has {picture.width}×{picture.height} pixels, {MAX_PIXELS} are allowed; "
                    "send a smaller one"
                )
            return _as_rgb(ImageOps.exif_transpose(picture))
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError("the payload is no JPEG, PNG, .npy or msgpack array; send one of these") from None
    except Exception as error:
        # Pillow raises what its parsers happen to raise on damaged files: OSError, SyntaxError, struct.error, …
        raise InputError(f"the picture is damaged ({error}); send another one") from None


def _as_rgb(picture: Picture) -> Picture:
    from PIL import Image  # noqa: PLC0415

    if picture.mode.startswith("I"):  # 16-bit gray, which `convert` would clip to white
        return Image.fromarray((np.asarray(picture, np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")
