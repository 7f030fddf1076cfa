"""Cuts an agent's tiles out of a model, and runs them."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import ModelError
from legion_iot.model import tflite
from legion_iot.model.blocks import Network, divide
from legion_iot.model.cut import SubModel, cut_tail, cut_tile
from legion_iot.model.graph import Graph, Tensor
from legion_iot.runtime.exchange import TensorForm, tensor_forms
from legion_iot.wire.messages import AssignedStep, Assignment
from legion_iot.wire.tensors import as_map, bounds, region_of
from legion_iot_agent.interpreter import Interpreter
from legion_iot_agent.throttle import Throttle

Array = npt.NDArray[Any]
Run = Callable[[Sequence[Array]], list[Array]]

LEAST_RUNS = 3  # of a profile, after one that warms up
MOST_RUNS = 30


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
    """The sub-models of one assignment, loaded; files go below `directory`.

    `threads` and `xnnpack` are the interpreter's; with a `cpu_share`, computing is stretched to that many cores.
    """

    def __init__(self, directory: Path, threads: int = 1, xnnpack: bool = True, cpu_share: float | None = None) -> None:
        self._directory = directory
        self._threads = threads
        self._xnnpack = xnnpack
        self._throttle = None if cpu_share is None else Throttle(cpu_share, threads)
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
                self._ready(path, zeros),
                tuple(tensor for tensor, _ in sub.inputs),
                tuple(tensor.shape for tensor in tensors),
                tuple(tensor for tensor, _ in sub.outputs),
            ).run
        return tensor_forms(network)

    def _ready(self, path: Path, inputs: Sequence[Array]) -> Run:
        """Load a model and run it on `inputs`, since the first run allocates and packs; how to run it from now on."""
        interpreter = Interpreter(path, self._threads, self._xnnpack)
        interpreter.run(inputs)
        if self._throttle is None:
            return interpreter.run
        work = self._throttle.learn(lambda: interpreter.run(inputs))
        return lambda values: work.stretch(lambda: interpreter.run(values))

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

    def profile(self, model: Path, seconds: float) -> tuple[float, ...]:
        """Seconds of single runs of the whole model on seeded input, for about `seconds`, after one to warm up."""
        graph = tflite.open_file(model)
        inputs = seeded_inputs(graph)
        run = self._ready(model, inputs)
        runs: list[float] = []
        while len(runs) < LEAST_RUNS or (sum(runs) + statistics.median(runs) < seconds and len(runs) < MOST_RUNS):
            start = time.perf_counter()
            run(inputs)
            runs.append(time.perf_counter() - start)
        return tuple(runs)


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
