"""From a plan to what each participant does: which regions it computes, gets and sends.

The steps of a request are numbered: block 0, 1, …, then the tail, then the answer, which the orchestrator collects.
A tile computed in parts has a step for each of them; where a hub gathers a block's output, that is a step, too. The
replicas of a plan have steps of their own, and a request goes through those of one of them.

A tensor's regions are where they were made, or gathered last; each step gets from each owner the part it needs, and
nothing else. The network's inputs belong to the orchestrator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from legion_iot.model.blocks import Network
from legion_iot.model.cut import cut_tail, tile_inputs, whole_or_flat
from legion_iot.model.geometry import Region
from legion_iot.planning.plan import Block, Plan, tile_outputs

ORCHESTRATOR = "orchestrator"  # the participant that owns the input and collects the answer


@dataclass(frozen=True, slots=True)
class Work:
    """One step of one participant: what it needs and what it makes (tensor → region).

    `units` are the block's first and last unit; None for the tail, for gathering and for collecting the answer.
    A hub that gathers (`gathers`) makes what it needs: the same regions, now its own. `block` counts the plan's blocks,
    a gathering is its block's; the tail and the answer have none. `replica` is the plan's turn it belongs to.
    """

    step: int
    agent: str
    units: tuple[int, int] | None
    inputs: Mapping[int, Region]
    outputs: Mapping[int, Region]
    block: int | None = None
    gathers: bool = False
    replica: int = 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """Region of a tensor that `source` made and `target` needs for its `step`."""

    step: int
    tensor: int
    region: Region
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Routing:
    """All work and all transfers of a plan, those from a participant to itself included: it keeps what it made."""

    works: tuple[Work, ...]
    transfers: tuple[Transfer, ...]

    @property
    def answers(self) -> tuple[Work, ...]:
        """The collecting of the answer, of each replica in turn."""
        return tuple(work for work in self.works if work.agent == ORCHESTRATOR)


def route(network: Network, plan: Plan) -> Routing:
    """Who needs what from whom. The last work of each replica is the orchestrator's: to collect the outputs."""
    works: list[Work] = []
    transfers: list[Transfer] = []
    for number, turn in enumerate(plan.turns):
        first_step = works[-1].step + 1 if works else 0
        of_turn = tuple(_works(network, turn, first_step, number))
        works += of_turn
        transfers += _transfers(network, of_turn)
    return Routing(tuple(works), tuple(transfers))


def _transfers(network: Network, works: tuple[Work, ...]) -> Iterator[Transfer]:
    owners: dict[int, list[tuple[Region, str]]] = {}
    for tensor in network.graph.inputs:
        owners[tensor] = [(whole_or_flat(network.graph.tensors[tensor]), ORCHESTRATOR)]
    for work in works:
        for tensor, needed in work.inputs.items():
            for owned, owner in owners[tensor]:
                part = needed.intersection(owned)
                if part.area:
                    yield Transfer(work.step, tensor, part, owner, work.agent)
        for tensor, region in work.outputs.items():
            if work.gathers:
                owners[tensor] = []
            owners.setdefault(tensor, []).append((region, work.agent))


def _works(network: Network, plan: Plan, step: int, replica: int) -> Iterator[Work]:
    for number, block in enumerate(plan.blocks):
        ops = network.block_ops(block.first, block.last)
        units = (block.first, block.last)
        for part in range(max(len(tile.goes) for tile in block.tiles)):
            for tile in block.tiles:
                if part >= len(tile.goes):
                    continue
                owned = tile_outputs(network, block, tile.goes[part])
                outputs = {tensor: region for tensor, region in owned.items() if region.area}
                if outputs:
                    inputs = tile_inputs(network, ops, outputs)
                    yield Work(step, tile.agent, units, inputs, outputs, number, replica=replica)
            step += 1
        if _is_gathered(plan, block):
            whole = {tensor: Region.whole(network.graph.tensors[tensor]) for tensor in network.makes(ops)}
            yield Work(step, plan.hub, None, whole, whole, number, gathers=True, replica=replica)
            step += 1
    if network.tail:
        tail = cut_tail(network)
        yield Work(step, plan.tail_agent, None, dict(tail.inputs), dict(tail.outputs), replica=replica)
    outputs = {tensor: whole_or_flat(network.graph.tensors[tensor]) for tensor in network.graph.outputs}
    yield Work(step + 1, ORCHESTRATOR, None, outputs, {}, replica=replica)


def _is_gathered(plan: Plan, block: Block) -> bool:
    return bool(plan.hub) and any(tile.agent != plan.hub for tile in block.tiles)
