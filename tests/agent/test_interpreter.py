"""The shim over the TFLite runtimes: what is missing or damaged is one line with its cure."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from legion_iot.errors import ModelError, RuntimeMissingError
from legion_iot.model import tflite
from legion_iot_agent import interpreter
from tests.runtime.networks import chain

RUNTIMES = ("ai_edge_litert", "tflite_runtime")


@pytest.fixture
def _fresh() -> Iterator[None]:
    """The runtime that was found is remembered; not across these tests."""
    interpreter._module.cache_clear()
    yield
    interpreter._module.cache_clear()


def _hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> ModuleType:
        if name.partition(".")[0] in packages:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)


@pytest.mark.usefixtures("_fresh")
def test_without_a_runtime_the_message_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _hide(monkeypatch, *RUNTIMES)
    with pytest.raises(RuntimeMissingError) as caught:
        interpreter.runtime_info()
    message = str(caught.value)
    assert "pip install 'legion-iot[agent]'" in message
    assert "ai-edge-litert" in message
    assert "tflite-runtime" in message
    assert "\n" not in message
    with pytest.raises(RuntimeMissingError):
        interpreter.Interpreter(tmp_path / "model.tflite")


@pytest.mark.usefixtures("_fresh")
def test_the_second_runtime_serves_where_the_first_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "ai_edge_litert")
    stand_in = ModuleType("tflite_runtime.interpreter")
    monkeypatch.setitem(sys.modules, "tflite_runtime", ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", stand_in)
    assert interpreter._module() == (stand_in, "tflite-runtime")


def test_the_kernel_path_is_named() -> None:
    pytest.importorskip("ai_edge_litert.interpreter")
    assert interpreter.runtime_info(True).kernel_path == "xnnpack"
    assert interpreter.runtime_info(False).kernel_path == "builtin"
    assert interpreter.runtime_info().name == "ai-edge-litert"


@pytest.mark.parametrize(
    "content", [b"", b"no model", bytes(1000), b"\x1c\0\0\0TFL3" + bytes(100)], ids=["empty", "text", "zeros", "header"]
)
def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("ai_edge_litert.interpreter")
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        interpreter.Interpreter(path)
    assert "the TFLite runtime refuses the model" in str(caught.value)  # its file is for the caller to name
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert.interpreter")
    with pytest.raises(ModelError, match=r"gone\.tflite"):
        interpreter.Interpreter(tmp_path / "gone.tflite")


@pytest.mark.parametrize("xnnpack", [True, False])
def test_inputs_that_do_not_fit_are_one_line_and_harm_nothing(tmp_path: Path, xnnpack: bool) -> None:
    pytest.importorskip("ai_edge_litert.interpreter")
    path = tmp_path / "model.tflite"
    tflite.write_file(chain(), path)
    loaded = interpreter.Interpreter(path, xnnpack=xnnpack)
    good = np.random.default_rng(1).standard_normal((1, 13, 9, 3)).astype(np.float32)
    (expected,) = loaded.run([good])
    for wrong in ([], [good, good], [good[:, :5]], [good.astype(np.int8)]):
        with pytest.raises(ModelError) as caught:
            loaded.run(wrong)
        assert "\n" not in str(caught.value)
    (again,) = loaded.run([good])
    assert expected.tobytes() == again.tobytes()
    assert np.isfinite(expected).all()
