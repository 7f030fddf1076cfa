"""Cuts an agent's tiles out of a model, and runs them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from legion_iot.errors import ModelError
from legion_iot.model import tflite
from legion_iot.model.blocks import Network, divide
from legion_iot.model.cut import SubModel, cut_tail, cut_tile, whole_or_flat
from legion_iot.model.geometry import Region
from legion_iot.model.graph import Graph, Tensor
from legion_iot.planning.memory import Footprint, footprint, needed_bytes, tail_footprint
from legion_iot.runtime.exchange import TensorForm, tensor_forms
from legion_iot.wire.messages import AssignedStep, Assignment
from legion_iot.wire.tensors import as_map, bounds, region_of
from legion_iot_agent.engine import Array, Engine, Run
from legion_iot_agent.limits import Memory, give_back_memory


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


_Key = tuple[Any, ...]  # model, units, inputs, outputs: what makes a sub-model


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """What one step of an epoch runs; without a `key` where nothing is loaded for it."""

    key: _Key
    run: Callable[[Mapping[int, Array]], dict[int, Array]]


class Executor:
    """The sub-models of assignments, loaded by the engine; an epoch has one assignment, and several may be loaded.

    What two of them have in common is loaded once. A sub-model's file lies in `directory` until it is loaded: from then
    on it is the runtime's, without a name, so that nothing is left behind however the process ends. What would not fit
    the `memory` is not loaded.
    """

    def __init__(self, directory: Path, engine: Engine | None = None, memory: Memory | None = None) -> None:
        self._directory = directory
        self._engine = engine or Engine()
        self._memory = memory or Memory()
        self._epochs: dict[int, dict[int, _Step]] = {}
        shutil.rmtree(directory, ignore_errors=True)  # of a process that was killed while it loaded

    def load(self, model: Path, assignment: Assignment) -> dict[int, TensorForm]:
        """Cut and load every step of the assignment, in place of what its epoch had; the forms of all tensors.

        Raises ModelError where the model cannot be cut or run as assigned, or where there is too little memory; then
        nothing of the epoch is loaded.
        """
        held = self._held()
        self.unload(assignment.epoch)
        network = divide(tflite.open_file(model))
        steps: dict[int, _Step] = {}
        try:
            self._check_memory(network, [step for step in assignment.steps if _key(assignment, step) not in held])
            for step in assignment.steps:
                if step.gathers:
                    steps[step.step] = _Step((), dict)  # what was needed is there
                    continue
                key = _key(assignment, step)
                if key not in held:
                    held[key] = _Step(key, self._load(_sub_model(network, step)).run)
                steps[step.step] = held[key]
        except MemoryError:
            raise ModelError("the sub-models of the assignment need more memory than there is") from None
        finally:
            give_back_memory()
        self._epochs[assignment.epoch] = steps
        return tensor_forms(network)

    def _check_memory(self, network: Network, steps: Sequence[AssignedStep]) -> None:
        """Raises ModelError where loading the steps would exceed the memory: better said than killed by the kernel."""
        needed = needed_bytes([self._footprint(network, step) for step in steps if not step.gathers])
        if needed > self._memory.left():
            give_back_memory()  # of a load that has failed
        if needed > (left := self._memory.left()):
            raise ModelError(
                f"the assignment needs {needed / 1e6:.0f} MB of memory, and {left / 1e6:.0f} MB are left of the "
                f"{self._memory.most / 1e6:.0f} MB that this agent may use (--memory-mb)"
            )

    def _footprint(self, network: Network, step: AssignedStep) -> Footprint:
        if step.units is None:
            return tail_footprint(network)
        return footprint(network, *_wanted(network, step, step.units), xnnpack=self._engine.xnnpack)

    def _load(self, sub: SubModel) -> _LoadedStep:
        tensors = [sub.graph.tensors[i] for i in sub.graph.inputs]
        zeros = [np.zeros(tensor.shape, tensor.numpy_dtype) for tensor in tensors]
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / "step.tflite"
        try:
            tflite.write_file(sub.graph, path)
            run = self._engine.load(path, zeros)
        finally:
            path.unlink(missing_ok=True)
        return _LoadedStep(
            run,
            tuple(tensor for tensor, _ in sub.inputs),
            tuple(tensor.shape for tensor in tensors),
            tuple(tensor for tensor, _ in sub.outputs),
        )

    def _held(self) -> dict[_Key, _Step]:
        return {step.key: step for steps in self._epochs.values() for step in steps.values() if step.key}

    def unload(self, epoch: int) -> None:
        """Free what is loaded for this epoch and for no other one."""
        if self._epochs.pop(epoch, None) is not None:
            give_back_memory()

    def close(self) -> None:
        """Free everything."""
        self._epochs.clear()
        shutil.rmtree(self._directory, ignore_errors=True)
        give_back_memory()

    def run(self, epoch: int, step: int, inputs: Mapping[int, Array]) -> tuple[dict[int, Array], float]:
        """Outputs by tensor, as (rows, columns, channels), and the seconds it took.

        `inputs` are by tensor, in the same form. Raises ModelError where the runtime fails.
        """
        loaded = self._epochs.get(epoch, {}).get(step)
        if loaded is None:
            raise ModelError(f"step {step} of epoch {epoch} is not loaded")
        start = time.perf_counter()
        outputs = loaded.run(inputs)
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


def _key(assignment: Assignment, step: AssignedStep) -> _Key:
    return assignment.model.sha256, step.units, step.inputs, step.outputs


def _wanted(network: Network, step: AssignedStep, units: tuple[int, int]) -> tuple[Sequence[int], dict[int, Region]]:
    """The ops of a step's block, and what they are to make; raises ModelError where the model has no such thing."""
    first, last = units
    if not 0 <= first <= last < len(network.units):
        raise ModelError(f"the assignment names units {first}–{last}, the model has {len(network.units)}")
    ops = network.block_ops(first, last)
    made = {tensor for op in ops for tensor in network.graph.ops[op].outputs}
    wanted = {output.tensor: region_of(output.region) for output in step.outputs}
    for tensor, region in wanted.items():
        if tensor not in made or region not in whole_or_flat(network.graph.tensors[tensor]):
            raise _planned_otherwise(step)
    return ops, wanted


def _planned_otherwise(step: AssignedStep) -> ModelError:
    return ModelError(f"step {step.step} was planned by another version of legion-iot; update the older side")


def _sub_model(network: Network, step: AssignedStep) -> SubModel:
    sub = cut_tail(network) if step.units is None else cut_tile(network, *_wanted(network, step, step.units))
    for told, cut in ((step.inputs, sub.inputs), (step.outputs, sub.outputs)):
        if {(part.tensor, part.region) for part in told} == {(tensor, bounds(region)) for tensor, region in cut}:
            continue
        raise _planned_otherwise(step)
    return sub
