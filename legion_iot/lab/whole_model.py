"""One run of the whole model, as a single device would run it, in a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from legion_iot.errors import ModelError
from legion_iot_agent.interpreter import Interpreter
from legion_iot_agent.isolation import run_isolated

Array = npt.NDArray[Any]

TIMEOUT = 300.0  # seconds


def run_whole_model(model: Path, value: Array, runs: int) -> tuple[list[Array], float]:
    """The outputs of the whole model for `value`, and the median milliseconds of `runs` runs on one thread.

    Raises ModelError where the model cannot be run.
    """
    try:
        return run_isolated(_run, (model, value, runs), lambda text, fraction: None, TIMEOUT)
    except ModelError as error:
        raise ModelError(f"{model}: {error}") from None


def _run(
    model: Path, value: Array, runs: int, progress: Callable[[str, float | None], None]
) -> tuple[list[Array], float]:
    interpreter = Interpreter(model)
    outputs = interpreter.run([value])
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        interpreter.run([value])
        seconds.append(time.perf_counter() - start)
    return outputs, statistics.median(seconds) * 1e3
