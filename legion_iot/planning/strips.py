"""Strips: full-width tiles, their heights by the devices' speeds or by bisection on what rows cost each device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from legion_iot.errors import AgentError
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import HEIGHT, Interval, Region
from legion_iot.planning.plan import Tile

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[Any]


def strips(height: int, speeds: Mapping[str, float]) -> dict[str, Interval]:
    """Divide `height` rows among the agents in proportion to their speeds (any unit, all positive).

    Bounds are the rounded cumulated shares, so that no agent is off by a whole row. An agent may get an empty strip,
    where the map has fewer rows than its share needs.
    """
    total = sum(speeds.values())
    result, cumulated, start = {}, 0.0, 0
    for agent, speed in speeds.items():
        cumulated += speed
        stop = min(height, round(height * cumulated / total))
        result[agent] = Interval(start, stop)
        start = stop
    return result


def bisected_heights(seconds: Floats, most: Integers | Sequence[int] | None = None) -> Integers:
    """Rows for each device, so that the slowest is done as early as can be; a device that does harm gets none.

    `seconds[d, r]` is what r rows take device d, for r = 0 … all rows; it is taken not to fall with r, and `[d, 0]` to
    be 0. `most` caps the rows of each device (its memory). The heights are those at the least τ with
    Σ_d f_d⁻¹(τ) ≥ all rows; rows beyond that are taken first from whom they leave without any, then from the slowest.
    Raises AgentError where the caps leave rows that nobody can take.
    """
    devices, height = seconds.shape[0], seconds.shape[1] - 1
    caps = np.full(devices, height) if most is None else np.minimum(most, height)
    if caps.sum() < height:
        raise AgentError("the group has too little memory for the network; add devices, or raise their memory limits")
    rising = np.maximum.accumulate(seconds, axis=1)
    rising[:, 0] = 0.0
    levels = np.unique(rising)

    def at(level: float) -> Integers:
        rows: Integers = np.minimum(caps, [np.searchsorted(row, level, "right") - 1 for row in rising])
        return rows

    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if at(levels[middle]).sum() >= height:
            high = middle
        else:
            low = middle + 1
    return _without_excess(at(levels[low]), rising, height)


def _without_excess(heights: Integers, rising: Floats, height: int) -> Integers:
    excess = int(heights.sum()) - height
    for device in np.argsort(heights, kind="stable"):
        if heights[device] <= excess:
            excess -= int(heights[device])
            heights[device] = 0
    every = np.arange(len(heights))
    while excess:
        heights[np.argmax(np.where(heights > 0, rising[every, heights], -1.0))] -= 1
        excess -= 1
    return heights


def whole_map(network: Network, last: int) -> Region:
    """All rows and columns of the map in which tiles of a block that ends with unit `last` are given."""
    return Region.whole(network.graph.tensors[network.units[last].reference])


def map_height(network: Network, last: int) -> int:
    """Rows of the map in which tiles of a block that ends with unit `last` are given."""
    return network.graph.tensors[network.units[last].reference].shape[HEIGHT]


def strip_tiles(network: Network, last: int, rows: Mapping[str, Interval]) -> tuple[Tile, ...]:
    """Full-width tiles of a block that ends with unit `last`; agents with an empty strip have none."""
    columns = whole_map(network, last).columns
    return tuple(Tile(agent, Region(interval, columns)) for agent, interval in rows.items() if len(interval))
