"""The whole model in a child process: its answer, and its ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from legion_iot.errors import ModelError
from legion_iot.lab import whole_model
from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder
from legion_iot_agent.interpreter import Interpreter


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = GraphBuilder("small")
    path = tmp_path / "small.tflite"
    tflite.write_file(net.finish(net.conv2d(net.input((1, 9, 9, 3)), 4, 3)), path)
    return path


def test_it_equals_a_run_in_this_process(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    value = np.random.default_rng(0).standard_normal((1, 9, 9, 3)).astype(np.float32)
    outputs, milliseconds = whole_model.run_whole_model(model, value, 3)
    assert capfd.readouterr() == ("", "")
    assert milliseconds > 0
    (expected,) = Interpreter(model).run([value])
    assert outputs[0].tobytes() == expected.tobytes()


def test_a_wrong_input_is_a_model_error(model: Path) -> None:
    with pytest.raises(ModelError, match="cannot run the model"):
        whole_model.run_whole_model(model, np.zeros((1, 2, 2, 3), np.float32), 1)


def test_it_does_not_wait_for_ever(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_model, "TIMEOUT", 0.01)
    with pytest.raises(ModelError, match=r"within 0\.01 s"):
        whole_model.run_whole_model(model, np.zeros((1, 9, 9, 3), np.float32), 1)
