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

from legion_iot.planning import fits
from legion_iot.planning.fits import Affine, Blocks, Residuals
from legion_iot.planning.layers import Layer, NetworkLayers
from legion_iot.planning.samples import LEAST_SECONDS, Sample

# Floating point operations per second that no device has, and that every device exceeds, once it is under way.
MOST_SPEED, LEAST_SPEED = 1e13, 1e5
SLOWEST_START = 10.0  # seconds
ROWS = 16  # at which two boards are compared
DEFAULT_SPEED = 1e9  # of a device nothing is known about
MOST_BLOCKS = 256  # measured blocks a board's factors rest on: the newest
OUTLIER = math.log(4)  # a block that took this much longer or shorter than its units together was disturbed

COPY_FLOPS = 10.0  # per byte handed over: 6 to 16 were measured, with XNNPACK and without
LEAST_INNER = 0.1  # of a unit's slope is left inside a block, at least

# By arithmetic class: floating point operations per second.
Speeds = Mapping[str, float]


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
        """Floating point operations per second by arithmetic class, and under "" for all arithmetic together.

        Blocks with units that were never measured alone tell of all arithmetic only.
        """
        flops: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for signature in self.laws.keys() & self._layers.keys():
            layer = self._layers[signature]
            for name in (layer.kind, ""):
                flops[name] = flops.get(name, 0.0) + layer.total * layer.rows
                seconds[name] = seconds.get(name, 0.0) + self.laws[signature].seconds(layer.rows)
        for block in self.blocks:
            if not all(unit in self._layers for unit in block.units) or all(unit in self.laws for unit in block.units):
                continue
            rows = zip(block.units, block.rows, strict=True)
            flops[""] = flops.get("", 0.0) + sum(self._layers[unit].total * count for unit, count in rows)
            seconds[""] = seconds.get("", 0.0) + block.seconds
        return {name: flops[name] / max(seconds[name], LEAST_SECONDS) for name in flops}


def complete_laws(
    board: Board, others: Sequence[Board], layers: NetworkLayers, speeds: Speeds, overhead: float
) -> dict[str, Affine]:
    """A law for every unit and the tail on a board: its own, or the best of what is left.

    `others` are the other boards with samples; `speeds`, and the `overhead` of a call, are what somebody has stated.
    """
    laws = dict(board.laws)
    for signature, layer in layers.by_signature.items():
        if signature not in laws:
            laws[signature] = (
                _arithmetic_law(layer, speeds, overhead, fits.OF_OTHER_BOARD)
                or _borrowed_law(signature, board, others)
                or _arithmetic_law(layer, board.speeds(), 0.0, fits.OF_ARITHMETIC)
                or _strangers_law(layer, others)
                or Affine(0.0, layer.total / DEFAULT_SPEED, 0.0, fits.OF_NOTHING)
            )
    return laws


def _arithmetic_law(layer: Layer, speeds: Speeds, overhead: float, error: float) -> Affine | None:
    """The layer's arithmetic at a board's speeds; None where these say nothing."""
    general = speeds.get("") or (median(speeds.values()) if speeds else 0.0)
    if not general:
        return None
    return Affine(overhead, sum(flops / speeds.get(name, general) for name, flops in layer.flops), 0.0, error)


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
    laws += [law for other in others if (law := _arithmetic_law(layer, other.speeds(), 0.0, 0.0))] if not laws else []
    slowest = max(laws, key=lambda law: law.seconds(layer.rows), default=None)
    return slowest and slowest.scaled(1.0, fits.OF_NOTHING)


@dataclass(frozen=True, slots=True, eq=False)
class BlockLaw:
    """Seconds of fused units, from the laws of single ones.

    A unit alone is a call of its own (`call` seconds), and the runtime copies what it reads and makes. Inside a block,
    only the first unit's input and the last one's output are copied: what a unit hands to the next saves `copy` seconds
    per byte. So each unit but the last has a smaller slope there (`inner`).
    """

    laws: Mapping[str, Affine]
    call: float
    copy: float
    inner: Mapping[str, float]

    @classmethod
    def of(cls, laws: Mapping[str, Affine], layers: Mapping[str, Layer], copy: float) -> BlockLaw:
        call = call_seconds(laws)
        bytes_of = {signature: layer.made_bytes for signature, layer in layers.items()}
        inner = {s: max(LEAST_INNER * law.beta, law.beta - copy * bytes_of.get(s, 0.0)) for s, law in laws.items()}
        return cls(laws, call, copy, inner)

    def fixed(self, unit: str) -> float:
        """What a unit takes however few rows it has, without the call."""
        return max(0.0, self.laws[unit].alpha - self.call)

    def saved(self, units: Sequence[str], rows: Sequence[float]) -> float:
        """What a block saves by not copying inside."""
        return sum((self.laws[u].beta - self.inner[u]) * count for u, count in zip(units[:-1], rows[:-1], strict=True))

    def seconds(self, units: Sequence[str], rows: Sequence[float]) -> float:
        """A block of so many rows of each unit."""
        inner = sum(self.inner[unit] * count for unit, count in zip(units[:-1], rows[:-1], strict=True))
        return self.call + sum(self.fixed(unit) for unit in units) + inner + self.laws[units[-1]].beta * rows[-1]


def call_seconds(laws: Mapping[str, Affine]) -> float:
    """What a call takes by itself: the smallest fixed part of any unit; 0 where no law has one."""
    return min((law.alpha for law in laws.values() if law.alpha > 0), default=0.0)


def copy_seconds(board: Board, layers: Mapping[str, Layer]) -> float:
    """Seconds per byte handed over, which is copied twice: no more than the unit that moves most takes for all.

    Nor more than `COPY_FLOPS` operations take on the board. 0 where no unit was measured: then laws are the
    arithmetic's alone, and hold no copying.
    """
    call = call_seconds(board.laws)
    known = [(board.laws[s].seconds(layer.rows) - call, layer) for s, layer in layers.items() if s in board.laws]
    if not known:
        return 0.0
    bounds = [2 * seconds / ((layer.read_bytes + layer.made_bytes) * layer.rows) for seconds, layer in known]
    flops = sum(layer.total * layer.rows for _, layer in known)
    return min([*bounds, COPY_FLOPS * sum(seconds for seconds, _ in known) / flops])


def residuals(board: Board, law: BlockLaw) -> tuple[Residuals | None, dict[str, int]]:
    """How measured blocks differ from their law; and the column of each unit among the shares of a block."""
    columns = {signature: number for number, signature in enumerate(law.laws)}
    samples, shares, saved, ratios = [], [], [], []
    for sample in board.blocks:
        if not all(unit in columns for unit in sample.units):
            continue
        share = np.zeros(len(columns))
        for unit, rows in zip(sample.units, sample.rows, strict=True):
            share[columns[unit]] += law.laws[unit].seconds(rows)
        if share.sum() > LEAST_SECONDS:
            predicted = law.seconds(sample.units, sample.rows)
            samples.append(sample)
            shares.append(share / share.sum())
            saved.append(law.saved(sample.units, sample.rows) / predicted)
            ratios.append(min(max(math.log(sample.seconds / predicted), -OUTLIER), OUTLIER))
    if not samples:
        return None, columns
    blocks = Blocks([sample.units for sample in samples], np.array(shares), np.array(saved))
    return Residuals.fit(blocks, ratios, [sample.error for sample in samples]), columns
