"""PyTorch files give up their tensors, and nothing in them is ever run."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import ModelError
from legion_iot.zoo import torch_file
from legion_iot.zoo.torch_file import read_state_dict


class FloatStorage:
    """Stands for torch.FloatStorage while a file is written."""


class _Tensor:
    def __init__(self, key: str, elements: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.fields = (key, elements, offset, shape, stride)

    def __reduce__(self) -> Any:
        key, elements, offset, shape, stride = self.fields
        return _rebuild_tensor_v2, (_Storage(key, elements), offset, shape, stride, False, OrderedDict())


class _Storage:
    def __init__(self, key: str, elements: int) -> None:
        self.pid = ("storage", FloatStorage, key, "cpu", elements, None)


def _rebuild_tensor_v2() -> None:
    """Only its name is pickled."""


class _Writer(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.pid if isinstance(value, _Storage) else None


@pytest.fixture(scope="module", autouse=True)
def pretended_torch() -> Any:
    """Lets pickle write the names that PyTorch's files hold."""
    modules = {"torch": ModuleType("torch"), "torch._utils": ModuleType("torch._utils")}
    for module, thing in (("torch", FloatStorage), ("torch._utils", _rebuild_tensor_v2)):
        setattr(modules[module], thing.__name__, thing)
        thing.__module__ = module
        thing.__qualname__ = thing.__name__
    sys.modules.update(modules)
    yield
    for name in modules:
        del sys.modules[name]


def legacy_file(state: Any, storages: dict[str, np.ndarray[Any, Any]]) -> bytes:
    file = io.BytesIO()
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    for part in (torch_file.MAGIC, torch_file.PROTOCOL, system, state, list(storages)):
        _Writer(file, protocol=2).dump(part)
    for values in storages.values():
        file.write(np.int64(values.size).tobytes() + values.astype("<f4").tobytes())
    return file.getvalue()


def good_file() -> bytes:
    values = np.arange(12, dtype=np.float32)
    state = OrderedDict(
        plain=_Tensor("1", 12, 0, (3, 4), (4, 1)),
        turned=_Tensor("1", 12, 0, (4, 3), (1, 4)),
        part=_Tensor("1", 12, 5, (2,), (1,)),
        scalar=_Tensor("2", 1, 0, (), ()),
    )
    return legacy_file(state, {"1": values, "2": np.array([7.0], np.float32)})


def test_tensors_come_out_with_offsets_and_strides() -> None:
    state = read_state_dict(good_file())
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert list(state) == ["plain", "turned", "part", "scalar"]
    np.testing.assert_array_equal(state["plain"], values)
    np.testing.assert_array_equal(state["turned"], values.T)
    assert state["part"].tolist() == [5, 6]
    assert state["scalar"].tolist() == 7
    assert state["plain"].flags.owndata or state["plain"].base is not None


class _Attack:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("position", ["state", "first"])
def test_a_malicious_pickle_is_refused_and_not_run(position: str, tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    attack = _Attack(os.system, f"touch {marker}")
    content = legacy_file(OrderedDict(x=attack), {}) if position == "state" else pickle.dumps(attack, protocol=2)
    with pytest.raises(ModelError, match=r"system.*do not trust"):
        read_state_dict(content)
    assert not marker.exists()


@pytest.mark.parametrize("function", [eval, getattr, __import__, open])
def test_builtins_are_out_of_reach(function: Any) -> None:
    with pytest.raises(ModelError, match="which no weights need"):
        read_state_dict(legacy_file(OrderedDict(x=_Attack(function, "1")), {}))


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (13,), (1,)), (11, (2,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,)),
        (0, (1 << 40, 1 << 40), (0, 0)), (0, (0,), (1,)),
    ],
)  # fmt: skip
def test_tensors_that_reach_past_their_storage_are_refused(offset: int, shape: Any, stride: Any) -> None:
    tensor = _Tensor("1", 12, offset, shape, stride)
    with pytest.raises(ModelError, match="damaged"):
        read_state_dict(legacy_file(OrderedDict(x=tensor), {"1": np.zeros(12)}))


def test_sizes_must_be_numbers() -> None:
    with pytest.raises(ModelError, match="where a size belongs"):
        read_state_dict(legacy_file(OrderedDict(x=_Tensor("1", 12, 0, ("a",), (1,))), {"1": np.zeros(12)}))  # type: ignore[arg-type]


def test_the_newer_zip_form_is_named() -> None:
    with pytest.raises(ModelError, match=r"damaged|before 1\.6"):
        read_state_dict(b"PK\x03\x04" + bytes(100))


def test_every_truncation_is_one_clear_error() -> None:
    content = good_file()
    for length in range(len(content)):
        with pytest.raises(ModelError):
            read_state_dict(content[:length])


@given(st.data())
def test_random_damage_is_harmless(data: st.DataObject) -> None:
    content = bytearray(good_file())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_state_dict(bytes(content))
    except ModelError:
        return


@given(st.binary(max_size=80))
def test_random_bytes_are_harmless(content: bytes) -> None:
    with pytest.raises(ModelError):
        read_state_dict(content)
