"""What samples tell about each class of board: a law for every unit, a factor for fused blocks, and the tail.

Where a board has no sample of a unit, another board's law is scaled by what both have measured; where there is none
either, the unit's arithmetic is divided by the board's speed. Each step back is less certain, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from legion_iot.model.arithmetic import ARITHMETIC_CLASSES, arithmetic_class, op_flops
from legion_iot.model.blocks import Network, Unit
from legion_iot.model.geometry import HEIGHT
from legion_iot.model.signatures import tail_signature, unit_signatures
from legion_iot.planning import fits
from legion_iot.planning.fits import Affine, Residuals
from legion_iot.planning.samples import LEAST_SECONDS, Sample

# Floating point operations per second that no device has, and that every device exceeds, once it is under way.
MOST_SPEED, LEAST_SPEED = 1e13, 1e5
SLOWEST_START = 10.0  # seconds
ROWS = 16  # at which two boards are compared
DEFAULT_SPEED = 1e9  # of a device nothing is known about
MOST_BLOCKS = 256  # measured blocks a board's factors rest on: the newest
OUTLIER = math.log(4)  # a block that took this much longer or shorter than its units together was disturbed

# By arithmetic class: floating point operations per second.
Speeds = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Layer:
    """What a unit or a tail computes: operations by arithmetic class, for one row of the unit or for the whole tail."""

    signature: str
    rows: int
    flops: tuple[tuple[str, float], ...]

    @property
    def total(self) -> float:
        """Floating point operations, one at least."""
        return max(1.0, sum(flops for _, flops in self.flops))

    @property
    def kind(self) -> str:
        """The class with most of the arithmetic."""
        return max(self.flops, key=lambda item: item[1])[0] if self.flops else ARITHMETIC_CLASSES[-1]


@dataclass(frozen=True, slots=True)
class NetworkLayers:
    """The units and the tail of a network, as boards know them."""

    units: tuple[Layer, ...]
    tail: Layer | None

    @classmethod
    def of(cls, network: Network) -> NetworkLayers:
        signatures = unit_signatures(network)
        units = tuple(_unit_layer(network, unit, signatures[unit.index]) for unit in network.units)
        if not network.tail:
            return cls(units, None)
        return cls(units, Layer(tail_signature(network), 1, _flops(network, network.tail, 1)))

    @property
    def by_signature(self) -> dict[str, Layer]:
        """Each different unit, and the tail."""
        return {layer.signature: layer for layer in (*self.units, *([self.tail] if self.tail else []))}


def _unit_layer(network: Network, unit: Unit, signature: str) -> Layer:
    height = network.graph.tensors[unit.reference].shape[HEIGHT]
    return Layer(signature, height, _flops(network, unit.ops, height))


def _flops(network: Network, ops: Sequence[int], rows: int) -> tuple[tuple[str, float], ...]:
    graph = network.graph
    sums: dict[str, float] = {}
    for index in ops:
        op = graph.ops[index]
        name = arithmetic_class(op.kind)
        sums[name] = sums.get(name, 0.0) + op_flops(graph, op, math.prod(graph.tensors[op.outputs[0]].shape)) / rows
    return tuple(sums.items())


class Board:
    """The laws of one board, from its own samples alone."""

    def __init__(self, name: str, samples: Sequence[Sample], layers: NetworkLayers) -> None:
        self.name = name
        self.doubt = ""
        self._layers = layers.by_signature
        self.blocks = [sample for sample in samples if len(sample.units) > 1][-MOST_BLOCKS:]
        points: dict[str, list[tuple[float, float]]] = {}
        errors: dict[str, list[float]] = {}
        for sample in samples:
            if len(sample.units) == 1:
                rows = sample.rows[0] if sample.rows else 1.0
                points.setdefault(sample.units[0], []).append((rows, self._plausible(sample, rows)))
                errors.setdefault(sample.units[0], []).append(sample.error)
        own = {s: fits.affine(p) for s, p in points.items() if len({rows for rows, _ in p}) > 1}
        fixed = median(law.alpha for law in own.values()) if own else 0.0
        laws = {signature: fits.affine(p, fixed) for signature, p in points.items()}
        self.laws = {s: replace(law, error=math.hypot(law.error, median(errors[s]))) for s, law in laws.items()}

    def _plausible(self, sample: Sample, rows: float) -> float:
        """The sample's seconds, clamped to what a device can do; notes the doubt."""
        layer = self._layers.get(sample.units[0])
        if layer is None:
            return sample.seconds
        flops = layer.total * rows
        seconds = min(max(sample.seconds, flops / MOST_SPEED), SLOWEST_START + flops / LEAST_SPEED)
        if seconds != sample.seconds:
            self.doubt = f"reported {sample.seconds:g} s for {flops / 1e6:.3g} MFLOP, taken as {seconds:.3g} s"
        return seconds

    def speeds(self) -> Speeds:
        """Floating point operations per second by arithmetic class, and under "" for all arithmetic together."""
        flops: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for signature in self.laws.keys() & self._layers.keys():
            layer = self._layers[signature]
            for name in (layer.kind, ""):
                flops[name] = flops.get(name, 0.0) + layer.total * layer.rows
                seconds[name] = seconds.get(name, 0.0) + self.laws[signature].seconds(layer.rows)
        return {name: flops[name] / max(seconds[name], LEAST_SECONDS) for name in flops}


def complete_laws(board: Board, others: Sequence[Board], layers: NetworkLayers, told: Speeds) -> dict[str, Affine]:
    """A law for every unit and the tail on a board: its own, or the best of what is left.

    `others` are the other boards with samples; `told` are speeds somebody has stated.
    """
    laws = dict(board.laws)
    for signature, layer in layers.by_signature.items():
        if signature not in laws:
            laws[signature] = (
                _arithmetic_law(layer, told, fits.OF_OTHER_BOARD)
                or _borrowed_law(signature, board, others)
                or _arithmetic_law(layer, board.speeds(), fits.OF_ARITHMETIC)
                or _strangers_law(layer, others)
                or Affine(0.0, layer.total / DEFAULT_SPEED, 0.0, fits.OF_NOTHING)
            )
    return laws


def _arithmetic_law(layer: Layer, speeds: Speeds, error: float) -> Affine | None:
    """The layer's arithmetic at a board's speeds; None where these say nothing."""
    general = speeds.get("") or (median(speeds.values()) if speeds else 0.0)
    if not general:
        return None
    return Affine(0.0, sum(flops / speeds.get(name, general) for name, flops in layer.flops) or 1e-9, 0.0, error)


def _borrowed_law(signature: str, board: Board, others: Sequence[Board]) -> Affine | None:
    """Another board's law, scaled by what both have measured; of several boards, the one that shares most."""
    shared = [(len(board.laws.keys() & o.laws.keys()), o) for o in others if signature in o.laws]
    count, other = max(shared, key=lambda pair: pair[0], default=(0, board))
    if not count:
        return None
    common = [(other.laws[s], law) for s, law in board.laws.items() if s in other.laws]
    ratios = [law.seconds(ROWS) / max(theirs.seconds(ROWS), LEAST_SECONDS) for theirs, law in common]
    return other.laws[signature].scaled(median(ratios), fits.OF_OTHER_BOARD)


def _strangers_law(layer: Layer, others: Sequence[Board]) -> Affine | None:
    """For a board nothing is known about: like the slowest of the others."""
    laws = [other.laws[layer.signature] for other in others if layer.signature in other.laws]
    laws += [law for other in others if (law := _arithmetic_law(layer, other.speeds(), 0.0))] if not laws else []
    slowest = max(laws, key=lambda law: law.seconds(layer.rows), default=None)
    return slowest and slowest.scaled(1.0, fits.OF_NOTHING)


def call_overhead(laws: Mapping[str, Affine]) -> float:
    """What a call takes by itself: the smallest fixed part of any unit; 0 where no law has one."""
    return min((law.alpha for law in laws.values() if law.alpha > 0), default=0.0)


def block_seconds(laws: Mapping[str, Affine], overhead: float, units: Sequence[str], rows: Sequence[float]) -> float:
    """Seconds of fused units by their own laws; the part of each that the call takes is counted once."""
    parts = ((laws[signature], count) for signature, count in zip(units, rows, strict=True))
    return overhead + sum(max(0.0, law.alpha - overhead) + law.beta * count for law, count in parts)


def residuals(board: Board, laws: Mapping[str, Affine], overhead: float) -> tuple[Residuals | None, dict[str, int]]:
    """How measured blocks differ from the sum of their units; and the column of each unit among the features."""
    columns = {signature: number for number, signature in enumerate(laws)}
    blocks = [sample for sample in board.blocks if all(unit in laws for unit in sample.units)]
    if not blocks:
        return None, columns
    features, ratios = np.zeros((len(blocks), len(columns))), []
    for number, sample in enumerate(blocks):
        for unit, rows in zip(sample.units, sample.rows, strict=True):
            features[number, columns[unit]] += laws[unit].seconds(rows)
        predicted = max(block_seconds(laws, overhead, sample.units, sample.rows), LEAST_SECONDS)
        ratios.append(min(max(math.log(sample.seconds / predicted), -OUTLIER), OUTLIER))
    features /= features.sum(axis=1, keepdims=True)
    counts = [len(sample.units) for sample in blocks]
    return Residuals.fit(features, counts, ratios, [sample.error for sample in blocks]), columns
