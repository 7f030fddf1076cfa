"""Why a plan is as it is: what it would take with the devices it leaves out, with other cuts, by other planners."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from legion_iot.errors import AgentError
from legion_iot.planning.memory import fits
from legion_iot.planning.plan import Block, Plan
from legion_iot.planning.problem import Device, Planner
from legion_iot.planning.refine import with_merged_blocks, with_moved_cut
from legion_iot.planning.rehearsal import Rehearsal
from legion_iot.planning.strips import map_height, strip_tiles, strips, whole_map
from legion_iot.planning.whole import whole_plan

MOST_BLOCKS = 3  # in which a device that is left out is given rows on its own: those that take longest


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Devices that are alike and have no work, and what it would take to include one of them in the best way tried.

    `seconds` is None where it has not the memory, or where no block has a row for it.
    """

    devices: tuple[str, ...]
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Cut:
    """The cut after `unit`: seconds without it, and with it one unit earlier or later; None where that cannot be."""

    unit: int
    without: float | None
    earlier: float | None
    later: float | None


@dataclass(frozen=True, slots=True)
class Other:
    """What another planner's plan takes, and whether it is the same one; `reason` says why it has none."""

    planner: str
    seconds: float | None
    is_same: bool = False
    agents: tuple[str, ...] = ()
    blocks: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Seconds are those of the problem's objective; `others` are the best first."""

    left_out: tuple[LeftOut, ...]
    cuts: tuple[Cut, ...]
    others: tuple[Other, ...]


def explain(rehearsal: Rehearsal, plan: Plan, others: Mapping[str, Planner]) -> Explanation:
    """Why `plan`; `others` are the planners to compare it with, by name."""
    found = [_other(rehearsal, plan, name, planner) for name, planner in others.items()]
    found.sort(key=lambda other: float("inf") if other.seconds is None else other.seconds)
    return Explanation(tuple(_left_out(rehearsal, plan)), tuple(_cuts(rehearsal, plan)), tuple(found))


def _other(rehearsal: Rehearsal, chosen: Plan, name: str, planner: Planner) -> Other:
    try:
        plan = rehearsal.plan(planner)
    except AgentError as error:
        return Other(name, None, reason=str(error))
    is_same = _unnamed(plan) == _unnamed(chosen)
    return Other(name, rehearsal.ranking.seconds(plan), is_same, plan.agents, len(plan.blocks))


def _unnamed(plan: Plan) -> tuple[object, ...]:
    return tuple((turn.blocks, turn.tail_agent, turn.hub) for turn in plan.turns)


def _left_out(rehearsal: Rehearsal, plan: Plan) -> Iterator[LeftOut]:
    kinds: dict[tuple[object, ...], list[Device]] = {}
    for device in rehearsal.problem.group.devices:
        if device.name not in plan.agents:
            kinds.setdefault((device.board, device.link, device.memory_bytes), []).append(device)
    for devices in kinds.values():
        name = devices[0].name
        plans = [each for each in _including(rehearsal, plan, name) if name in each.agents]
        yield LeftOut(tuple(device.name for device in devices), _least(rehearsal, plans))


def _including(rehearsal: Rehearsal, plan: Plan, name: str) -> Iterator[Plan]:
    """The plan with rows for one device more, by speed: in every block, and in each of those that take longest."""
    network = rehearsal.problem.network
    if plan.replicas or not plan.blocks:
        yield dataclasses.replace(plan, replicas=(*plan.replicas, whole_plan(plan.planner, network, name)))
        return
    shared = [_shared(rehearsal, block, name) for block in plan.blocks]
    yield dataclasses.replace(plan, blocks=tuple(shared))
    slowest = sorted(range(len(shared)), key=lambda number: -_block_seconds(rehearsal, plan.blocks[number]))
    for number in slowest[:MOST_BLOCKS]:
        yield dataclasses.replace(plan, blocks=(*plan.blocks[:number], shared[number], *plan.blocks[number + 1 :]))


def _shared(rehearsal: Rehearsal, block: Block, name: str) -> Block:
    network, costs = rehearsal.problem.network, rehearsal.costs
    speeds = {
        tile.agent: tile.region.area / costs.tile_seconds(tile.agent, block.first, block.last, tile.region)
        for tile in block.tiles
    }
    whole, height = whole_map(network, block.last), map_height(network, block.last)
    least = sum(speeds.values()) / max(1, height - 1)  # a single row
    speeds[name] = max(least, whole.area / costs.tile_seconds(name, block.first, block.last, whole))
    rows = strips(height, speeds)
    return dataclasses.replace(block, tiles=strip_tiles(network, block.last, rows))


def _block_seconds(rehearsal: Rehearsal, block: Block) -> float:
    return max(rehearsal.costs.tile_seconds(tile.agent, block.first, block.last, tile.region) for tile in block.tiles)


def _cuts(rehearsal: Rehearsal, plan: Plan) -> Iterator[Cut]:
    for number, block in enumerate(plan.blocks[:-1]):
        moved = list(with_moved_cut(rehearsal.ranking, plan, number))
        yield Cut(
            block.last,
            _least(rehearsal, list(with_merged_blocks(rehearsal.ranking, plan, number))),
            _least(rehearsal, [each for each in moved if each.blocks[number].last < block.last]),
            _least(rehearsal, [each for each in moved if each.blocks[number].last > block.last]),
        )


def _least(rehearsal: Rehearsal, plans: Sequence[Plan]) -> float | None:
    problem = rehearsal.problem
    fitting = [plan for plan in plans if fits(problem.network, plan, problem.group)]
    return min((rehearsal.ranking.seconds(plan) for plan in fitting), default=None)
