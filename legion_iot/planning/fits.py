"""Robust fits of what was measured: seconds = alpha + beta · rows, and factors between predicted and measured."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Relative standard deviation of a prediction, by what it rests on.
OF_FIT = 0.03  # two heights or more: what an affine law leaves, as measured on two kinds of device
OF_ONE_HEIGHT = 0.08
OF_OTHER_BOARD = 0.25
OF_ARITHMETIC = 0.5
OF_NOTHING = 1.0

# How far fused blocks stray from the sum of their units: all blocks of a board alike, and each by itself.
BOARD_VARIANCE = 0.08**2
BLOCK_VARIANCE = 0.06**2


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


def weighted_median(pairs: Sequence[tuple[float, float]]) -> float:
    """Of pairs (value, weight): the least value with at least half of all weight at or below it."""
    ordered = sorted(pairs)
    reached = np.cumsum([weight for _, weight in ordered])
    return ordered[int(np.searchsorted(reached, reached[-1] / 2))][0]


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """Gaussian process regression of log(measured / predicted) over blocks, by what units they have in common.

    Rows of `features` are blocks: each unit's share of the block's predicted time. The covariance of two blocks is
    that of the board, plus that of what they share (the histogram intersection kernel); both vanish for blocks of one
    unit, whose own fits say it all. Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006),
    algorithm 2.1; Barla et al., Histogram intersection kernel for image classification (2003).
    """

    features: Array
    scales: Array
    weights: Array
    inverse: Array

    @classmethod
    def fit(
        cls, features: Array, units: Sequence[int] | npt.NDArray[Any], ratios: Sequence[float], noises: Sequence[float]
    ) -> Residuals:
        """From measured blocks: features, counts of units, log ratios and the standard deviations of these."""
        scales = _scales(units)
        covariance = _covariance(features, scales, features, scales) + np.diag(np.square(noises))
        inverse = np.linalg.inv(covariance)
        return cls(features, scales, inverse @ np.asarray(ratios), inverse)

    def predict(self, features: Array, units: Sequence[int] | npt.NDArray[Any]) -> tuple[Array, Array]:
        """Expected log ratio and its standard deviation for blocks, one in each row of `features`."""
        scales = _scales(units)
        cross = _covariance(features, scales, self.features, self.scales)
        variance = prior_error(units) ** 2 - np.einsum("ij,jk,ik->i", cross, self.inverse, cross)
        return cross @ self.weights, np.sqrt(np.maximum(variance, 0.0))


def prior_error(units: Sequence[int] | npt.NDArray[Any]) -> Array:
    """The relative standard deviation for blocks of so many units, where no block was measured."""
    return _scales(units) * math.sqrt(BOARD_VARIANCE + BLOCK_VARIANCE)


def _scales(units: Sequence[int] | npt.NDArray[Any]) -> Array:
    scales: Array = np.sqrt(1.0 - 1.0 / np.asarray(units, dtype=np.float64))
    return scales


def _covariance(a: Array, a_scales: Array, b: Array, b_scales: Array) -> Array:
    shared = np.stack([np.minimum(row, b).sum(axis=1) for row in a])
    covariance: Array = np.outer(a_scales, b_scales) * (BOARD_VARIANCE + BLOCK_VARIANCE * shared)
    return covariance
