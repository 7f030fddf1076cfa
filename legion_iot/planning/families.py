"""Families of strip bounds: one way to divide every feature map of the trunk among the devices.

- one device alone takes every map whole;
- the k most useful devices share in proportion to their speeds, so that bounds stay at the same fractions;
- strips by bisection on what a block of so many units costs each device, what it lacks included: a device that does
  harm gets nothing.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from legion_iot.planning.memory import Limits
from legion_iot.planning.strips import Floats, Integers, bisected_heights, map_height
from legion_iot.planning.tables import Rows, StripTables
from legion_iot.planning.traffic import handling_seconds

Family = tuple[Rows, ...]  # strips [device] by the last unit of a block

ALONE = 4  # devices that are tried as the only one
SHARES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # so many devices share
BLOCK_LENGTHS = (1, 3, 8)  # units of the blocks on which bounds are bisected
_HEIGHTS = 9  # at which a block's cost is taken; between them it is taken to be straight


def usefulness(tables: StripTables) -> list[int]:
    """Devices in order of the seconds they need for an even share of the trunk and of its largest map, least first."""
    group, network = tables.group, tables.network
    everyone = np.arange(len(group.devices))
    share = np.zeros(len(everyone))
    for unit in network.units:
        rows = -(-map_height(network, unit.index) // len(everyone))
        share += tables.unit_seconds(unit.index, np.full(len(everyone), rows))
    moved = max(unit.live_bytes for unit in network.units) / len(everyone)
    links = [device.link for device in group.devices]
    share += [link.latency + moved / min(link.up, link.down) for link in links]
    share += handling_seconds(links, np.full(len(links), moved))
    return [int(d) for d in np.argsort(share, kind="stable")]


def families(tables: StripTables, limits: Limits) -> list[Family]:
    """The families to be searched, each at most once; none where no device may take a map.

    Raises AgentError where the devices together may not take all rows of a map.
    """
    order, speeds = usefulness(tables), 1 / np.maximum(tables.trunk_seconds(), 1e-12)
    count = len(order)
    sets = [[d] for d in order[:ALONE]]
    sets += [order[:size] for size in (*(s for s in SHARES if s < count), count) if size > 1]
    found = [_by_speed(tables, np.isin(np.arange(count), chosen) * speeds, limits) for chosen in sets]
    if count > 1:
        found += _bisected(tables, limits)
    distinct: dict[tuple[bytes, ...], Family] = {}
    for family in found:
        if family is not None:
            distinct.setdefault(tuple(rows.start.tobytes() + rows.stop.tobytes() for rows in family), family)
    return list(distinct.values())


def _by_speed(tables: StripTables, speeds: Floats, limits: Limits) -> Family | None:
    """Strips in proportion to the speeds, as far as memory allows; None where nobody of them may take a map."""
    family = []
    for unit in tables.network.units:
        height = map_height(tables.network, unit.index)
        most = limits.most_rows(unit.index, height)
        # As fast as its speed, and no faster than its cap allows: rows that others cannot take come back to it.
        heights = _proportional(height, np.where(most > 0, speeds, 0.0), most)
        if heights is None:
            return None
        family.append(_bounds(heights))
    return tuple(family)


def _proportional(height: int, speeds: Floats, most: Integers) -> Integers | None:
    """Heights by the rounded cumulated shares, capped; what is beyond a cap is shared by the others."""
    fixed = np.zeros(len(speeds), dtype=np.int64)
    free = speeds > 0
    while free.any():
        left = height - int(fixed.sum())
        bounds = np.rint(left * np.cumsum(np.where(free, speeds, 0.0)) / speeds[free].sum()).astype(np.int64)
        heights = np.diff(bounds, prepend=0)
        over = free & (heights > most)
        if not over.any():
            return np.where(free, heights, fixed)
        fixed = np.where(over, most, fixed)
        free &= ~over
    return None


def _bisected(tables: StripTables, limits: Limits) -> list[Family]:
    """Strips by bisection on blocks of each of the `BLOCK_LENGTHS`."""
    by_unit = []
    for unit in tables.network.units:
        most = limits.most_rows(unit.index, map_height(tables.network, unit.index))
        firsts = [max(0, unit.index - length + 1) for length in BLOCK_LENGTHS]
        costs = block_seconds(tables, unit.index, set(firsts))
        bounds = {first: _bounds(bisected_heights(seconds, most)) for first, seconds in costs.items()}
        by_unit.append([bounds[first] for first in firsts])
    return [tuple(choice) for choice in zip(*by_unit, strict=True)]


def block_seconds(tables: StripTables, last: int, firsts: Container[int]) -> dict[int, Floats]:
    """By first unit, [device, rows]: seconds of a block for so many rows, with getting those beyond its own share."""
    group, network = tables.group, tables.network
    height = map_height(network, last)
    asked = np.unique(np.linspace(1, height, min(height, _HEIGHTS)).round().astype(np.int64))
    tops = ((height - asked) // 2)[:, None] + np.zeros(len(group.devices), dtype=np.int64)
    share, every = asked[:, None] / height, np.arange(height + 1)
    links = [device.link for device in group.devices]
    latency = np.array([link.latency for link in links])
    rate = np.array([min(link.up, link.down) for link in links])
    found = {}
    for span in tables.spans(last, Rows(tops, tops + asked[:, None])):
        if span.first not in firsts:
            continue
        beyond = np.zeros(span.seconds.shape)
        for tensor, rows in span.needs.items():
            known = 0.0 if tensor in network.graph.inputs else share
            beyond += np.maximum(0, rows.count - known * tables.height(tensor)) * tables.row_bytes(tensor)
        # A device that takes every row lacks none, and waits for nobody.
        fetching = 2 * latency + beyond / rate + handling_seconds(links, beyond)
        seconds = span.seconds + np.where(beyond > 0, fetching, 0.0)
        table = np.array([np.interp(every, asked, column) for column in seconds.T])
        table[:, 0] = 0.0
        found[span.first] = table
    return found


def _bounds(heights: Integers) -> Rows:
    stops = np.cumsum(heights)
    return Rows(stops - heights, stops).cleared()
