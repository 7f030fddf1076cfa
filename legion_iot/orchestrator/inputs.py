"""A request's payload to the network's input: JPEG and PNG pictures, and `.npy` arrays."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import InputError
from legion_iot.model.description import ModelDescription
from legion_iot.model.graph import Graph, Tensor
from legion_iot.model.preprocessing import normalise

MAX_PAYLOAD = 32 << 20  # bytes
MAX_PIXELS = 64 << 20  # of a picture once decoded; above it is a decompression bomb
NPY_MAGIC = b"\x93NUMPY"


def read_input(payload: bytes, graph: Graph, description: ModelDescription) -> npt.NDArray[Any]:
    """The input tensor for a picture or `.npy` array; raises InputError where it is neither or does not fit."""
    if len(graph.inputs) != 1:
        raise InputError(f"the model takes {len(graph.inputs)} inputs, and one payload carries one; use another model")
    if len(payload) > MAX_PAYLOAD:
        raise InputError(f"the payload has {len(payload)} bytes, {MAX_PAYLOAD} are allowed; send a smaller picture")
    tensor = graph.tensors[graph.inputs[0]]
    if payload.startswith(NPY_MAGIC):
        return _read_array(payload, tensor)
    return normalise(_read_picture(payload, tensor, description), description.preprocessing, tensor)


def _read_array(payload: bytes, tensor: Tensor) -> npt.NDArray[Any]:
    try:
        array = np.load(io.BytesIO(payload), allow_pickle=False, max_header_size=1024)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise InputError(f"the .npy payload cannot be read ({error})") from None
    if array.shape != tensor.shape or array.dtype != tensor.numpy_dtype:
        raise InputError(
            f"the .npy payload is {array.dtype} {list(array.shape)}; "
            f"the model takes {tensor.dtype} {list(tensor.shape)}"
        )
    return np.ascontiguousarray(array)


def _read_picture(payload: bytes, tensor: Tensor, description: ModelDescription) -> npt.NDArray[np.uint8]:
    """The picture, cropped and resized to the input's size, as RGB bytes [H, W, 3]."""
    # Imported late: only who decodes pictures needs Pillow.
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415

    if len(tensor.shape) != 4:
        raise InputError(f"the model takes a tensor of shape {list(tensor.shape)}, not a picture; send a .npy array")
    height, width = tensor.shape[1], tensor.shape[2]
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(payload), formats=("JPEG", "PNG")) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(f"the picture has {picture.width}×{picture.height} pixels; {MAX_PIXELS} are allowed")
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except UnidentifiedImageError:
        raise InputError("the payload is no JPEG, PNG or .npy; send one of these") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"the picture is damaged ({error}); send it again") from None
    box = description.preprocessing.crop_box((upright.width, upright.height), (height, width))
    resized = upright.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized, dtype=np.uint8)
