"""A network that is measured: its file, an input for it, and what the whole model makes of that."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import ModelError
from legion_iot.model import tflite
from legion_iot_agent.executor import seeded_inputs
from legion_iot_agent.interpreter import Interpreter
from legion_iot_agent.isolation import run_isolated

Array = npt.NDArray[Any]

TIMEOUT = 300.0  # seconds
RUNS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """`payload` is the input as a request has it, `outputs` are the whole model's for it.

    `seconds` are those that one thread of this machine's processor needs for the network at least.
    """

    name: str
    path: Path
    payload: bytes
    outputs: Sequence[Array]
    seconds: float


def subject(name: str, path: Path) -> Subject:
    """Run the whole model on pseudo-random values; raises ModelError where it cannot be run."""
    value = seeded_inputs(tflite.open_file(path))[0]
    try:
        outputs, seconds = run_isolated(_run, (path, value), lambda text, fraction: None, TIMEOUT)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    file = io.BytesIO()
    np.save(file, value)
    return Subject(name, path, file.getvalue(), outputs, seconds)


def _run(path: Path, value: Array, progress: Callable[[str, float | None], None]) -> tuple[list[Array], float]:
    interpreter = Interpreter(path)
    outputs = interpreter.run([value])
    seconds = []
    for _ in range(RUNS):
        start = time.thread_time()  # what else the machine does costs no time of this thread
        interpreter.run([value])
        seconds.append(time.thread_time() - start)
    return outputs, min(seconds)
