"""What `legion plan` finds out: the plan, its times, the bound, and the fastest device alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from legion_iot.lab.report import BlockReport, TileReport, TurnReport
from legion_iot.model.blocks import Network
from legion_iot.planning.bound import lower_bound
from legion_iot.planning.costs import Predictor
from legion_iot.planning.device_file import KnownGroup
from legion_iot.planning.estimate import Bar, Estimate
from legion_iot.planning.explanation import Explanation, explain
from legion_iot.planning.plan import Block, Plan
from legion_iot.planning.planners import planners
from legion_iot.planning.problem import Group, Objective, Problem
from legion_iot.planning.ranking import Alone
from legion_iot.planning.rehearsal import Rehearsal
from legion_iot.planning.routing import ORCHESTRATOR, route
from legion_iot.planning.strips import whole_map
from legion_iot.runtime.exchange import wire_between


@dataclass(frozen=True, slots=True)
class Load:
    """What one participant does for a request, on average: seconds of each kind, and bytes."""

    name: str
    board: str
    computing_s: float
    sending_s: float
    receiving_s: float
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A plan and all that is said about it; `alone` is None where no device has the memory for the whole model."""

    model: str
    network: Network
    group: Group
    planner: str
    objective: Objective
    plan: Plan
    estimate: Estimate
    bound: float
    alone: Alone | None
    explanation: Explanation | None
    wire: str

    @property
    def seconds(self) -> float:
        """What the objective counts."""
        return self.estimate.interval if self.objective == "throughput" else self.estimate.latency

    @property
    def gap(self) -> float:
        """How much more than the bound that is, relative."""
        return self.seconds / self.bound - 1 if self.bound else 0.0

    @property
    def wire_used(self) -> bool:
        """Whether any map of the plan travels in another form than its own."""
        tensors = self.network.graph.tensors
        between = [t for t in route(self.network, self.plan).transfers if t.source not in (t.target, ORCHESTRATOR)]
        return any(wire_between(tensors[t.tensor].dtype, t.target, self.wire) for t in between)

    @property
    def cuts(self) -> tuple[tuple[int, ...], ...]:
        """The first units of the plan's blocks, closed by the number of units, for each way that requests go."""
        ways = ((*(block.first for block in turn.blocks), len(self.network.units)) for turn in self.plan.turns)
        return tuple(dict.fromkeys(ways))

    @property
    def loads(self) -> tuple[Load, ...]:
        """Of every device, and of the orchestrator."""
        boards = {device.name: device.board for device in self.group.devices} | {ORCHESTRATOR: ""}
        return tuple(self._load(name, board) for name, board in boards.items())

    def _load(self, name: str, board: str) -> Load:
        busy, shares = self.estimate.busy, self.estimate.shares
        size = {"send": 0.0, "receive": 0.0, "compute": 0.0}
        for bar in self.estimate.bars:
            if bar.participant == name:
                size[bar.kind] += bar.size * shares[bar.replica]
        return Load(
            name,
            board,
            busy.get((name, "compute"), 0.0),
            busy.get((name, "send"), 0.0),
            busy.get((name, "receive"), 0.0),
            round(size["send"]),
            round(size["receive"]),
        )

    @property
    def turns(self) -> tuple[TurnReport, ...]:
        """The plan and its replicas, with predicted times in place of measured ones."""
        return tuple(self._turn(number, turn) for number, turn in enumerate(self.plan.turns))

    def _turn(self, number: int, turn: Plan) -> TurnReport:
        bars = [bar for bar in self.estimate.bars if bar.replica == number]
        blocks = tuple(self._block(n, block, bars, turn) for n, block in enumerate(turn.blocks))
        tails = [bar for bar in bars if bar.block is None and bar.step is not None]
        tail = _tile(turn.tail_agent, tails) if self.network.tail else None
        return TurnReport(blocks, tail, 0)

    def _block(self, number: int, block: Block, bars: list[Bar], turn: Plan) -> BlockReport:
        ours = [bar for bar in bars if bar.block == number]
        last = max((bar.step for bar in ours if bar.kind == "compute" and bar.step is not None), default=0)
        # What a hub sends after the block's last tile is what it gathered.
        made = [bar for bar in ours if bar.step is not None and bar.step <= last]
        tiles = []
        for tile in block.tiles:
            tiles.append(_tile(tile.agent, made, len(tile.goes)).at(tile.region, whole_map(self.network, block.last)))
        gathers = turn.hub and any(tile.agent != turn.hub for tile in block.tiles)
        gathered = _tile(turn.hub, [bar for bar in ours if bar not in made]) if gathers else None
        shape = self.network.graph.tensors[self.network.units[block.last].reference].shape
        return BlockReport((block.first, block.last), shape, tuple(tiles), gathered)


def _tile(agent: str, bars: list[Bar], parts: int = 1) -> TileReport:
    seconds = sum(bar.end - bar.start for bar in bars if bar.participant == agent and bar.kind == "compute")
    sent = sum(bar.size for bar in bars if bar.participant == agent and bar.kind == "send")
    return TileReport(agent, (0, 0), 1e3 * seconds, sent, parts)


def make(
    network: Network, model: str, told: KnownGroup, planner: str, objective: Objective, wire: str, with_reasons: bool
) -> Outcome:
    """Plan for that wire dtype, estimate, and compare. Raises AgentError where no plan fits the devices' memory."""
    costs = Predictor(network, told.group, told.samples, told.speeds, told.overheads)
    rehearsal = Rehearsal(Problem(network, told.group, objective, told.samples, wire), costs)
    plan = rehearsal.plan(planners[planner])
    others = {name: each for name, each in planners.items() if name != planner}
    return Outcome(
        model,
        network,
        told.group,
        planner,
        objective,
        plan,
        rehearsal.ranking.estimate(plan),
        lower_bound(network, told.group, costs, wire, objective),
        next(iter(rehearsal.ranking.alone()), None),
        explain(rehearsal, plan, others) if with_reasons else None,
        wire,
    )


def kinds(group: Group) -> Iterator[str]:
    """The devices of a group, those of one board after the other together."""
    for board, devices in groupby(group.devices, key=lambda device: device.board):
        count = len(list(devices))
        yield f"{count} × {board}" if count > 1 else board


def percent_more(seconds: float, than: float) -> str:
    """How much more or less that is."""
    if not than:
        return ""
    change = seconds / than - 1
    if abs(change) < 0.0005:
        return "±0%"
    return f"{change:+.1%}".replace("-", "−") if change < 10 else f"{seconds / than:.0f} ×"
