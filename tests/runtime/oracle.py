"""What agents of the simulation compute with: anything like the real executor, or an oracle that checks every input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from legion_iot.model.blocks import Network
from legion_iot.model.cut import whole_or_flat
from legion_iot.model.geometry import Region
from legion_iot.model.graph import NUMPY_DTYPES
from legion_iot.runtime.exchange import TensorForm, tensor_forms
from legion_iot.runtime.trial import PREFIX
from legion_iot.wire.messages import Assignment
from legion_iot.wire.tensors import Array, region_of


class Worker(Protocol):
    """What an agent computes with."""

    def load(self, assignment: Assignment) -> dict[int, TensorForm]: ...

    def unload(self, epoch: int) -> None: ...

    def run(self, epoch: int, request: str, step: int, inputs: Mapping[int, Array]) -> dict[int, Array]: ...


class Oracle:
    """Stands in for a network: tensor t of request r is seeded noise, known to everybody.

    A step checks that its inputs are exactly the planned regions of that noise, so that a single element that is
    missing, misplaced, or of another request is seen where it arrives.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._assignments: dict[int, Assignment] = {}
        self._known: dict[tuple[str, int], Array] = {}

    def tensor(self, request: str, index: int) -> Array:
        """The whole tensor as (rows, columns, channels)."""
        if (request, index) not in self._known:
            form = tensor_forms(self._network)[index]
            region = whole_or_flat(self._network.graph.tensors[index])
            shape = (len(region.rows), len(region.columns), form.channels)
            if request.startswith(PREFIX) and index in self._network.graph.inputs:
                self._known[request, index] = np.zeros(shape, NUMPY_DTYPES[form.dtype])  # as a trial sends them
                return self._known[request, index]
            noise = np.random.default_rng([index, *request.encode()]).standard_normal(shape)
            self._known[request, index] = noise.astype(NUMPY_DTYPES[form.dtype])
        return self._known[request, index]

    def load(self, assignment: Assignment) -> dict[int, TensorForm]:
        self._assignments[assignment.epoch] = assignment
        return tensor_forms(self._network)

    def unload(self, epoch: int) -> None:
        self._assignments.pop(epoch, None)

    def run(self, epoch: int, request: str, step: int, inputs: Mapping[int, Array]) -> dict[int, Array]:
        (work,) = (s for s in self._assignments[epoch].steps if s.step == step)
        assert set(inputs) == {i.tensor for i in work.inputs}
        for part in work.inputs:
            np.testing.assert_array_equal(inputs[part.tensor], self._part(request, part.tensor, region_of(part.region)))
        return {o.tensor: self._part(request, o.tensor, region_of(o.region)) for o in work.outputs}

    def _part(self, request: str, index: int, region: Region) -> Array:
        whole = self.tensor(request, index)
        return whole[region.rows.start : region.rows.stop, region.columns.start : region.columns.stop]
