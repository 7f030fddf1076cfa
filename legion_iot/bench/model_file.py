"""What the commands that take a model share: open it, resolve its open sizes, and make an input for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy.typing as npt

from legion_iot.errors import InputError, ModelError, UsageError
from legion_iot.model import tflite
from legion_iot.model.blocks import Network, divide
from legion_iot.model.description import describe
from legion_iot.model.graph import Graph
from legion_iot.orchestrator.inputs import read_input
from legion_iot_agent.executor import seeded_inputs
from legion_iot_agent.shapes import has_open_sizes, open_inputs, with_static_shapes


def open_network(path: Path, input_shape: str = "") -> Network:
    """The network in a file, with static shapes; `input_shape` (1x320x320x3) is that of its first input.

    Raises UsageError, InputError or ModelError.
    """
    graph = tflite.open_file(path)
    if input_shape:
        graph = with_static_shapes(graph, {0: _parsed(input_shape)})
    elif open_inputs(graph):
        raise ModelError(f"{path}: the size of {open_inputs(graph)[0]} is open; choose one with --input-shape")
    elif has_open_sizes(graph):
        graph = with_static_shapes(graph)
    return divide(graph)


def _parsed(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d{1,6}(x\d{1,6}){0,7}", text) or "0" in text.split("x"):
        raise UsageError(f"--input-shape is {text!r}; give sizes like 1x320x320x3")
    return tuple(int(size) for size in text.split("x"))


def read_inputs(graph: Graph, image: Path | None, seed: int) -> list[npt.NDArray[Any]]:
    """One array per input: the picture, or seeded values. Raises InputError where the picture does not do."""
    if image is None:
        return seeded_inputs(graph, seed)
    try:
        payload = image.read_bytes()
    except OSError as error:
        raise InputError(f"{image}: cannot be read ({error.strerror}); give a JPEG or PNG picture (--image)") from None
    return [read_input(payload, graph, describe(graph))]
