"""The network that the group serves, inputs for it, and the right answers."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.graph import Graph
from legion_iot.orchestrator.answers import digests
from legion_iot_agent.interpreter import Interpreter
from legion_iot_agent.isolation import run_isolated

NAME = "faulted"
INPUTS = 4
_SIZE, _CHANNELS, _LAYERS = 64, 48, 8
_TIMEOUT = 60.0  # seconds

Digests = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A model's file, payloads, and for each the digests of what the whole model makes of it."""

    model: Path
    graph: Graph
    payloads: tuple[bytes, ...]
    right: tuple[Digests, ...]


def prepare(directory: Path) -> Work:
    """Write the network, and run the whole of it in a process of its own; raises ModelError where that fails.

    Some convolutions, a residual connection and a classifier, with seeded weights: 500 million multiplications or so.
    """
    net = GraphBuilder(NAME, seed=6)
    x = net.conv2d(net.input((1, _SIZE, _SIZE, 3)), _CHANNELS, 3, padding="same", activation="relu")
    for layer in range(_LAYERS):
        stride = 2 if layer == _LAYERS // 2 else 1
        y = net.conv2d(x, _CHANNELS, 3, stride=stride, padding="same", activation="relu")
        x = net.add(y, x) if stride == 1 else y
    x = net.fully_connected(net.global_mean(x), 10)
    path = directory / f"{NAME}.tflite"
    tflite.write_file(net.finish(net.softmax(x)), path)
    random = np.random.default_rng(6)
    inputs = [random.uniform(-1, 1, (1, _SIZE, _SIZE, 3)).astype(np.float32) for _ in range(INPUTS)]
    right = run_isolated(_digests, (path, inputs), lambda text, fraction: None, _TIMEOUT)
    return Work(path, tflite.open_file(path), tuple(_npy(each) for each in inputs), right)


def _digests(
    model: Path, inputs: list[npt.NDArray[Any]], progress: Callable[[str, float | None], None]
) -> tuple[Digests, ...]:
    interpreter, graph = Interpreter(model), tflite.open_file(model)
    return tuple(tuple(each.sha256 for each in digests(graph, interpreter.run([value]))) for value in inputs)


def _npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
