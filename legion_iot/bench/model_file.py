"""What the commands that take a model share: open it, resolve its open sizes, and make an input for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from legion_iot.errors import InputError
from legion_iot.model.blocks import Network, divide
from legion_iot.model.description import describe
from legion_iot.model.graph import Graph
from legion_iot.orchestrator.inputs import read_input
from legion_iot_agent.executor import seeded_inputs
from legion_iot_agent.shapes import open_static


def open_network(path: Path, input_shape: str = "") -> Network:
    """The network in a file, divided; `input_shape` (1x320x320x3) is for one that leaves it open.

    Raises UsageError, InputError or ModelError.
    """
    return divide(open_static(path, input_shape))


def read_inputs(graph: Graph, image: Path | None, seed: int) -> list[npt.NDArray[Any]]:
    """One array per input: the picture, or seeded values. Raises InputError where the picture does not do."""
    if image is None:
        return seeded_inputs(graph, seed)
    try:
        payload = image.read_bytes()
    except OSError as error:
        raise InputError(f"{image}: cannot be read ({error.strerror}); give a JPEG or PNG picture (--image)") from None
    try:
        return [read_input(payload, graph, describe(graph)).values]
    except InputError as error:
        raise InputError(f"{image}: {error}") from None
