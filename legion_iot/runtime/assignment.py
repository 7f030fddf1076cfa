"""From a routing to what one agent is told."""

from __future__ import annotations

from legion_iot.planning.routing import Routing
from legion_iot.wire.messages import AssignedStep, Assignment, ModelReference, PeerRegion, TensorRegion
from legion_iot.wire.quantised import EXACT
from legion_iot.wire.tensors import bounds


def assignment_of(epoch: int, model: ModelReference, routing: Routing, agent: str, wire: str = EXACT) -> Assignment:
    """One agent's part of a plan, as it is told."""
    steps = tuple(
        AssignedStep(
            work.step,
            work.units,
            tuple(TensorRegion(t, bounds(region)) for t, region in work.inputs.items()),
            tuple(TensorRegion(t, bounds(region)) for t, region in work.outputs.items()),
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
    return Assignment(epoch, model, steps, receives, sends, wire)
