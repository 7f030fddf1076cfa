"""What a demonstration shows when it is over: the plan as it was run, the answer, and how exact it is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from legion_iot.errors import AgentError
from legion_iot.lab.processes import Agent
from legion_iot.lab.state import LabState
from legion_iot.model.comparison import difference, same_bits
from legion_iot.model.geometry import Region
from legion_iot.orchestrator.serving import ServedModel
from legion_iot.planning.plan import Block
from legion_iot.planning.planners.balanced import whole_seconds
from legion_iot.planning.routing import ORCHESTRATOR, Work
from legion_iot.planning.strips import whole_map
from legion_iot.wire.dtypes import EXACT, OUTPUT_BOUNDS
from legion_iot.wire.messages import Answer

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TileReport:
    """One tile as it was run: medians over the requests, of all its parts together.

    `rows` are those of the block's output, and `columns`, where it has not all of them.
    """

    agent: str
    rows: tuple[int, int]
    milliseconds: float
    bytes_sent: int
    parts: int = 1
    columns: tuple[int, int] | None = None

    def at(self, region: Region, whole: Region) -> TileReport:
        """As the tile `region` of a map, all of which is `whole`."""
        rows, columns = region.rows, region.columns
        narrow = None if columns == whole.columns else (columns.start, columns.stop)
        return replace(self, rows=(rows.start, rows.stop), columns=narrow)


@dataclass(frozen=True, slots=True)
class BlockReport:
    """One block of the plan; `units` are its first and last unit, `gathered` is where a hub gathers its output."""

    units: tuple[int, int]
    output_shape: tuple[int, ...]
    tiles: tuple[TileReport, ...]
    gathered: TileReport | None = None


@dataclass(frozen=True, slots=True)
class TurnReport:
    """One way for requests to go, and how many went it."""

    blocks: tuple[BlockReport, ...]
    tail: TileReport | None
    requests: int


@dataclass(frozen=True, slots=True)
class AgentReport:
    """One agent that took part; the time it would need alone is not known of one that was left out in the end."""

    name: str
    pid: int
    runtime: str
    whole_model_ms: float | None
    tiles: int
    board: str = ""


@dataclass(frozen=True, slots=True)
class PlanningReport:
    """What it took to find the plan: parts that were run, and how often; links; plans that were tried; and seconds.

    `device_seconds` are those of running parts, `seconds` all from the first measurement to the choice.
    """

    parts: int
    runs: int
    device_seconds: float
    links: int
    trials: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class DemoReport:
    """What happened. Latencies are milliseconds from publish to answer, as the client saw them.

    `single_device_ms` is a run of the whole model on one thread of this machine, or on the fastest device of a lab.
    `exact` says that every output of every request equals the whole model's to the bit. `trunk_ended_by` names the op
    that ends the trunk, empty where nothing does; without blocks it is why the whole model ran on one agent. `turns`
    are the plan and its replicas. `wire` is how float32 maps had to travel between agents, and `wire_used` whether
    there were any; `packed` names who sends maps to whom without their zeros. `top_class_stays` says of a classifier
    whether the best class of every request was the whole model's, and is None for other models.
    """

    model: str
    image: str
    broker: str
    agents: tuple[AgentReport, ...]
    planner: str
    planning: PlanningReport
    turns: tuple[TurnReport, ...]
    answer: tuple[Answer, ...]
    exact: bool
    max_abs_error: float
    max_rel_error: float
    latencies_ms: tuple[float, ...]
    single_device_ms: float
    picture: bytes | None
    trunk_ended_by: str
    lab: LabState | None = None
    trace: dict[str, Any] | None = None
    wire: str = EXACT
    wire_used: bool = False
    packed: tuple[tuple[str, str], ...] = ()
    top_class_stays: bool | None = None

    @property
    def bound(self) -> float:
        """The largest relative difference that is allowed; zero where maps travel as they are."""
        return OUTPUT_BOUNDS[self.wire]

    @property
    def ok(self) -> bool:
        """Whether the answer is what it has to be: every bit of it, or near enough with a smaller wire dtype."""
        return self.exact or (0 < self.bound >= self.max_rel_error and self.top_class_stays is not False)


def compare(runs: list[tuple[Array, ...]], reference: list[Array]) -> tuple[bool, float, float]:
    """Whether all outputs of all runs equal the reference to the bit; the largest absolute and relative difference.

    The relative difference is to the largest magnitude of the output it stands in.
    """
    exact, worst_abs, worst_rel = True, 0.0, 0.0
    for outputs in runs:
        for output, expected in zip(outputs, reference, strict=True):
            if same_bits(output, expected):
                continue
            exact = False
            absolute, relative = difference(output, expected)
            worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
    return exact, worst_abs, worst_rel


def plan_report(model: ServedModel, went: Mapping[int, int]) -> tuple[TurnReport, ...]:
    """The plan and its replicas as they were run; `went` says how many requests took each."""
    state = model.state
    if state.plan is None or state.routing is None:
        raise AgentError("an agent left the group after the last request; run the demo again")
    turns = []
    for replica, turn in enumerate(state.plan.turns):
        works = [work for work in state.routing.works if work.replica == replica and work.agent != ORCHESTRATOR]
        blocks = tuple(_block_report(model, number, block, works) for number, block in enumerate(turn.blocks))
        tails = [work for work in works if work.block is None]
        tail = _tile_report(model, tails) if tails else None
        turns.append(TurnReport(blocks, tail, went.get(replica, 0)))
    return tuple(turns)


def _block_report(model: ServedModel, number: int, block: Block, works: Sequence[Work]) -> BlockReport:
    ours = [work for work in works if work.block == number]
    tiles = []
    whole = whole_map(model.network, block.last)
    for tile in block.tiles:
        steps = [work for work in ours if work.agent == tile.agent and not work.gathers]
        if steps:  # a tile may be too low to own a row of any output
            tiles.append(_tile_report(model, steps).at(tile.region, whole))
    gathered = [work for work in ours if work.gathers]
    shape = model.network.graph.tensors[model.network.units[block.last].reference].shape
    return BlockReport(
        (block.first, block.last),
        shape,
        tuple(tiles),
        _tile_report(model, gathered) if gathered else None,
    )


def _tile_report(model: ServedModel, steps: Sequence[Work]) -> TileReport:
    """What one agent took for one or more steps of a request, wherever in the map."""
    timings = [model.state.timings.get((work.step, work.agent), ()) for work in steps]
    return TileReport(
        steps[0].agent,
        (0, 0),
        sum(statistics.median(t.seconds for t in each) for each in timings if each) * 1e3,
        sum(int(statistics.median(t.bytes_sent for t in each)) for each in timings if each),
        len(steps),
    )


def planning_report(model: ServedModel) -> PlanningReport:
    outcome = model.state.selection.outcome
    assert outcome is not None, "a plan is in force"
    effort = outcome.effort
    return PlanningReport(effort.parts, effort.runs, effort.seconds, effort.links, effort.trials, outcome.seconds)


def agent_report(agent: Agent, model: ServedModel) -> AgentReport:
    record = model.state.agents[agent.name]
    assert record.info is not None
    info = record.info
    turns = model.state.plan.turns if model.state.plan else ()
    tiles = sum(tile.agent == agent.name for turn in turns for block in turn.blocks for tile in block.tiles)
    predictor = model.state.selection.predictor()
    known = agent.name in predictor.group.names
    return AgentReport(
        agent.name,
        agent.pid,
        f"{info.runtime} {info.runtime_version} ({info.kernel_path})",
        whole_seconds(predictor, agent.name) * 1e3 if known else None,
        tiles,
        info.board,
    )
