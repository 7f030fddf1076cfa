"""From a plan to what each participant does: which regions it computes, gets and sends.

The steps of a request are numbered: block 0, 1, …, then the tail, then the answer, which the orchestrator collects.
A tensor's regions are where they were made; each step gets from each owner the part it needs, and nothing else. The
network's inputs belong to the orchestrator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from legion_iot.model.blocks import Network
from legion_iot.model.cut import cut_tail, tile_inputs, whole_or_flat
from legion_iot.model.geometry import Region
from legion_iot.planning.plan import Plan, tile_outputs

ORCHESTRATOR = "orchestrator"  # the participant that owns the input and collects the answer


@dataclass(frozen=True, slots=True)
class Work:
    """One step of one participant: what it needs and what it makes (tensor → region).

    `units` are the block's first and last unit; None for the tail and for collecting the answer.
    """

    step: int
    agent: str
    units: tuple[int, int] | None
    inputs: Mapping[int, Region]
    outputs: Mapping[int, Region]


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
    def answer_step(self) -> int:
        return self.works[-1].step


def route(network: Network, plan: Plan) -> Routing:
    """Who needs what from whom. The last work is the orchestrator's: to collect the network's outputs."""
    works = (*_block_works(network, plan), *_tail_work(network, plan), _answer_work(network, plan))
    owners: dict[int, list[tuple[Region, str]]] = {}
    for tensor in network.graph.inputs:
        owners[tensor] = [(whole_or_flat(network.graph.tensors[tensor]), ORCHESTRATOR)]
    for work in works:
        for tensor, region in work.outputs.items():
            owners.setdefault(tensor, []).append((region, work.agent))
    transfers = []
    for work in works:
        for tensor, needed in work.inputs.items():
            for owned, owner in owners[tensor]:
                part = needed.intersection(owned)
                if part.area:
                    transfers.append(Transfer(work.step, tensor, part, owner, work.agent))
    return Routing(works, tuple(transfers))


def _block_works(network: Network, plan: Plan) -> Iterator[Work]:
    for step, block in enumerate(plan.blocks):
        ops = network.block_ops(block.first, block.last)
        for tile in block.tiles:
            outputs = {t: region for t, region in tile_outputs(network, block, tile).items() if region.area}
            if outputs:
                yield Work(step, tile.agent, (block.first, block.last), tile_inputs(network, ops, outputs), outputs)


def _tail_work(network: Network, plan: Plan) -> Iterator[Work]:
    if network.tail:
        tail = cut_tail(network)
        yield Work(len(plan.blocks), plan.tail_agent, None, dict(tail.inputs), dict(tail.outputs))


def _answer_work(network: Network, plan: Plan) -> Work:
    graph = network.graph
    inputs = {tensor: whole_or_flat(graph.tensors[tensor]) for tensor in graph.outputs}
    return Work(len(plan.blocks) + 1, ORCHESTRATOR, None, inputs, {})
