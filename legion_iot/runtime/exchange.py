"""What one participant waits for: regions of feature maps, per request and step, until a step has all its inputs.

Agents and the orchestrator both take part in the exchange: an agent waits for its tiles' inputs, the orchestrator for
the network's outputs. Everything that arrives is checked against what the plan says this sender sends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from legion_iot.errors import ProtocolError
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Region
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.runtime.attempts import Attempt
from legion_iot.wire.dtypes import EXACT
from legion_iot.wire.messages import Fragment, PeerRegion, RegionBounds
from legion_iot.wire.tensors import (
    Array,
    Assembly,
    Layout,
    Place,
    bounds,
    has_nan,
    layout_of,
    place_of,
    read_fragment,
    region_of,
)

# Requests with unfinished steps, for each replica; beyond it the one is dropped that was silent for longest.
MAX_REQUESTS = 16
FEW_REQUESTS = 4  # for each replica, as many as may be under way: the bytes of more are limited
MOST_BYTES = 64 << 20  # of inputs that are not complete, of more requests than these few
REMEMBERED = 256  # ended attempts whose late fragments are still recognised
MOST_KINDS = 4096  # of fragments and of places that are remembered; a step has some dozens


class UnplannedFragmentError(ProtocolError):
    """A fragment that contradicts its epoch's assignment, or cannot be true: the fault is its `sender`'s alone."""

    def __init__(self, sender: str, reason: str) -> None:
        super().__init__(f"{sender} {reason}")
        self.sender = sender


class NanFragmentError(UnplannedFragmentError):
    """A fragment that contains NaN, where the model makes none."""


@dataclass(frozen=True, slots=True)
class TensorForm:
    """What every region of a tensor has in common."""

    channels: int
    dtype: str


def tensor_forms(network: Network) -> dict[int, TensorForm]:
    """The form of every tensor that may travel."""
    forms = {}
    for index, tensor in enumerate(network.graph.tensors):
        is_map = len(tensor.shape) == 4 and tensor.shape[0] == 1
        forms[index] = TensorForm(tensor.shape[3] if is_map else 1, tensor.dtype)
    return forms


def wire_between(dtype: str, peer: str, wire: str) -> str:
    """How a tensor travels to or from `peer` under a plan's wire dtype, as in a fragment's header.

    Only float32 between agents is ever quantised: inputs and outputs are the orchestrator's, and exact.
    """
    return "" if wire == EXACT or dtype != EXACT or peer == ORCHESTRATOR else wire


_Kind = tuple[str, int, int, RegionBounds, int, str, str]  # all that does not change from one request to the next


@dataclass(slots=True)
class _Request:
    """What is there for one attempt at a request.

    Its replica, the steps whose inputs are not complete, and the inputs so far.
    """

    replica: int
    steps: set[int]
    inputs: dict[int, dict[int, Assembly]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What its incomplete inputs take."""
        return sum(part.values.nbytes for parts in self.inputs.values() for part in parts.values())


class Exchange:
    """The regions one participant collects in one epoch.

    `needs` maps step → tensor → region; `receives` says which part comes from whom; `forms` gives each tensor's form;
    `wire` is the plan's wire dtype; `replicas` names the replica of each step that is not of the first one;
    `nan_allowed` says that agents may send NaN. A request goes through the steps of the replica that its first fragment
    is for, and is forgotten with the last of them. Raises ProtocolError where they contradict each other.

    Requests are alike, and so are their fragments: what a fragment's header says is checked when it comes first.
    """

    def __init__(
        self,
        epoch: int,
        needs: Mapping[int, Mapping[int, Region]],
        receives: Sequence[PeerRegion],
        forms: Mapping[int, TensorForm],
        wire: str = EXACT,
        replicas: Mapping[int, int] = MappingProxyType({}),
        nan_allowed: bool = True,
    ) -> None:
        self.epoch = epoch
        self._replicas = {step: replicas.get(step, 0) for step in needs}
        self._wire = wire
        self.nan_allowed = nan_allowed
        self._needs = needs
        self._forms = forms
        self._expected: dict[tuple[str, int, int], list[Region]] = {}
        for part in receives:
            needed = needs.get(part.step, {}).get(part.tensor)
            if needed is None or region_of(part.region) not in needed or part.tensor not in forms:
                raise ProtocolError(f"step {part.step} does not need {part.region} of tensor {part.tensor}")
            self._expected.setdefault((part.peer, part.step, part.tensor), []).append(region_of(part.region))
        replica_count = len(set(self._replicas.values()))
        self._most_requests, self._few_requests = MAX_REQUESTS * replica_count, FEW_REQUESTS * replica_count
        self._bytes = 0
        self._requests: OrderedDict[Attempt, _Request] = OrderedDict()
        self._ended: OrderedDict[Attempt, None] = OrderedDict()
        self._layouts: dict[_Kind, Layout] = {}
        self._places: dict[tuple[int, int, RegionBounds], Place] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, attempt: Attempt) -> bool:
        """Whether steps of the attempt wait for inputs."""
        return attempt in self._requests

    @property
    def bytes(self) -> int:
        """What the inputs that are not complete take."""
        return self._bytes

    def put_fragment(self, sender: str, header: Fragment, body: memoryview) -> dict[int, Array] | None:
        """Take in a fragment; the step's inputs by tensor when this made them complete, else None.

        Raises ProtocolError where the fragment is of another epoch or replica, UnplannedFragmentError where it is not
        what this sender is to send.
        """
        if header.epoch != self.epoch:
            raise ProtocolError(f"fragment of epoch {header.epoch} in epoch {self.epoch}")
        attempt = Attempt(header.request, header.attempt)
        if attempt in self._ended:
            return None
        try:
            values = read_fragment(header, body, self._layout(sender, header))
        except UnplannedFragmentError:
            raise
        except ProtocolError as error:
            raise UnplannedFragmentError(sender, f"sent what is no fragment ({error})") from None
        if not self.nan_allowed and sender != ORCHESTRATOR and has_nan(values):
            raise NanFragmentError(sender, f"sent NaN in tensor {header.tensor}")
        return self._put(attempt, header.step, header.tensor, header.region, values)

    def _layout(self, sender: str, header: Fragment) -> Layout:
        """That of a fragment which the plan lets this sender send."""
        kind = sender, header.step, header.tensor, header.region, header.channels, header.dtype, header.wire
        layout = self._layouts.get(kind)
        if layout is None:
            self._check(sender, header)
            if len(self._layouts) >= MOST_KINDS:
                self._layouts.clear()
            layout = self._layouts[kind] = layout_of(header)
        return layout

    def _check(self, sender: str, header: Fragment) -> None:
        """Raises ProtocolError unless the plan says that this sender sends the fragment's region in this form."""
        region = region_of(header.region)
        expected = self._expected.get((sender, header.step, header.tensor), ())
        if not any(region in whole for whole in expected):
            raise UnplannedFragmentError(sender, f"is not to send {header.region} of tensor {header.tensor}")
        form = self._forms[header.tensor]
        if TensorForm(header.channels, header.dtype) != form:
            sent = f"{header.channels}×{header.dtype:.20}"
            raise UnplannedFragmentError(
                sender, f"sent tensor {header.tensor} as {sent}, which is {form.channels}×{form.dtype}"
            )
        # What cannot be quantised comes as it is, under any plan.
        if header.wire and header.wire != wire_between(form.dtype, sender, self._wire):
            raise UnplannedFragmentError(sender, f"is not to send tensor {header.tensor} as {header.wire!r:.20}")

    def put(self, attempt: Attempt, step: int, tensor: int, region: Region, values: Array) -> dict[int, Array] | None:
        """Take in a region of this participant's own; answers like `put_fragment`."""
        return None if attempt in self._ended else self._put(attempt, step, tensor, bounds(region), values)

    def _put(
        self, attempt: Attempt, step: int, tensor: int, region: RegionBounds, values: Array
    ) -> dict[int, Array] | None:
        replica = self._replicas[step]
        held = self._requests.get(attempt)
        if held is None:
            held = _Request(replica, {other for other, of in self._replicas.items() if of == replica})
            self._requests[attempt] = held
        elif held.replica != replica:
            message = f"request {attempt.request} goes through replica {held.replica}, step {step} is of {replica}"
            raise ProtocolError(message)
        self._requests.move_to_end(attempt)
        if step not in held.steps:
            return None  # it has had its inputs already: a late duplicate
        if step not in held.inputs:
            held.inputs[step] = self._assemblies(step)
            self._bytes += sum(part.values.nbytes for part in held.inputs[step].values())
            self._make_room()
        parts = held.inputs[step]
        parts[tensor].put_at(self._place(step, tensor, region), values)
        for part in parts.values():
            if part.missing:
                return None
        del held.inputs[step]
        self._bytes -= sum(part.values.nbytes for part in parts.values())
        held.steps.remove(step)
        if not held.steps:
            self.forget(attempt)
        return {index: part.values for index, part in parts.items()}

    def _place(self, step: int, tensor: int, region: RegionBounds) -> Place:
        """Where a region lies in what the step needs of the tensor."""
        place = self._places.get((step, tensor, region))
        if place is None:
            if len(self._places) >= MOST_KINDS:
                self._places.clear()
            place = self._places[step, tensor, region] = place_of(region_of(region), self._needs[step][tensor])
        return place

    def _make_room(self) -> None:
        """Forget those that were silent for longest, as long as there are too many, or many with too many bytes."""
        while len(self._requests) > self._most_requests or (
            self._bytes > MOST_BYTES and len(self._requests) > self._few_requests
        ):
            self.forget(next(iter(self._requests)))

    def forget(self, attempt: Attempt) -> None:
        """Free what an attempt holds, and ignore whatever still comes for it."""
        if (held := self._requests.pop(attempt, None)) is not None:
            self._bytes -= held.bytes
        self._ended[attempt] = None
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def displace(self, newer: Attempt) -> None:
        """Forget what there is of older attempts at the same request."""
        for older in [each for each in self._requests if each.request == newer.request and each < newer]:
            self.forget(older)

    def _assemblies(self, step: int) -> dict[int, Assembly]:
        return {
            tensor: Assembly(region, self._forms[tensor].channels, self._forms[tensor].dtype)
            for tensor, region in self._needs[step].items()
        }
