"""Chains: what of one unit's map must be where what of the next one's is computed, whatever the plan.

Theory. Let t run over [0, 1), in Q equal steps. On a map of H rows, chain t passes through row ⌊t·H⌋; likewise for
columns. Where unit m reads the map of unit k, and its row ⌊t·H_m⌋ needs row ⌊t·H_k⌋ of it, the chain is *linked* from
k to m: whoever computes the one has computed the other, or got it. Chains for which this fails at a window that skips
rows are left out, as long as they are few; else the link is taken to be broken.

A block's tile that owns a chain's row of the block's reference map therefore computes that chain's row in each unit of
the block that is *covered*: linked to a covered unit of the block, or an output of the block, of which a tile owns the
same fraction. No row of unit k is on more than ⌈Q / H_k⌉ chains, so a tile that owns n chains computes at least
n / (⌈Q / H_k⌉ · H_k) of the unit, and a chain carries that fraction of the map's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from legion_iot.model.blocks import Network
from legion_iot.model.geometry import HEIGHT, WIDTH, Interval

MOST_DROPPED = 0.5  # of an axis's chains, for the sake of one link

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """The chains of a trunk.

    `portion[k]` is the least fraction of unit k's map that all chains together pass through, at most 1; the last entry
    is the network's input. `links[k]` are the units linked from unit k; the last entry holds those of the input.
    `covered[j, k]` says that in a block that ends with unit j, unit k is covered.
    """

    source: int  # the network's input, that with most elements
    portion: npt.NDArray[np.float64]
    links: tuple[tuple[int, ...], ...]
    covered: Flags


def chains(network: Network) -> Chains:
    """The chains of a network with at least one unit."""
    graph, units = network.graph, network.units
    source = max(graph.inputs, key=lambda t: graph.tensors[t].nbytes)
    maps = [*(unit.reference for unit in units), source]
    pairs = _readers(network, maps)
    axes = [_Axis(network, maps, axis) for axis in (HEIGHT, WIDTH)]
    links: list[list[int]] = [[] for _ in maps]
    for k, m in pairs:
        # A link has to hold on both axes; chains are dropped only where it does.
        failed = [axis.fails(k, m) for axis in axes]
        if all(np.count_nonzero(f | a.dropped) <= MOST_DROPPED * a.count for f, a in zip(failed, axes, strict=True)):
            links[k].append(m)
            for axis, fails in zip(axes, failed, strict=True):
                axis.dropped |= fails
    portion = np.prod([axis.portions() for axis in axes], axis=0)
    found = tuple(tuple(each) for each in links)
    return Chains(source, portion, found, _covered(network, found))


def _readers(network: Network, maps: list[int]) -> list[tuple[int, int]]:
    """(k, m) where unit m reads the map k, in order."""
    unit_of = {op: unit.index for unit in network.units for op in unit.ops}
    pairs = []
    for k, tensor in enumerate(maps):
        readers = {unit_of[op] for op in network.readers.get(tensor, ()) if op in unit_of}
        own = k if k < len(network.units) else -1
        pairs += [(k, m) for m in sorted(readers) if m > own]
    return pairs


class _Axis:
    """Rows, or columns: where each chain passes through each map."""

    def __init__(self, network: Network, maps: list[int], axis: int) -> None:
        self._network, self._maps, self._axis = network, maps, axis
        self.sizes = [network.graph.tensors[tensor].shape[axis] for tensor in maps]
        self.count = max(self.sizes)
        self.dropped = np.zeros(self.count, dtype=np.bool_)

    def _places(self, k: int) -> Indices:
        return (2 * np.arange(self.count) + 1) * self.sizes[k] // (2 * self.count)

    def portions(self) -> npt.NDArray[np.float64]:
        sizes = np.array(self.sizes)
        kept = self.count - np.count_nonzero(self.dropped)
        return np.asarray(kept / (-(-self.count // sizes) * sizes), dtype=np.float64)

    def fails(self, k: int, m: int) -> Flags:
        """Chains whose row of map k is not needed for their row of unit m's map."""
        needs = [self._need(m, row, self._maps[k]) for row in range(self.sizes[m])]
        starts, stops = np.array([need.start for need in needs]), np.array([need.stop for need in needs])
        ours, theirs = self._places(k), self._places(m)
        return np.asarray((ours < starts[theirs]) | (ours >= stops[theirs]))

    def _need(self, unit: int, row: int, tensor: int) -> Interval:
        """What one row of the unit's reference map needs of a map that the unit reads; see `model.cut.tile_regions`."""
        graph, ops = self._network.graph, self._network.units[unit].ops
        needed = {self._maps[unit]: Interval(row, row + 1)}
        for index in reversed(ops):
            op, geometry = graph.ops[index], self._network.geometries[index]
            asked = [needed[t] for t in op.outputs if t in needed]
            if not asked:
                continue
            produced = asked[0]
            for other in asked[1:]:
                produced = produced.hull(other)
            rule = geometry.rows if self._axis == HEIGHT else geometry.columns
            found = rule.need(produced).source
            for position in geometry.maps:
                read = op.inputs[position]
                needed[read] = needed[read].hull(found) if read in needed else found
        return needed.get(tensor, Interval(0, 0))


def _covered(network: Network, links: tuple[tuple[int, ...], ...]) -> Flags:
    graph, units = network.graph, network.units
    covered = np.zeros((len(units), len(units)), dtype=np.bool_)
    last_reader = [_last_reader(network, unit.reference) for unit in units]
    for j, end in enumerate(units):
        reference = graph.tensors[end.reference].shape
        covered[j, j] = True
        for k in range(j - 1, -1, -1):
            covered[j, k] = any(m <= j and covered[j, m] for m in links[k])
            shape = graph.tensors[units[k].reference].shape
            # An output of the block: a tile owns the same fraction of it, to the row where its size is a multiple.
            multiple = all(shape[axis] % reference[axis] == 0 for axis in (HEIGHT, WIDTH))
            covered[j, k] |= last_reader[k] > j and multiple
    return covered


def _last_reader(network: Network, tensor: int) -> int:
    """The last unit that reads a map; beyond all units where the tail reads it, or it leaves the network."""
    unit_of = {op: unit.index for unit in network.units for op in unit.ops}
    beyond = len(network.units)
    if tensor in network.graph.outputs:
        return beyond
    return max((unit_of.get(op, beyond) for op in network.readers.get(tensor, ())), default=-1)
