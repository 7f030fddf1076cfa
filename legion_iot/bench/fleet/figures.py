"""From finished cells to figures: speed-up, loss, gap to the bound, error of the prediction, noise. All are ratios."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from legion_iot.bench.fleet.cells import OFFLOAD, Cell, Figures, Outcome

LEAST_NOISE = 0.02  # relative; two runs of one plan on one machine are no more alike than that

Pair = tuple[Cell, Outcome]


def speedup(outcome: Outcome, planner: str) -> float | None:
    """How many times faster than one device alone, at the medians; None where either was not run."""
    single, mine = outcome.of("single"), outcome.of(planner)
    return None if single is None or mine is None else single.seconds / mine.seconds


def prediction_error(figures: Figures) -> float:
    """Predicted over measured latency, less 1."""
    return figures.predicted / figures.seconds - 1


def gap(outcome: Outcome, planner: str) -> float | None:
    """How much longer than the lower bound a planner's plan takes, relative."""
    mine = outcome.of(planner)
    return None if mine is None or not outcome.bound else mine.seconds / outcome.bound - 1


def loss(outcome: Outcome, planner: str) -> float | None:
    """How much longer than the plan of the full searching scheme a planner's takes, relative."""
    fss, mine = outcome.of("fss"), outcome.of(planner)
    return None if fss is None or mine is None else mine.seconds / fss.seconds - 1


def noise(outcome: Outcome) -> float:
    """How far two medians of a cell may be apart without meaning anything, relative: the spread of the requests."""
    return max(LEAST_NOISE, statistics.median(each.spread for each in outcome.figures))


def behind_fastest(outcome: Outcome, planner: str) -> float | None:
    """A planner's latency over that of the fastest other planner, less the noise; 1 or less is as fast."""
    mine = outcome.of(planner)
    others = [each.seconds for each in outcome.figures if each.planner not in (planner, OFFLOAD)]
    if mine is None or not others:
        return None
    return mine.seconds / min(others) - noise(outcome)


def defined(values: Iterable[float | None]) -> list[float]:
    """Those there are."""
    return [value for value in values if value is not None]
