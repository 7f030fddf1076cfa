"""From a routing to what each agent is told, and which of its steps makes what it is to send."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from legion_iot.errors import ProtocolError
from legion_iot.planning.routing import ORCHESTRATOR, Routing, Work
from legion_iot.wire.dtypes import EXACT
from legion_iot.wire.messages import AssignedStep, Assignment, ModelReference, PeerRegion, TensorRegion
from legion_iot.wire.tensors import bounds, region_of
from legion_iot.wire.zeros import CODEC

REPORT_WITHIN = 0.5  # seconds; progress.LEAST_SECONDS, which any task may take, is four times as long


def assignments_of(
    epoch: int,
    model: ModelReference,
    routing: Routing,
    wire: str = EXACT,
    *,
    alone: bool = False,
    nan_allowed: bool = False,
    packs: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    beside: int = 0,
) -> dict[str, Assignment]:
    """Each agent's part of a plan, as it is told, by name; agents without any are not in it.

    `packs` names for each sender those to whom its maps go packed; `beside` is the epoch in force.
    """
    steps: dict[str, list[AssignedStep]] = {}
    for work in routing.works:
        if work.agent != ORCHESTRATOR:
            steps.setdefault(work.agent, []).append(_step(work))
    receives: dict[str, list[PeerRegion]] = {}
    sends: dict[str, list[PeerRegion]] = {}
    for t in routing.transfers:
        receives.setdefault(t.target, []).append(PeerRegion(t.step, t.tensor, bounds(t.region), t.source))
        sends.setdefault(t.source, []).append(PeerRegion(t.step, t.tensor, bounds(t.region), t.target))
    return {
        agent: Assignment(
            epoch, model, tuple(own), tuple(receives.get(agent, ())), tuple(sends.get(agent, ())), wire,
            alone, nan_allowed, CODEC if packs.get(agent) else "", packs.get(agent, ()), beside,
            REPORT_WITHIN,
        )
        for agent, own in steps.items()
    }  # fmt: skip


def _step(work: Work) -> AssignedStep:
    return AssignedStep(
        work.step,
        work.units,
        tuple(TensorRegion(t, bounds(region)) for t, region in work.inputs.items()),
        tuple(TensorRegion(t, bounds(region)) for t, region in work.outputs.items()),
        work.gathers,
        work.replica,
    )


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
