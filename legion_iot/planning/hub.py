"""Blocks whose inputs a hub scatters and whose outputs it gathers: what they cost, and the plans made of them.

    T[i, j] = max_d ( S_d + E_d + R_d )

S_d: the rows that the strip of device d needs, from the hub (from the orchestrator for the first block); E_d: computing
it; R_d: its rows, to the hub. What the hub itself needs and makes stays there. All strips leave by the hub's one link,
and all arrive by it, so nobody has its rows before the hub's link could carry those of all and its processor handle
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Block, Plan
from legion_iot.planning.problem import Costs, Group, Problem, Reading, TileRun
from legion_iot.planning.shortest_path import Division
from legion_iot.planning.strips import Floats, map_height, strip_tiles, strips, whole_map
from legion_iot.planning.tables import Rows, StripTables
from legion_iot.planning.traffic import handling_seconds

Strips = Mapping[str, Interval]  # by agent, in the group's order


def hub_costs(
    problem: Problem,
    tables: StripTables,
    hub: str,
    rows: Sequence[Strips],
    measured: Mapping[TileRun, Reading] = MappingProxyType({}),
) -> list[list[float]]:
    """T in seconds for every block, in the strips `rows` gives for its last unit; infinite below the diagonal.

    Seconds of computing are the tables', but for tiles that were measured.
    """
    network, group = problem.network, problem.group
    count = len(network.units)
    costs = [[math.inf] * count for _ in range(count)]
    for last in range(count):
        strip = group_rows(group, rows[last])
        made = np.zeros(len(group.devices))
        for span in tables.spans(last, strip):
            made = made + made_bytes(tables, span.first, last, strip)
            needed = sum((need.count * tables.row_bytes(t) for t, need in span.needs.items()), np.zeros(len(made)))
            arrive = scatter_seconds(group, hub if span.first else None, needed)
            compute = span.seconds.copy()
            for number, name in enumerate(group.names if measured else ()):
                reading = measured.get(tile_run(problem, name, span.first, last, rows[last]))
                if reading is not None:
                    compute[number] = reading.seconds
            total = arrive + compute + gather_seconds(group, hub, made)
            costs[span.first][last] = float(np.max(np.where(strip.count > 0, total, 0.0)))
    return costs


def tile_run(problem: Problem, device: str, first: int, last: int, rows: Strips) -> TileRun:
    """The run of a device's strip of a block."""
    return TileRun(device, first, last, Region(rows[device], whole_map(problem.network, last).columns))


def tile_runs(problem: Problem, first: int, last: int, rows: Strips) -> tuple[TileRun, ...]:
    """The runs of a block in these strips, one for each device that has rows."""
    return tuple(tile_run(problem, name, first, last, rows) for name, interval in rows.items() if len(interval))


def made_bytes(tables: StripTables, unit: int, last: int, strip: Rows) -> Floats:
    """By device: bytes of its share of what the unit makes and is live after unit `last`."""
    network = tables.network
    height, live = map_height(network, last), network.units[last].live
    made = [t for op in network.units[unit].ops for t in network.graph.ops[op].outputs if t in live]
    shares = [strip.scaled(height, tables.height(t)).count * tables.row_bytes(t) for t in made]
    return np.sum(shares, axis=0) if shares else np.zeros(strip.start.shape)


def scatter_seconds(group: Group, source: str | None, nbytes: Floats) -> Floats:
    """S: seconds until each device (last axis) has its bytes from a device, or from the orchestrator (None)."""
    return _spread(group, source, nbytes, outgoing=True)


def gather_seconds(group: Group, target: str | None, nbytes: Floats) -> Floats:
    """R: seconds until the bytes of each device (last axis) are at a device, or at the orchestrator (None)."""
    return _spread(group, target, nbytes, outgoing=False)


def _spread(group: Group, centre: str | None, nbytes: Floats, *, outgoing: bool) -> Floats:
    link: Link = group.orchestrator if centre is None else group[centre].link
    own = np.array([device.name == centre for device in group.devices])
    moved = np.where(own, 0.0, nbytes)
    latency = np.array([device.link.latency for device in group.devices]) + link.latency
    rate = np.array([device.link.down if outgoing else device.link.up for device in group.devices])
    shared = moved.sum(-1, keepdims=True) / min(link.up if outgoing else link.down, group.broker)
    centre_handles = handling_seconds([link] * len(group.devices), moved).sum(-1, keepdims=True)
    handling = handling_seconds([device.link for device in group.devices], moved)
    taken = latency + np.maximum(moved / rate, np.maximum(shared, centre_handles)) + handling
    seconds: Floats = np.where(moved > 0, taken, 0.0)
    return seconds


def group_rows(group: Group, strip: Strips) -> Rows:
    """The strips of all devices of the group, empty where one has none."""
    nothing = Interval(0, 0)
    rows = [strip.get(device.name, nothing) for device in group.devices]
    return Rows(np.array([r.start for r in rows]), np.array([r.stop for r in rows])).cleared()


def hub_plan(planner: str, problem: Problem, hub: str, rows: Sequence[Strips], division: Division) -> Plan:
    """The plan with these blocks, each in the strips given for its last unit."""
    network = problem.network
    blocks = tuple(Block(first, last, strip_tiles(network, last, rows[last])) for first, last in division)
    return Plan(planner, blocks, hub, hub)


def whole_seconds(problem: Problem, costs: Costs) -> dict[str, float]:
    """What each device needs for the whole trunk as one block."""
    last = len(problem.network.units) - 1
    if last < 0:
        return dict.fromkeys(problem.group.names, 0.0)
    whole = whole_map(problem.network, last)
    return {name: costs.tile_seconds(name, 0, last, whole) for name in problem.group.names}


def fastest(problem: Problem, costs: Costs) -> str:
    """The device that would compute the whole network first; it is the hub."""
    trunk = whole_seconds(problem, costs)
    return min(problem.group.names, key=lambda name: trunk[name] + costs.tail_seconds(name))


def strips_by_speed(problem: Problem, costs: Costs) -> list[Strips]:
    """For each last unit, strips in proportion to the devices' speeds over the whole trunk."""
    trunk = whole_seconds(problem, costs)
    return strips_of_speeds(problem, {name: 1 / max(seconds, 1e-12) for name, seconds in trunk.items()})


def strips_of_speeds(problem: Problem, speeds: Mapping[str, float]) -> list[Strips]:
    """For each last unit, strips in proportion to these speeds, in any unit."""
    return [strips(map_height(problem.network, unit.index), speeds) for unit in problem.network.units]
