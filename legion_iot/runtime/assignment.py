"""From a routing to what one agent is told, and which of its steps makes what it is to send."""

from __future__ import annotations

from legion_iot.errors import ProtocolError
from legion_iot.planning.routing import Routing
from legion_iot.wire.messages import AssignedStep, Assignment, ModelReference, PeerRegion, TensorRegion
from legion_iot.wire.quantised import EXACT
from legion_iot.wire.tensors import bounds, region_of
from legion_iot.wire.zeros import CODEC


def assignment_of(
    epoch: int,
    model: ModelReference,
    routing: Routing,
    agent: str,
    wire: str = EXACT,
    pack_for: tuple[str, ...] = (),
) -> Assignment:
    """One agent's part of a plan, as it is told."""
    steps = tuple(
        AssignedStep(
            work.step,
            work.units,
            tuple(TensorRegion(t, bounds(region)) for t, region in work.inputs.items()),
            tuple(TensorRegion(t, bounds(region)) for t, region in work.outputs.items()),
            work.gathers,
            work.replica,
        )
        for work in routing.works
        if work.agent == agent
    )
    receives = tuple(
        PeerRegion(t.step, t.tensor, bounds(t.region), t.source) for t in routing.transfers if t.target == agent
    )
    sends = tuple(
        PeerRegion(t.step, t.tensor, bounds(t.region), t.target) for t in routing.transfers if t.source == agent
    )
    codec = CODEC if pack_for else ""
    return Assignment(epoch, model, steps, receives, sends, wire, codec=codec, pack_for=pack_for)


def sends_by_step(assignment: Assignment) -> dict[int, list[PeerRegion]]:
    """What each of the agent's steps has to send, or keep for a later one.

    A region is sent by the step that made it last before the receiver's. Raises ProtocolError where none makes it, or
    one that gathers makes anything but what it needs.
    """
    for step in assignment.steps:
        if step.gathers and set(step.inputs) != set(step.outputs):
            raise ProtocolError(f"step {step.step} gathers, but makes not what it needs")
    sends: dict[int, list[PeerRegion]] = {step.step: [] for step in assignment.steps}
    for part in assignment.sends:
        region = region_of(part.region)
        makers = [
            step.step
            for step in assignment.steps
            if step.step < part.step
            and any(made.tensor == part.tensor and region in region_of(made.region) for made in step.outputs)
        ]
        if not makers:
            raise ProtocolError(f"{part.region} of tensor {part.tensor} is to be sent, but not made")
        sends[max(makers)].append(part)
    return sends
