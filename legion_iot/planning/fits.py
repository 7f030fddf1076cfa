"""Robust fits of what was measured: seconds = alpha + beta · rows, and factors between predicted and measured."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Relative standard deviation of a prediction, by what it rests on.
OF_FIT = 0.03  # two heights or more: what an affine law leaves, as measured on two kinds of device
OF_ONE_HEIGHT = 0.08
OF_OTHER_BOARD = 0.25
OF_ARITHMETIC = 0.5
OF_NOTHING = 1.0

# How far fused blocks stray from the law of their units: all of a board alike, those with units in common, and each by
# itself; and by how much of itself the copying that they save may be mistaken.
BOARD_VARIANCE, SHARED_VARIANCE, OWN_VARIANCE = 0.04**2, 0.05**2, 0.05**2
COPY_VARIANCE = 0.5**2
UNLIKELY = 3.0  # standard deviations


@dataclass(frozen=True, slots=True)
class Affine:
    """Seconds for a unit: `alpha` + `beta` · rows, neither below zero.

    `error` is the relative standard deviation of what it says by itself, `common` of what it has from elsewhere and
    shares with the other laws of its board.
    """

    alpha: float
    beta: float
    error: float
    common: float = 0.0

    def seconds(self, rows: float) -> float:
        return self.alpha + self.beta * rows

    def scaled(self, factor: float, common: float) -> Affine:
        """As on a device that takes `factor` times as long, which is known to a relative error of `common`."""
        return Affine(self.alpha * factor, self.beta * factor, self.error, math.hypot(self.common, common))


def affine(points: Sequence[tuple[float, float]], fixed: float = 0.0) -> Affine:
    """Through points (rows, seconds), by Theil and Sen: the median slope, then the median rest.

    Where all points are of one height, `fixed` seconds, half of all at most, are taken for the part that does not
    depend on rows. Source: Sen, Journal of the American Statistical Association 63 (1968).
    """
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(sorted(points), 2) if b[0] > a[0]]
    if not slopes:
        rows, seconds = points[0][0], statistics.median(s for _, s in points)
        fixed = min(fixed, seconds / 2) if rows > 0 else seconds
        return Affine(fixed, (seconds - fixed) / rows if rows > 0 else 0.0, OF_ONE_HEIGHT)
    beta = max(0.0, statistics.median(slopes))
    alpha = statistics.median(s - beta * r for r, s in points)
    if alpha < 0:
        alpha, beta = 0.0, statistics.median(s / r for r, s in points if r > 0)
    off = statistics.median(abs(s - alpha - beta * r) / s for r, s in points)
    return Affine(alpha, beta, max(OF_FIT, 1.5 * off))  # 1.5: from a median deviation to a standard one


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Blocks to compare: the units of each, in each row of `shares` what every unit adds to the block's time, and

    `saved`: the copying that fusing saves, by the law, over the block's time.
    """

    units: Sequence[tuple[Hashable, ...]]
    shares: Array
    saved: Array

    @property
    def scales(self) -> Array:
        """How much of a deviation there can be, by block; none for one unit, whose own law says it all."""
        counts = np.array([len(units) for units in self.units], dtype=np.float64)
        scales: Array = np.sqrt(1.0 - 1.0 / counts)
        return scales

    @property
    def prior_error(self) -> Array:
        """The relative standard deviation of each where no block was measured."""
        by_units = self.scales**2 * (BOARD_VARIANCE + SHARED_VARIANCE + OWN_VARIANCE)
        error: Array = np.sqrt(by_units + COPY_VARIANCE * self.saved**2)
        return error

    def covariance(self, other: Blocks) -> Array:
        """Of the log ratios of these blocks (rows) and others (columns)."""
        shared = np.stack([np.minimum(row, other.shares).sum(axis=1) for row in self.shares])
        same = np.array([[a == b for b in other.units] for a in self.units], dtype=np.float64)
        by_units: Array = BOARD_VARIANCE + SHARED_VARIANCE * shared + OWN_VARIANCE * same
        return np.outer(self.scales, other.scales) * by_units + COPY_VARIANCE * np.outer(self.saved, other.saved)


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """Gaussian process regression of log(measured / predicted) over blocks.

    The covariance of two blocks is that of their board, plus that of what they share (the histogram intersection
    kernel), plus that of a block with itself, plus that of what both save by copying less (linear). Source: Rasmussen
    and Williams, Gaussian Processes for Machine Learning (2006), algorithm 2.1; Barla et al., Histogram intersection
    kernel for image classification (2003).
    """

    measured: Blocks
    weights: Array
    inverse: Array

    @classmethod
    def fit(cls, measured: Blocks, ratios: Sequence[float], noises: Sequence[float]) -> Residuals:
        """From measured blocks: their log ratios, and the standard deviations of these.

        A ratio that all others leave unlikely (equation 5.12 there) was disturbed, and weighs less by as much as that.
        """
        covariance, values = measured.covariance(measured) + np.diag(np.square(noises)), np.asarray(ratios)
        inverse = np.linalg.inv(covariance)
        expected = 1.0 / np.diag(inverse)  # variance of each, were it left out
        off = (inverse @ values) * expected
        inverse = np.linalg.inv(covariance + np.diag(np.maximum(0.0, (off / UNLIKELY) ** 2 - expected)))
        return cls(measured, inverse @ values, inverse)

    def predict(self, blocks: Blocks) -> tuple[Array, Array]:
        """Expected log ratio and its standard deviation, by block."""
        cross = blocks.covariance(self.measured)
        variance = blocks.prior_error**2 - np.einsum("ij,jk,ik->i", cross, self.inverse, cross)
        return cross @ self.weights, np.sqrt(np.maximum(variance, 0.0))
