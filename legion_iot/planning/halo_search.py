"""Blocks and strips for feature maps that stay where they were made: the cheapest way through a table of states.

A state is a cut after unit j together with a *family* c of strip bounds; between blocks a device gets only the rows it
lacks, x_d(c' → c), from whoever has them:

    V(j, c) = min over i, c' of  V(i − 1, c') + max_d [ x_d(c' → c) + e_d(i..j, c) ]

Seconds for x_d are the latencies of both ends and the slowest of: the device's download, the most loaded upload, the
broker's link; and what the device's processor does for the messages it gets and sends. A map that was made in an
earlier block is taken to lie where the last block's strips would have put it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.hub import scatter_seconds
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.problem import Costs, Problem
from legion_iot.planning.strips import Floats, map_height, whole_map
from legion_iot.planning.tables import Rows, Span, StripTables
from legion_iot.planning.traffic import handling_seconds

State = tuple[int, int]  # last unit of a block, family


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """Rows that devices need and others have: along the last axis by device, seconds until each has what it lacks."""

    tables: StripTables

    def seconds(self, needs: Sequence[tuple[int, Rows]], held_at: int, held: Rows) -> Floats:
        """[from family, to family, device]: `needs` by tensor in strips [to, device]; `held` are strips [from, device]

        of the reference map of unit `held_at`.
        """
        group = self.tables.group
        shape = (held.start.shape[0], *(needs[0][1].start.shape if needs else (1, len(group.devices))))
        missing, supply = np.zeros(shape), np.zeros(shape)
        size = map_height(self.tables.network, held_at)
        for tensor, rows in needs:
            width = self.tables.row_bytes(tensor)
            lacking, given = _missing_and_given(rows, held.scaled(size, self.tables.height(tensor)))
            missing += lacking * width
            supply += given * width
        latency = np.array([device.link.latency for device in group.devices])
        up = np.array([device.link.up for device in group.devices])
        down = np.array([device.link.down for device in group.devices])
        links = [device.link for device in group.devices]
        handling = handling_seconds(links, missing) + handling_seconds(links, supply)
        loaded = np.maximum((supply / up).max(-1), missing.sum(-1) / group.broker)
        far = np.where(supply > 0, latency, 0.0).max(-1)
        moved = latency + np.maximum(missing / down, loaded[..., None]) + far[..., None]
        seconds: Floats = np.where(missing > 0, moved, 0.0) + handling
        return seconds


def _missing_and_given(needed: Rows, held: Rows) -> tuple[Floats, Floats]:
    """[from, to, device]: rows each device lacks, and rows of its own that others need, once for each who needs them.

    How many need rows up to x is a sum over prefixes, so no pair of devices is looked at.
    """
    families, height = needed.start.shape[0], int(max(held.stop.max(), needed.stop.max(), 0)) + 1
    start = np.where(needed.count > 0, needed.start, 0)
    stop = np.where(needed.count > 0, needed.stop, 0)
    offset = (np.arange(families) * (height + 1))[:, None]
    size = families * (height + 1)
    begun = np.bincount((start + offset).ravel(), minlength=size) - np.bincount((stop + offset).ravel(), minlength=size)
    wanted = np.cumsum(begun.reshape(families, height + 1), axis=1)
    below = np.concatenate([np.zeros((families, 1), dtype=np.int64), np.cumsum(wanted, axis=1)], axis=1)
    first = np.where(held.count > 0, held.start, 0)
    end = np.where(held.count > 0, held.stop, 0)
    own = np.maximum(0, np.minimum(stop, end[:, None]) - np.maximum(start, first[:, None]))
    asked = (below[:, end] - below[:, first]).swapaxes(0, 1)
    return (stop - start) - own, asked - own


class HaloSearch:
    """The states of one problem, costed once; then as many ways through them as one likes."""

    def __init__(self, problem: Problem, costs: Costs, tables: StripTables, families: Sequence[Sequence[Rows]]) -> None:
        """`families[c][j]` are the strips of family c for blocks that end with unit j; none empty as a whole."""
        self.problem, self.tables = problem, tables
        self.count, self.families = len(problem.network.units), len(families)
        self.strips = [
            Rows(np.stack([f[last].start for f in families]), np.stack([f[last].stop for f in families]))
            for last in range(self.count)
        ]
        self._move = Move(tables)
        # The first block comes from the orchestrator, from no family: all families say the same of it.
        self._steps = np.full((self.count, self.count, self.families, self.families), np.inf)  # last, first, from, to
        for last in range(self.count):
            for span in tables.spans(last, self.strips[last]):
                self._steps[last, span.first] = self._step(span, last)
        self._ends = self._end_seconds(costs)

    def best(self, families: Sequence[int], tails: Sequence[int]) -> tuple[float, Plan]:
        """The seconds of the cheapest way over these families, and its plan; `tails` are devices for the tail."""
        chosen = np.array(families)
        steps = self._steps[:, :, chosen[:, None], chosen]
        # value[j] is V(j − 1): before the first unit nothing has been spent, whatever the family.
        value = np.full((self.count + 1, len(chosen)), np.inf)
        value[0] = 0.0
        origin = np.zeros((self.count, len(chosen)), dtype=np.int64)  # first unit · families + family
        for last in range(self.count):
            through = (value[: last + 1, :, None] + steps[last, : last + 1]).reshape(-1, len(chosen))
            origin[last] = through.argmin(0)
            value[last + 1] = through.min(0)
        total = value[-1][:, None] + self._ends[np.ix_(chosen, np.array(tails))]
        family, tail = np.unravel_index(int(total.argmin()), total.shape)
        states: list[State] = []
        last, at = self.count - 1, int(family)
        while last >= 0:
            states.append((last, int(chosen[at])))
            first, at = divmod(int(origin[last, at]), len(chosen))
            last = first - 1
        return float(total[family, tail]), self._plan(states[::-1], tails[int(tail)])

    def _step(self, span: Span, last: int) -> Floats:
        strips, inputs = self.strips[last], self.problem.network.graph.inputs
        arrive = np.zeros((1, *span.seconds.shape))
        sent = [need.count * self.tables.row_bytes(t) for t, need in span.needs.items() if t in inputs]
        if sent:
            arrive[0] = scatter_seconds(self.problem.group, None, np.sum(sent, axis=0))
        if span.first:
            needs = [(tensor, rows) for tensor, rows in span.needs.items() if tensor not in inputs]
            moved = self._move.seconds(needs, span.first - 1, self.strips[span.first - 1])
            arrive = np.maximum(arrive, moved)
        step: Floats = np.where(strips.count > 0, arrive + span.seconds, 0.0).max(-1)
        return step

    def _end_seconds(self, costs: Costs) -> Floats:
        """[family, tail device]: from the last block to the answer at the orchestrator."""
        network, group = self.problem.network, self.problem.group
        graph, devices = network.graph, group.devices
        last = self.count - 1
        ends = np.zeros((self.families, len(devices)))
        made = {t for op in network.block_ops(0, last) for t in graph.ops[op].outputs}
        read = [t for t in network.reads(network.tail) if t in made]
        for number, device in enumerate(devices):
            if network.tail:
                whole = [(t, _only(number, len(devices), self.tables.height(t))) for t in read]
                moved = self._move.seconds(whole, last, self.strips[last])[:, 0, number]
                ends[:, number] = moved + costs.tail_seconds(device.name) + device.link.latency
        direct = sum(graph.tensors[t].nbytes for t in graph.outputs if t in made)
        if direct:
            ends += group.orchestrator.latency + direct / min(group.orchestrator.down, group.broker)
        return ends

    def _plan(self, states: Sequence[State], tail: int) -> Plan:
        network, names = self.problem.network, self.problem.group.names
        blocks, first = [], 0
        for last, family in states:
            columns = whole_map(network, last).columns
            start, stop = self.strips[last].start[family], self.strips[last].stop[family]
            tiles = tuple(
                Tile(name, Region(Interval(int(a), int(b)), columns))
                for name, a, b in zip(names, start, stop, strict=True)
                if b > a
            )
            blocks.append(Block(first, last, tiles))
            first = last + 1
        return Plan("halo", tuple(blocks), names[tail])


def _only(device: int, devices: int, height: int) -> Rows:
    """All rows for one device, none for the others, as one family."""
    stop = np.where(np.arange(devices) == device, height, 0)
    return Rows(np.zeros(devices, dtype=np.int64)[None], stop[None]).cleared()
