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
from legion_iot.model.cut import cut_tail, tile_regions, whole_or_flat
from legion_iot.model.geometry import Region
from legion_iot.planning.plan import Block, Plan, scaled_outputs

ORCHESTRATOR = "orchestrator"  # the participant that owns the input and collects the answer
REMEMBERED = 1 << 16  # tiles, of all plans that a Router has routed

_Regions = tuple[Mapping[int, Region], Mapping[int, Region]]  # what is needed, and what is made; by tensor


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
    """Region of a tensor that `source` made and `target` needs for its `step`.

    `made_in` is the source's step; None for the network's inputs. `replica` is the plan's turn both steps belong to.
    """

    step: int
    tensor: int
    region: Region
    source: str
    target: str
    made_in: int | None = None
    replica: int = 0


@dataclass(frozen=True, slots=True)
class Routing:
    """All work and all transfers of a plan, those from a participant to itself included: it keeps what it made."""

    works: tuple[Work, ...]
    transfers: tuple[Transfer, ...]

    @property
    def replicas(self) -> int:
        """How many ways there are for a request to go."""
        return self.works[-1].replica + 1

    @property
    def answers(self) -> tuple[Work, ...]:
        """The collecting of the answer, of each replica in turn."""
        return tuple(work for work in self.works if work.agent == ORCHESTRATOR)


@dataclass(frozen=True, slots=True)
class _BlockForm:
    """The ops of a block, and the tensors it reads and makes."""

    ops: tuple[int, ...]
    reads: tuple[int, ...]
    makes: tuple[int, ...]


def route(network: Network, plan: Plan) -> Routing:
    """Who needs what from whom. The last work of each replica is the orchestrator's: to collect the outputs."""
    return Router(network).route(plan)


class Router:
    """Routes plans of one network; what tiles need is remembered, since plans that are compared share most tiles."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._blocks: dict[tuple[int, int], _BlockForm] = {}
        self._tiles: dict[tuple[int, int, Region], _Regions] = {}
        self._tail: _Regions | None = None

    def route(self, plan: Plan) -> Routing:
        """Like the function of this name."""
        works: list[Work] = []
        transfers: list[Transfer] = []
        for number, turn in enumerate(plan.turns):
            first_step = works[-1].step + 1 if works else 0
            of_turn = tuple(self._works(turn, first_step, number))
            works += of_turn
            transfers += _transfers(self._network, of_turn)
        return Routing(tuple(works), tuple(transfers))

    def _works(self, plan: Plan, step: int, replica: int) -> Iterator[Work]:
        graph = self._network.graph
        for number, block in enumerate(plan.blocks):
            units = (block.first, block.last)
            for part in range(max(len(tile.goes) for tile in block.tiles)):
                for tile in block.tiles:
                    if part >= len(tile.goes):
                        continue
                    inputs, outputs = self.tile(block, tile.goes[part])
                    if outputs:
                        yield Work(step, tile.agent, units, inputs, outputs, number, replica=replica)
                step += 1
            if _is_gathered(plan, block):
                whole = {tensor: Region.whole(graph.tensors[tensor]) for tensor in self._block(block).makes}
                yield Work(step, plan.hub, None, whole, whole, number, gathers=True, replica=replica)
                step += 1
        if self._network.tail:
            if self._tail is None:
                tail = cut_tail(self._network)
                self._tail = dict(tail.inputs), dict(tail.outputs)
            yield Work(step, plan.tail_agent, None, *self._tail, replica=replica)
        outputs = {tensor: whole_or_flat(graph.tensors[tensor]) for tensor in graph.outputs}
        yield Work(step + 1, ORCHESTRATOR, None, outputs, {}, replica=replica)

    def tile(self, block: Block, region: Region) -> _Regions:
        """What a tile of a block, or a part of one, needs and makes (tensor → region)."""
        key = (block.first, block.last, region)
        if key not in self._tiles:
            if len(self._tiles) >= REMEMBERED:
                self._tiles.clear()
            form = self._block(block)
            owned = scaled_outputs(self._network, form.makes, self._network.units[block.last].reference, region)
            outputs = {tensor: region for tensor, region in owned.items() if region.area}
            regions = tile_regions(self._network, form.ops, outputs)
            self._tiles[key] = {t: regions[t] for t in form.reads if t in regions}, outputs
        return self._tiles[key]

    def _block(self, block: Block) -> _BlockForm:
        key = (block.first, block.last)
        if key not in self._blocks:
            ops = self._network.block_ops(block.first, block.last)
            self._blocks[key] = _BlockForm(ops, self._network.reads(ops), self._network.makes(ops))
        return self._blocks[key]


def _transfers(network: Network, works: tuple[Work, ...]) -> Iterator[Transfer]:
    owners: dict[int, list[tuple[Region, str, int | None]]] = {}
    for tensor in network.graph.inputs:
        owners[tensor] = [(whole_or_flat(network.graph.tensors[tensor]), ORCHESTRATOR, None)]
    for work in works:
        for tensor, needed in work.inputs.items():
            for owned, owner, made_in in owners[tensor]:
                if owned.rows.start >= needed.rows.stop or needed.rows.start >= owned.rows.stop:
                    continue
                part = needed.intersection(owned)
                if part.area:
                    yield Transfer(work.step, tensor, part, owner, work.agent, made_in, work.replica)
        for tensor, region in work.outputs.items():
            if work.gathers:
                owners[tensor] = []
            owners.setdefault(tensor, []).append((region, work.agent, work.step))


def _is_gathered(plan: Plan, block: Block) -> bool:
    return bool(plan.hub) and any(tile.agent != plan.hub for tile in block.tiles)
