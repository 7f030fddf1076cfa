"""What the experiment has to show, as checks on the cells that were run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from legion_iot.bench.fleet import published
from legion_iot.bench.fleet.cells import OFFLOAD, Experiment, Finished, Outcome, Rate, of_experiment
from legion_iot.bench.fleet.experiment import AUTO_FOR_THROUGHPUT, FRAMES, WINDOWS
from legion_iot.bench.fleet.figures import (
    Pair,
    behind_fastest,
    defined,
    gap,
    loss,
    prediction_error,
    speedup,
)
from legion_iot.bench.report import Check
from legion_iot.wire.dtypes import EXACT, OUTPUT_BOUNDS

MBIT = 100.0  # of each device's link, for which the targets are
# Least speed-up of `auto` over one F, by network and group; float32 between agents, then float16.
TARGETS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "vgg16": {"2F": 1.7, "3F": 2.3, "4F": 3.0, "5F": 3.3, "6F": 3.6},
        "vgg19": {"2F": 1.7, "3F": 2.3, "4F": 3.0, "5F": 3.3, "6F": 3.6},
        "yolov2": {"2F": 1.45, "3F": 1.95, "4F": 2.4, "5F": 2.8, "6F": 3.0},
    }
)
FLOAT16_TARGETS: Mapping[str, Mapping[str, float]] = MappingProxyType({"vgg16": {"6F": 4.0}, "yolov2": {"6F": 3.4}})
GROWTHS: tuple[Experiment, ...] = ("growth", "size", "depth")
MOST_CORES = 1.2
LEAST_SPEEDUP = 0.97
MOST_GAP, MOST_ERROR = 0.3, 0.15


def checks(finished: Finished) -> list[Check]:
    """Every promise that these cells say something about."""
    latency = of_experiment(finished, "latency")
    return [
        *_speedups(latency),
        *_every_cell([*latency, *(pair for name in GROWTHS for pair in of_experiment(finished, name))]),
        *_profiling(of_experiment(finished, "profiling")),
        *_throughput(of_experiment(finished, "throughput")),
        *_conditions(finished),
    ]


def _speedups(cells: Sequence[Pair]) -> Iterator[Check]:
    for cell, outcome in cells:
        targets = {EXACT: TARGETS, "float16": FLOAT16_TARGETS}.get(cell.wire, {})
        target = targets.get(cell.network, {}).get(cell.group) if cell.mbit == MBIT else None
        if target is not None and (reached := speedup(outcome, "auto")) is not None:
            name = f"auto: speed-up, {cell.network} on {cell.group}, {cell.wire}"
            yield Check.at_least(name, reached, "×", target)


def _every_cell(cells: Sequence[Pair]) -> Iterator[Check]:
    if reached := defined(speedup(outcome, "auto") for _, outcome in cells):
        yield Check.at_least("auto: speed-up over one device, worst cell", min(reached), "×", LEAST_SPEEDUP)
    if behind := defined(behind_fastest(outcome, "auto") for _, outcome in cells):
        yield Check.at_most("auto: time over the fastest planner's less the noise, worst cell", max(behind), "×", 1.0)
    if errors := [abs(prediction_error(auto)) for _, outcome in cells if (auto := outcome.of("auto")) is not None]:
        yield Check.at_most(
            "auto: predicted against measured, median error", 100 * statistics.median(errors), "%", 100 * MOST_ERROR
        )
    for cell, outcome in cells:
        wanted = cell.experiment, cell.network, cell.group, cell.wire, cell.mbit
        if wanted == ("latency", "vgg16", "6F", EXACT, MBIT) and (over := gap(outcome, "auto")) is not None:
            yield Check.at_most("auto: over the lower bound, vgg16 on 6F", 100 * over, "%", 100 * MOST_GAP)


def _profiling(cells: Sequence[Pair]) -> Iterator[Check]:
    if losses := defined(loss(outcome, "auto") for _, outcome in cells):
        yield Check.at_most("auto: mean loss against FSS", 100 * statistics.fmean(losses), "%", published.LOSS)
        yield Check.at_most("auto: worst loss against FSS", 100 * max(losses), "%", published.WORST_LOSS)
    if ratios := profiling_ratios([outcome for _, outcome in cells], "auto"):
        seconds = statistics.fmean(ratio for ratio, _ in ratios)
        yield Check.at_least(
            "auto: profiling cheaper than FSS, mean, device-seconds", seconds, "×", published.PROFILING_RATIO
        )


def profiling_ratios(outcomes: Sequence[Outcome], planner: str) -> list[tuple[float, float]]:
    """How many times cheaper than FSS finding a plan was, by cell: in device-seconds, and from begin to end."""
    pairs = [(outcome.of("fss"), outcome.of(planner)) for outcome in outcomes]
    return [
        (fss.cost.device_seconds / max(mine.cost.device_seconds, 1e-6), fss.cost.seconds / max(mine.cost.seconds, 1e-6))
        for fss, mine in pairs
        if fss is not None and mine is not None
    ]


def _throughput(cells: Sequence[Pair]) -> Iterator[Check]:
    for cell, outcome in cells:
        place = f"{cell.network} on {cell.group}, {WINDOWS[-1]} in flight"
        auto = rate_of(outcome.rates, AUTO_FOR_THROUGHPUT, WINDOWS[-1])
        for other in (FRAMES, OFFLOAD):
            if auto is not None and (theirs := rate_of(outcome.rates, other, WINDOWS[-1])) is not None:
                ratio = auto.median / theirs.median
                yield Check.at_least(f"auto for throughput / {other}, {place}", ratio, "×", LEAST_SPEEDUP)


def rate_of(rates: Sequence[Rate], name: str, window: int) -> Rate | None:
    """That of one way to serve with so many requests in flight, if it was measured."""
    return next((rate for rate in rates if (rate.name, rate.window) == (name, window)), None)


def _conditions(finished: Finished) -> Iterator[Check]:
    """That outputs are what they have to be, and that the machine had room for its devices."""
    exact = [outcome for cell, outcome in finished.items() if cell.wire == EXACT]
    if requests := sum(outcome.requests for outcome in exact):
        same = sum(outcome.exact for outcome in exact)
        yield Check.equal(f"requests with the whole model's bits, of {requests}", same, "requests", requests)
    for wire, limit in OUTPUT_BOUNDS.items():
        worst = [outcome.worst for cell, outcome in finished.items() if cell.wire == wire]
        if worst and wire != EXACT:
            yield Check.at_most(f"{wire}: largest difference, of the largest value", max(worst), "", limit)
    if finished:
        cores = max(outcome.cores for outcome in finished.values())
        yield Check.at_most("cores in use by the experiment, busiest plan", cores, "cores", MOST_CORES)
