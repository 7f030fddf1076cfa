"""`legion bench planner`: how good the plans are, and what finding them costs, on recorded times.

- *FSS* really runs every block on the group and takes the best division: the yardstick, and what it costs.
- `legion` chooses among the same plans; so does `auto` where it is held to them (*within*).
- `auto` as it is may choose any plan. It is played twice: *cold*, from nothing, and *kept*, in a campaign over all
  cells in which its samples are kept, as an orchestrator keeps them.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from legion_iot.bench.planner import campaign
from legion_iot.bench.planner.campaign import Cell
from legion_iot.bench.planner.growth import chain, planning_seconds
from legion_iot.bench.planner.recorded_network import MBIT, Outcome
from legion_iot.bench.planner.replay import Bill
from legion_iot.bench.planner.trace import Trace, load
from legion_iot.bench.planner.truth import Origin
from legion_iot.bench.report import BenchReport, Check
from legion_iot.errors import InputError
from legion_iot.model.blocks import Network, divide
from legion_iot.model.synthetic import NETWORKS
from legion_iot.planning.planners.auto import auto

TRACE = Path(__file__).with_name("trace.json.gz")

# The published figures of Legion: mean and worst loss in percent, and how many times cheaper profiling is than FSS.
PUBLISHED_LOSS, PUBLISHED_WORST, PUBLISHED_RATIO = 3.4, 12.4, 48.7

Progress = Callable[[str, float | None], None]


def run(path: Path | None, quick: bool, progress: Progress) -> BenchReport:
    """Replay a trace, the packaged one unless another is given. Raises InputError where it cannot be used."""
    trace = load(path or TRACE)
    wanted, groups = (campaign.QUICK_ORDER, campaign.QUICK_GROUPS) if quick else (campaign.ORDER, campaign.GROUPS)
    names = [name for name in wanted if name in trace.networks]
    if not names:
        raise InputError(f"{path}: has none of {', '.join(wanted)}; record them: legion bench planner --record FILE")
    cells = list(campaign.cells(trace, names, groups, progress))
    growth = _growth(quick, progress)
    checks = [*_legion_checks(cells), *_auto_checks(cells), *_growth_checks(growth)]
    return BenchReport("planner", _setting(trace, cells), [*map(_row, cells), *_gaps(cells), *growth], checks)


def _setting(trace: Trace, cells: Sequence[Cell]) -> dict[str, Any]:
    looks: Counter[Origin] = sum((outcome.bill.origins for cell in cells for outcome in _played(cell)), Counter())
    origins = (f"{100 * looks[origin] / max(1, looks.total()):.1f} % {origin.value}" for origin in Origin)
    kinds = dict(trace.origin.get("kinds", {}))
    recorded = (str(trace.origin.get(key, "unknown")) for key in ("date", "cpu", "runtime"))
    return {"recorded": " ".join(recorded), **kinds, "links": f"{MBIT} Mbit/s", "cells": len(cells),
            "tiles looked at": " ".join(origins)}  # fmt: skip


def _played(cell: Cell) -> tuple[Outcome, ...]:
    return (cell.fss, cell.legion, cell.within, cell.cold, cell.kept)


# --- figures ---


def _row(cell: Cell) -> dict[str, Any]:
    outcomes = {"fss": cell.fss, "legion": cell.legion, "within": cell.within, "cold": cell.cold, "kept": cell.kept}
    row: dict[str, Any] = {"network": cell.network, "group": cell.group, "single_ms": cell.single * 1e3}
    for name, outcome in outcomes.items():
        row |= {
            f"{name}_ms": outcome.latency * 1e3,
            f"{name}_wishes": outcome.bill.wishes,
            f"{name}_runs": outcome.bill.runs,
            f"{name}_device_s": outcome.bill.device_seconds,
        }
    kept = cell.kept
    return row | {
        "legion_loss": _loss(cell, cell.legion),
        "within_loss": _loss(cell, cell.within),
        "kind": kept.plan.planner,
        "blocks": len(kept.plan.blocks),
        "predicted_ms": kept.predicted * 1e3,
        "optimum_ms": cell.optimum * 1e3,
        "bound_ms": cell.bound * 1e3,
        "planning_s": cell.cold.planning_seconds,
    }


def _gaps(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    """Percent between `auto`, the best plan anybody found, and what no plan can beat."""
    gaps = {
        "AUTO over BEST": [100 * (cell.kept.latency / cell.optimum - 1) for cell in cells],
        "BEST over BOUND": [100 * (cell.optimum / cell.bound - 1) for cell in cells],
    }
    for what, found in gaps.items():
        yield {"gap": what, "mean_percent": statistics.fmean(found), "worst_percent": max(found)}


def _loss(cell: Cell, outcome: Outcome) -> float:
    """Percent by which a plan is slower than that of FSS; negative where it is quicker."""
    return 100 * (outcome.latency / cell.fss.latency - 1)


def _ratio(mine: Sequence[Bill], fss: Sequence[Bill], what: Callable[[Bill], float]) -> float:
    """How many times cheaper than FSS profiling was, in all."""
    return sum(map(what, fss)) / max(1e-9, sum(map(what, mine)))


def _runs(bill: Bill) -> float:
    return bill.runs


def _device_seconds(bill: Bill) -> float:
    return bill.device_seconds


# --- checks ---


def _legion_checks(cells: Sequence[Cell]) -> Iterator[Check]:
    losses = [_loss(cell, cell.legion) for cell in cells]
    ratios = [cell.fss.bill.device_seconds / _profiling_seconds(cell.legion.bill) for cell in cells]
    yield Check.at_most("legion: mean loss against FSS", statistics.fmean(losses), "%", PUBLISHED_LOSS)
    yield Check.at_most("legion: worst loss against FSS", max(losses), "%", PUBLISHED_WORST)
    ratio = statistics.fmean(ratios)
    yield Check.at_least("legion: profiling cheaper than FSS, mean, device-seconds", ratio, "×", PUBLISHED_RATIO)


def _profiling_seconds(bill: Bill) -> float:
    """Without the two plans that Legion runs in the end."""
    return bill.device_seconds - bill.plan_seconds


def _auto_checks(cells: Sequence[Cell]) -> Iterator[Check]:
    losses = [_loss(cell, cell.within) for cell in cells]
    yield Check.at_most("auto within FSS's plans: mean loss", statistics.fmean(losses), "%", 1.0)
    yield Check.at_most("auto within FSS's plans: worst loss", max(losses), "%", 3.0)
    fss, kept = [cell.fss.bill for cell in cells], [cell.kept.bill for cell in cells]
    yield Check.at_least("auto: profiling cheaper than FSS, runs", _ratio(kept, fss, _runs), "×", 150)
    yield Check.at_least(
        "auto: profiling cheaper than FSS, device-seconds", _ratio(kept, fss, _device_seconds), "×", 100
    )
    if second := [cell.kept.bill.wishes for cell in cells if cell.network == "vgg19"]:
        yield Check.within("auto: runs for VGG-19 once VGG-16 is known, most", max(second), "runs", 0, 3)
    plans = [(cell, outcome) for cell in cells for outcome in (cell.cold, cell.kept)]
    shared = [outcome.latency / cell.fss.latency for cell, outcome in plans if cell.devices > 1]
    yield Check.at_most("auto: time of FSS's plan, worst cell of two devices or more", max(shared), "×", 0.9999)
    alone = [outcome.latency / cell.single for cell, outcome in plans]
    yield Check.at_most("auto: time of one device alone, worst cell", max(alone), "×", 1.0)
    errors = [100 * abs(outcome.predicted / outcome.latency - 1) for _, outcome in plans]
    yield Check.at_most("auto: predicted against true latency, median error", statistics.median(errors), "%", 10.0)
    yield Check.at_most("auto: predicted against true latency, worst error", max(errors), "%", 25.0)


# --- planning time ---


def _growth(quick: bool, progress: Progress) -> list[dict[str, Any]]:
    vgg16 = divide(NETWORKS["vgg16"](0))
    cases: list[tuple[str, Network, int]] = [("vgg16", vgg16, 6), ("chain", chain(100), 32)]
    if not quick:
        cases[1:1] = [
            *(("vgg16", vgg16, devices) for devices in (1, 2, 12, 24, 32)),
            *(("chain", chain(units), 8) for units in (12, 25, 50, 100)),
        ]
    rows = []
    for name, network, devices in cases:
        units = len(network.units)
        progress(f"planning {units} units × {devices} devices", None)
        seconds, wishes = planning_seconds(auto, network, devices, rounds=3)
        rows.append({"planned": name, "units": units, "devices": devices, "planning_s": seconds, "wishes": wishes})
    return rows


def _growth_checks(growth: Sequence[dict[str, Any]]) -> Iterator[Check]:
    for name, devices, limit in (("vgg16", 6, 0.5), ("chain", 32, 10.0)):
        row = next(row for row in growth if row["planned"] == name and row["devices"] == devices)
        yield Check.at_most(f"planning {row['units']} units × {devices} devices", row["planning_s"], "s", limit)


# --- for people ---

# What is shown of a cell, under which title; the width is that of the title and a space.
_LATENCIES = {
    "single": " ALONE",
    "fss": "   FSS",
    "legion": " LEGION",
    "within": " WITHIN",
    "kept": "  AUTO",
    "predicted": "  SAID",
    "optimum": "  BEST",
    "bound": " BOUND",
}
_PROFILERS = ("fss", "legion", "cold", "kept")


def lines(report: BenchReport) -> Iterator[str]:
    """The figures of the report as tables."""
    cells = [row for row in report.rows if "network" in row]
    yield f"{'LATENCY, ms':<21}{''.join(_LATENCIES.values())}  PLAN"
    for row in cells:
        figures = "".join(f"{row[f'{name}_ms']:>{len(title)}.0f}" for name, title in _LATENCIES.items())
        yield f"{row['network']:<13}{row['group']:<8}{figures}  {row['kind']}, {row['blocks']}"
    for row in report.rows:
        if "gap" in row:
            yield f"{row['gap']:<16} mean {row['mean_percent']:.1f} %, worst {row['worst_percent']:.1f} %"
    titles = [name.upper() for name in _PROFILERS]
    yield f"{'PROFILING':<21}" + "".join(f"{t:>7}" for t in titles) + "".join(f"{t + ', s':>10}" for t in titles)
    for row in cells:
        runs = "".join(f"{row[f'{name}_runs']:>7}" for name in _PROFILERS)
        seconds = "".join(f"{row[f'{name}_device_s']:>10.1f}" for name in _PROFILERS)
        yield f"{row['network']:<13}{row['group']:<8}{runs}{seconds}"
    yield f"{'PLANNING':<13}{'UNITS':>8}{'DEVICES':>9}{'SECONDS':>9}"
    for row in report.rows:
        if "planned" in row:
            yield f"{row['planned']:<13}{row['units']:>8}{row['devices']:>9}{row['planning_s']:>9.2f}"
