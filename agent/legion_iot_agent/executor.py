"""Cuts an agent's tiles out of a model, and runs them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from legion_iot.errors import ModelError
from legion_iot.model import tflite
from legion_iot.model.blocks import Network, divide
from legion_iot.model.cut import SubModel, cut_tail, cut_tile
from legion_iot.model.graph import Graph, Tensor
from legion_iot.runtime.exchange import TensorForm, tensor_forms
from legion_iot.wire.messages import AssignedStep, Assignment
from legion_iot.wire.tensors import as_map, bounds, region_of
from legion_iot_agent.engine import Array, Engine, Run


@dataclass(frozen=True, slots=True, eq=False)
class _LoadedStep:
    """A sub-model; `inputs`, of these `shapes`, and `outputs` are tensors of the whole model."""

    run_arrays: Run
    inputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]

    def run(self, inputs: Mapping[int, Array]) -> dict[int, Array]:
        arrays = [inputs[t].reshape(shape) for t, shape in zip(self.inputs, self.shapes, strict=True)]
        return {t: as_map(result) for t, result in zip(self.outputs, self.run_arrays(arrays), strict=True)}


class Executor:
    """The sub-models of one assignment, loaded by the engine; files go below `directory`."""

    def __init__(self, directory: Path, engine: Engine | None = None) -> None:
        self._directory = directory
        self._engine = engine or Engine()
        self._steps: dict[int, Callable[[Mapping[int, Array]], dict[int, Array]]] = {}

    def load(self, model: Path, assignment: Assignment) -> dict[int, TensorForm]:
        """Cut and load every step of the assignment; the forms of all tensors.

        Raises ModelError where the model cannot be cut or run as assigned.
        """
        self.unload()
        network = divide(tflite.open_file(model))
        self._directory.mkdir(parents=True, exist_ok=True)
        for step in assignment.steps:
            if step.gathers:
                self._steps[step.step] = dict  # what was needed is there
                continue
            sub = _sub_model(network, step)
            path = self._directory / f"step-{step.step}.tflite"
            tflite.write_file(sub.graph, path)
            tensors = [sub.graph.tensors[i] for i in sub.graph.inputs]
            zeros = [np.zeros(tensor.shape, tensor.numpy_dtype) for tensor in tensors]
            self._steps[step.step] = _LoadedStep(
                self._engine.load(path, zeros),
                tuple(tensor for tensor, _ in sub.inputs),
                tuple(tensor.shape for tensor in tensors),
                tuple(tensor for tensor, _ in sub.outputs),
            ).run
        return tensor_forms(network)

    def unload(self) -> None:
        """Free all interpreters and their files."""
        self._steps.clear()
        shutil.rmtree(self._directory, ignore_errors=True)

    def run(self, step: int, inputs: Mapping[int, Array]) -> tuple[dict[int, Array], float]:
        """Outputs by tensor, as (rows, columns, channels), and the seconds it took.

        `inputs` are by tensor, in the same form. Raises ModelError where the runtime fails.
        """
        loaded = self._steps.get(step)
        if loaded is None:
            raise ModelError(f"step {step} is not loaded")
        start = time.perf_counter()
        outputs = loaded(inputs)
        return outputs, time.perf_counter() - start


def seeded_inputs(graph: Graph, seed: int = 0) -> list[Array]:
    """Pseudo-random values for every input of a network; the same for the same seed."""
    random = np.random.default_rng(seed)
    return [_seeded(graph.tensors[index], random) for index in graph.inputs]


def _seeded(tensor: Tensor, random: np.random.Generator) -> Array:
    dtype = tensor.numpy_dtype
    if dtype.kind == "f":
        return random.standard_normal(tensor.shape).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, tensor.shape, dtype=dtype, endpoint=True)
    return np.zeros(tensor.shape, dtype)  # indices and sizes: zero is valid for all of them


def _sub_model(network: Network, step: AssignedStep) -> SubModel:
    if step.units is None:
        sub = cut_tail(network)
    else:
        first, last = step.units
        if not 0 <= first <= last < len(network.units):
            raise ModelError(f"the assignment names units {first}–{last}, the model has {len(network.units)}")
        wanted = {output.tensor: region_of(output.region) for output in step.outputs}
        sub = cut_tile(network, network.block_ops(first, last), wanted)
    for told, cut in ((step.inputs, sub.inputs), (step.outputs, sub.outputs)):
        if {(part.tensor, part.region) for part in told} == {(tensor, bounds(region)) for tensor, region in cut}:
            continue
        raise ModelError(f"step {step.step} was planned by another version of legion-iot; update the older side")
    return sub
