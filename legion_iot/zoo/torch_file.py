"""Reads the tensors out of a PyTorch `.pth` file without PyTorch, and without running what is in it.

Such a file is a row of pickles, and a pickle is a program that may call anything it can name. Here it can name three
kinds of things: `OrderedDict`, PyTorch's function that puts a tensor together (ours stands in for it), and the names
of its storages. Anything else ends the reading.

The layout (PyTorch before 1.6, `torch/serialization.py`, `_legacy_load`):

    pickle  magic number
    pickle  protocol version
    pickle  {"little_endian": …, "type_sizes": …}
    pickle  the state dict, its storages as persistent ids ("storage", type, key, device, elements, view)
    pickle  [key, …]
    for each key: int64 number of elements, then the elements
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import ModelError

Values = npt.NDArray[Any]

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_BYTES = 1 << 30

_STORAGES: Mapping[str, str] = MappingProxyType(
    {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4"}
)


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str
    elements: int


@dataclass(frozen=True, slots=True)
class _Pending:
    """A tensor whose storage comes later in the file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(content: bytes) -> dict[str, Values]:
    """The tensors of a state dict by name, in its order; arrays are copies of their own.

    Raises ModelError where the file is damaged, names anything but tensors, or is of PyTorch's newer zip form.
    """
    if len(content) > MAX_BYTES:
        raise ModelError(f"the PyTorch file is larger than {MAX_BYTES >> 20} MiB; it is not one this zoo knows")
    try:
        return _read(BytesIO(content))
    except ModelError:
        raise
    # A damaged pickle may raise nearly anything; what it cannot do is run anything.
    except Exception as error:
        raise ModelError(f"the PyTorch file is damaged ({type(error).__name__}: {error}); fetch it again") from None


def _read(file: BytesIO) -> dict[str, Values]:
    if _StateUnpickler(file).load() != MAGIC or _StateUnpickler(file).load() != PROTOCOL:
        raise ModelError("not a PyTorch file of the form before 1.6; save it with _use_new_zipfile_serialization=False")
    system = _StateUnpickler(file).load()
    if system["little_endian"] is not True:
        raise ModelError("the PyTorch file comes from a big-endian machine; save it again on a usual one")
    unpickler = _StateUnpickler(file)
    pending = unpickler.load()
    keys = _StateUnpickler(file).load()
    storages = {key: _read_storage(file, unpickler.storages[key]) for key in keys}
    return {str(name): _assemble(tensor, storages) for name, tensor in pending.items()}


def _read_storage(file: BytesIO, storage: _Storage) -> Values:
    (elements,) = np.frombuffer(file.read(8), "<i8")
    if elements != storage.elements:
        raise ValueError(f"storage {storage.key} holds {elements} elements instead of {storage.elements}")
    dtype = np.dtype(storage.dtype)
    return np.frombuffer(file.read(storage.elements * dtype.itemsize), dtype, storage.elements)


def _assemble(tensor: _Pending, storages: Mapping[str, Values]) -> Values:
    """The tensor as a copy of its elements; ValueError where it reaches past its storage."""
    values = storages[tensor.storage.key]
    numbers = (tensor.offset, *tensor.shape, *tensor.stride)
    if len(tensor.shape) != len(tensor.stride) or min(numbers) < 0:
        raise ValueError(f"a tensor of shape {tensor.shape} and stride {tensor.stride}")
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
    # Overlapping strides could claim more elements than the file has bytes.
    if not 0 < math.prod(tensor.shape) <= values.size or last >= values.size:
        raise ValueError(f"a tensor of shape {tensor.shape} reaches past its storage of {values.size} elements")
    steps = tuple(step * values.itemsize for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, steps, writeable=False).copy()


def _rebuild_tensor(storage: object, offset: object, shape: object, stride: object, *_: object) -> _Pending:
    """Stands in for `torch._utils._rebuild_tensor_v2`; gradients and hooks are of no use here."""
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise ModelError("the PyTorch file describes a tensor in an unknown way; fetch it again")
    return _Pending(storage, _whole(offset), tuple(map(_whole, shape)), tuple(map(_whole, stride)))


def _whole(number: object) -> int:
    if type(number) is not int:
        raise ModelError(f"the PyTorch file has {type(number).__name__} where a size belongs; fetch it again")
    return number


class _StateUnpickler(pickle.Unpickler):
    def __init__(self, file: BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return name
        raise ModelError(f"the PyTorch file asks for {module}.{name}, which no weights need; do not trust that file")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _device, elements, view = pid
        if kind != "storage" or view is not None:
            raise ModelError("the PyTorch file describes a storage in an unknown way; fetch it again")
        storage = _Storage(str(key), _STORAGES[storage_type], _whole(elements))
        return self.storages.setdefault(storage.key, storage)
