"""What agents of a simulation compute with: anything like the real executor, or an oracle that checks every input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from legion_iot.model.blocks import Network
from legion_iot.model.cut import whole_or_flat
from legion_iot.model.geometry import Region
from legion_iot.model.graph import NUMPY_DTYPES
from legion_iot.runtime.agent_events import Compute
from legion_iot.runtime.exchange import TensorForm, tensor_forms
from legion_iot.runtime.simulation.behaviour import Behaviour
from legion_iot.runtime.simulation.invariants import broken, hold
from legion_iot.runtime.trial import PREFIX
from legion_iot.wire.messages import Assignment
from legion_iot.wire.tensors import Array, region_of

Way = tuple[int, int]  # epoch and attempt in which a request was computed


class Worker(Protocol):
    """What an agent computes with."""

    def load(self, assignment: Assignment) -> Mapping[int, TensorForm]: ...

    def unload(self, epoch: int) -> None: ...

    def run(self, work: Compute) -> Mapping[int, Array]: ...


class Noise:
    """Stands in for a network: tensor t of a request is seeded noise, another one in each epoch and attempt.

    The inputs of a request are the same in all of them.
    """

    def __init__(self, network: Network) -> None:
        self.forms = tensor_forms(network)
        self._graph = network.graph
        self._known: dict[str, dict[tuple[int, Way], Array]] = {}

    def tensor(self, request: str, index: int, way: Way) -> Array:
        """The whole tensor as (rows, columns, channels)."""
        is_input = index in self._graph.inputs
        known = self._known.setdefault(request, {})
        key = (index, (0, 0) if is_input else way)
        if key not in known:
            known[key] = self._draw(request, *key)
        return known[key]

    def input_arrays(self, request: str) -> tuple[Array, ...]:
        """What a client sends."""
        graph = self._graph
        return tuple(self.tensor(request, t, (0, 0)).reshape(graph.tensors[t].shape) for t in graph.inputs)

    def forget(self, request: str) -> None:
        """The request has ended; should anybody ask again, it is drawn anew."""
        self._known.pop(request, None)

    def _draw(self, request: str, index: int, way: Way) -> Array:
        form = self.forms[index]
        region = whole_or_flat(self._graph.tensors[index])
        shape = (len(region.rows), len(region.columns), form.channels)
        if request.startswith(PREFIX) and index in self._graph.inputs:
            return np.zeros(shape, NUMPY_DTYPES[form.dtype])  # as a trial sends them
        noise: Array = np.random.default_rng([index, *way, *request.encode()]).standard_normal(shape)
        return noise.astype(NUMPY_DTYPES[form.dtype])


class Oracle:
    """One agent's worker: a step checks that its inputs are exactly the planned regions of the noise.

    So a single element that is missing, misplaced, of another request, epoch or attempt is seen where it arrives. Only
    where NaN is allowed, or this very device has made some, may there be NaN; then the outputs are NaN.
    """

    def __init__(self, noise: Noise, behaviour: Behaviour) -> None:
        self._noise, self._behaviour = noise, behaviour
        self._has_made_nan = False
        self._loaded: dict[int, Assignment] = {}

    def load(self, assignment: Assignment) -> Mapping[int, TensorForm]:
        self._loaded[assignment.epoch] = assignment
        mine = [epoch for epoch, each in self._loaded.items() if each.model.name == assignment.model.name]
        hold(len(mine) <= 2, "two-epochs", f"epochs {mine} of {assignment.model.name} are loaded")
        return self._noise.forms

    def unload(self, epoch: int) -> None:
        self._loaded.pop(epoch, None)

    def run(self, work: Compute) -> Mapping[int, Array]:
        if work.epoch not in self._loaded:
            raise broken("two-epochs", f"step {work.step} of epoch {work.epoch}, which is not loaded")
        (step,) = (s for s in self._loaded[work.epoch].steps if s.step == work.step)
        way = (work.epoch, work.attempt)
        where = f"{work.request}, step {work.step}, epoch {work.epoch}, attempt {work.attempt}"
        if set(work.inputs) != {i.tensor for i in step.inputs}:
            raise broken("right-inputs", f"{where}: tensors {sorted(work.inputs)}")
        is_nan = self._behaviour.corrupt == "nan"
        for part in step.inputs:
            values = work.inputs[part.tensor]
            wrong = values != self._part(work.request, part.tensor, way, region_of(part.region))
            if not wrong.any():
                continue
            is_nan = (self._has_made_nan or self._loaded[work.epoch].nan_allowed) and bool(
                np.isnan(values[wrong]).all()
            )
            hold(is_nan, "right-inputs", f"{where}: tensor {part.tensor} is not what was made of it")
        self._has_made_nan |= is_nan
        outputs = {o.tensor: self._part(work.request, o.tensor, way, region_of(o.region)) for o in step.outputs}
        return {t: np.full_like(a, np.nan) for t, a in outputs.items()} if is_nan else outputs

    def _part(self, request: str, index: int, way: Way, region: Region) -> Array:
        whole = self._noise.tensor(request, index, way)
        return whole[region.rows.start : region.rows.stop, region.columns.start : region.columns.stop]
