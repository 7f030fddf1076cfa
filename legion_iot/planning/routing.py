"""From a plan to what each participant does: which regions it computes, gets and sends.

The steps of a request are numbered: block 0, 1, …, then the tail, then the answer, which the orchestrator collects.
A tile computed in parts has a step for each of them; where a hub gathers a block's output, that is a step, too. The
replicas of a plan have steps of their own, and a request goes through those of one of them.

A tensor's regions are where they were made, or gathered last; each step gets from each owner the part it needs, and
nothing else. The network's inputs belong to the orchestrator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

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


@dataclass(frozen=True, slots=True)
class _Share:
    """What one agent does in one step, which is counted from the first one of its stage."""

    step: int
    agent: str
    inputs: Mapping[int, Region]
    outputs: Mapping[int, Region]


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """A block in certain tiles, a gathering, the tail, or the answer: what its agents do, wherever in a plan it stands.

    Stages that are equal are one object, so it stands for itself in keys.
    """

    shares: tuple[_Share, ...]
    steps: int


# Of each share in turn: tensor, region, and the share that made it, of the stage that has the tensor.
_Matches = tuple[tuple[tuple[int, Region, _Share], ...], ...]


_Key = TypeVar("_Key", Block, tuple[int, int, str], str)  # of a block, of its gathering at a hub, of the tail


def route(network: Network, plan: Plan) -> Routing:
    """Who needs what from whom. The last work of each replica is the orchestrator's: to collect the outputs."""
    return Router(network).route(plan)


class Router:
    """Routes plans of one network; what blocks and tiles need is remembered, as plans that are compared share most."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._blocks: dict[tuple[int, int], _BlockForm] = {}
        self._tiles: dict[tuple[int, int, Region], _Regions] = {}
        self._stages: dict[object, _Stage] = {}
        self._matches: dict[tuple[_Stage, ...], _Matches] = {}
        tensors = network.graph.tensors
        inputs = {tensor: whole_or_flat(tensors[tensor]) for tensor in network.graph.inputs}
        outputs = {tensor: whole_or_flat(tensors[tensor]) for tensor in network.graph.outputs}
        self._input = _one_share(ORCHESTRATOR, {}, inputs)
        self._answer = _one_share(ORCHESTRATOR, outputs, {})
        self._tail: _Regions | None = None

    def route(self, plan: Plan) -> Routing:
        """Like the function of this name."""
        if len(self._stages) + len(self._tiles) >= REMEMBERED:
            self._stages.clear()
            self._matches.clear()
            self._tiles.clear()
        works: list[Work] = []
        transfers: list[Transfer] = []
        for number, turn in enumerate(plan.turns):
            self._route(turn, number, works, transfers)
        return Routing(tuple(works), tuple(transfers))

    def _route(self, plan: Plan, replica: int, works: list[Work], transfers: list[Transfer]) -> None:
        """Add the works and transfers of one turn."""
        step = works[-1].step + 1 if works else 0
        owners: dict[int, tuple[_Stage, int | None]] = dict.fromkeys(self._network.graph.inputs, (self._input, None))
        for stage, units, block, gathers in self._sequence(plan):
            for share, found in zip(stage.shares, self._matched(stage, owners), strict=True):
                here = step + share.step
                works.append(Work(here, share.agent, units, share.inputs, share.outputs, block, gathers, replica))
                for tensor, region, maker in found:
                    begun = owners[tensor][1]
                    made_in = None if begun is None else begun + maker.step
                    transfers.append(Transfer(here, tensor, region, maker.agent, share.agent, made_in, replica))
            owners |= {tensor: (stage, step) for share in stage.shares for tensor in share.outputs}
            step += stage.steps

    def _sequence(self, plan: Plan) -> Iterator[tuple[_Stage, tuple[int, int] | None, int | None, bool]]:
        """The stages of a turn, each with its units, its block's number, and whether it gathers."""
        for number, block in enumerate(plan.blocks):
            yield self._stage(block, self._of_block), (block.first, block.last), number, False
            if _is_gathered(plan, block):
                yield self._stage((block.first, block.last, plan.hub), self._of_gathering), None, number, True
        yield self._stage(plan.tail_agent, self._of_tail), None, None, False
        yield self._answer, None, None, False

    def _stage(self, key: _Key, make: Callable[[_Key], _Stage]) -> _Stage:
        """The one object for equal stages. Blocks have long hashes, so each is looked up once."""
        stage = self._stages.get(key)
        if stage is None:
            stage = self._stages[key] = make(key)
        return stage

    def _of_gathering(self, gathering: tuple[int, int, str]) -> _Stage:
        first, last, hub = gathering
        makes = self._block(first, last).makes
        whole = {tensor: Region.whole(self._network.graph.tensors[tensor]) for tensor in makes}
        return _one_share(hub, whole, whole)

    def _of_tail(self, agent: str) -> _Stage:
        """A step of nothing where the network has no tail."""
        if not self._network.tail:
            return _Stage((), 1)
        if self._tail is None:
            tail = cut_tail(self._network)
            self._tail = dict(tail.inputs), dict(tail.outputs)
        return _one_share(agent, *self._tail)

    def _of_block(self, block: Block) -> _Stage:
        shares, steps = [], max(len(tile.goes) for tile in block.tiles)
        for part in range(steps):
            for tile in block.tiles:
                if part < len(tile.goes):
                    inputs, outputs = self.tile(block, tile.goes[part])
                    if outputs:
                        shares.append(_Share(part, tile.agent, inputs, outputs))
        return _Stage(tuple(shares), steps)

    def _matched(self, stage: _Stage, owners: Mapping[int, tuple[_Stage, int | None]]) -> _Matches:
        """Who made what the shares of a stage need."""
        makers = {tensor: owners[tensor][0] for share in stage.shares for tensor in share.inputs}
        key = (stage, *makers.values())
        if key not in self._matches:
            self._matches[key] = tuple(tuple(_made_by(share, makers)) for share in stage.shares)
        return self._matches[key]

    def tile(self, block: Block, region: Region) -> _Regions:
        """What a tile of a block, or a part of one, needs and makes (tensor → region)."""
        key = (block.first, block.last, region)
        if key not in self._tiles:
            form = self._block(block.first, block.last)
            owned = scaled_outputs(self._network, form.makes, self._network.units[block.last].reference, region)
            outputs = {tensor: region for tensor, region in owned.items() if region.area}
            regions = tile_regions(self._network, form.ops, outputs)
            self._tiles[key] = {t: regions[t] for t in form.reads if t in regions}, outputs
        return self._tiles[key]

    def _block(self, first: int, last: int) -> _BlockForm:
        key = (first, last)
        if key not in self._blocks:
            ops = self._network.block_ops(first, last)
            self._blocks[key] = _BlockForm(ops, self._network.reads(ops), self._network.makes(ops))
        return self._blocks[key]


def _one_share(agent: str, inputs: Mapping[int, Region], outputs: Mapping[int, Region]) -> _Stage:
    return _Stage((_Share(0, agent, inputs, outputs),), 1)


def _made_by(share: _Share, makers: Mapping[int, _Stage]) -> Iterator[tuple[int, Region, _Share]]:
    """The regions that a share needs, by who made them."""
    for tensor, needed in share.inputs.items():
        for maker in makers[tensor].shares:
            owned = maker.outputs.get(tensor)
            if owned is None or owned.rows.start >= needed.rows.stop or needed.rows.start >= owned.rows.stop:
                continue
            part = needed.intersection(owned)
            if part.area:
                yield tensor, part, maker


def _is_gathered(plan: Plan, block: Block) -> bool:
    return bool(plan.hub) and any(tile.agent != plan.hub for tile in block.tiles)
