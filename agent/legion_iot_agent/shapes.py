"""The sizes a network's file leaves open, resolved by the runtime itself.

A file may leave sizes open (−1 in a shape signature), or give no shape for the output of a custom op. The runtime knows
the shapes once its tensors are allocated; the planner needs them before. A network with open sizes is therefore
rewritten once, with static shapes, and only the static form is planned, handed out and run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from legion_iot.errors import ModelError, UsageError
from legion_iot.interruption import temporary_directory
from legion_iot.model import tflite
from legion_iot.model.graph import Graph
from legion_iot_agent.interpreter import allocated_shapes


def has_open_sizes(graph: Graph) -> bool:
    """Whether a size beyond the batch is open, or something that ops make has no shape."""
    if any(-1 in graph.tensors[i].shape_signature[1:] for i in graph.inputs):
        return True
    return any(not graph.tensors[t].shape for op in graph.ops for t in op.outputs)


def open_inputs(graph: Graph) -> list[str]:
    """The inputs that have open sizes beyond the batch, each as `name (1, -1, -1, 3)`."""
    tensors = (graph.tensors[i] for i in graph.inputs)
    return [f"{t.name} {t.shape_signature}" for t in tensors if -1 in t.shape_signature[1:]]


def parse_shape(text: str) -> tuple[int, ...]:
    """The sizes in `1x320x320x3`; raises UsageError."""
    if not re.fullmatch(r"\d{1,6}(x\d{1,6}){0,7}", text) or "0" in text.split("x"):
        raise UsageError(f"--input-shape is {text!r}; give sizes like 1x320x320x3")
    return tuple(int(size) for size in text.split("x"))


def open_static(path: Path, input_shape: str = "") -> Graph:
    """The network in a file, with static shapes; `input_shape` (1x320x320x3) is that of its first input.

    Raises UsageError, InputError, or ModelError where a size is open and none is given.
    """
    graph = tflite.open_file(path)
    if input_shape:
        return with_static_shapes(graph, {0: parse_shape(input_shape)})
    if open_inputs(graph):
        raise ModelError(f"{path}: the size of {open_inputs(graph)[0]} is open; choose one with --input-shape")
    return with_static_shapes(graph) if has_open_sizes(graph) else graph


def static_file(path: Path, directory: Path, input_shape: str = "") -> Path:
    """A file of the same network with static shapes: `path` itself, or a new one below `directory`.

    Raises like `open_static`.
    """
    if not input_shape and not has_open_sizes(tflite.open_file(path)):
        return path
    target = directory / path.name
    tflite.write_file(open_static(path, input_shape), target)
    return target


def with_static_shapes(graph: Graph, input_shapes: Mapping[int, tuple[int, ...]] | None = None) -> Graph:
    """The network with every shape as the runtime allocates it for inputs of the given shapes (by input position).

    Inputs that are not given keep the shape in the file. Raises ModelError where the runtime refuses a shape.
    """
    given = dict(input_shapes or {})
    with temporary_directory("legion-shapes-") as directory:
        path = directory / "model.tflite"
        tflite.write_file(graph, path)
        shapes = allocated_shapes(path, given)
    tensors = list(graph.tensors)
    for index, tensor in enumerate(tensors):
        if not tensor.is_constant and index in shapes:
            if any(size < 0 for size in shapes[index]):
                raise ModelError(f"the size of {tensor.name!r} is known only while the network runs; it cannot be cut")
            tensors[index] = dataclasses.replace(tensor, shape=shapes[index], shape_signature=(), has_rank=True)
    return dataclasses.replace(graph, tensors=tuple(tensors))
