"""`legion bench fleet`: the published experiment, and every peer, on one machine in one command."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from legion_iot.bench.fleet.account import Account
from legion_iot.bench.fleet.cells import OFFLOAD, Cell, Experiment, Finished, Outcome, Record, read_record
from legion_iot.bench.fleet.checks import checks
from legion_iot.bench.fleet.experiment import Laboratory, run_cells
from legion_iot.bench.fleet.groups import Calibration, calibrate, parse_fleet, parse_rate
from legion_iot.bench.fleet.networks import check, float_of, path_of
from legion_iot.bench.fleet.schedule import (
    EXPERIMENTS,
    GROUPS,
    NETWORKS,
    PLANNERS,
    QUICK_GROUPS,
    QUICK_NETWORKS,
    QUICK_PLANNERS,
    ROUNDS,
    WIRES,
    Wanted,
    cells,
)
from legion_iot.bench.fleet.subject import Subject, subject
from legion_iot.bench.report import BenchReport
from legion_iot.errors import InputError, UsageError
from legion_iot.interruption import temporary_directory
from legion_iot.model import tflite
from legion_iot.model.blocks import divide
from legion_iot.planning.planners import planners
from legion_iot.wire.dtypes import EXACT
from legion_iot.wire.dtypes import WIRES as ALL_WIRES

MOST_ROUNDS = 100
Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for, as text; empty is the default."""

    networks: str = ""
    groups: str = ""
    planners: str = ""
    wires: str = ""
    experiments: str = ""
    rate: str = "100mbit"
    rounds: int | None = None
    quick: bool = False
    rootless: bool = False


def wanted(options: Options) -> Wanted:
    """What to measure; raises UsageError."""
    quick = options.quick
    if options.rounds is not None and not 1 <= options.rounds <= MOST_ROUNDS:
        raise UsageError(f"--rounds is {options.rounds}; give a number from 1 to {MOST_ROUNDS}")
    found: dict[Experiment, None] = {}
    for name in _names(options.experiments, ("latency",) if quick else EXPERIMENTS):
        if name not in EXPERIMENTS:
            raise UsageError(f"there is no experiment {name!r:.40}; give {', '.join(EXPERIMENTS)} (--experiments)")
        found[name] = None
    networks = _names(options.networks, QUICK_NETWORKS if quick else NETWORKS)
    for name in networks:
        check(name)
    return Wanted(
        networks,
        tuple(parse_fleet(text) for text in _names(options.groups, QUICK_GROUPS if quick else GROUPS)),
        _among(_names(options.planners, QUICK_PLANNERS if quick else PLANNERS), (*planners, OFFLOAD), "--planners"),
        _among(_names(options.wires, (EXACT,) if quick else WIRES), ALL_WIRES, "--wire"),
        tuple(found),
        parse_rate(options.rate),
        options.rounds or (1 if quick else ROUNDS),
    )


def _names(text: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip())) or otherwise


def _among(names: tuple[str, ...], there_are: tuple[str, ...], flag: str) -> tuple[str, ...]:
    for name in names:
        if name not in there_are:
            raise UsageError(f"there is no {name!r:.40}; give some of {', '.join(there_are)} ({flag})")
    return names


def run(
    what: Wanted, resume: Path | None, rootless: bool, command: str, progress: Progress
) -> tuple[BenchReport, Record]:
    """Measure what is not finished yet; raises LegionError, after which `resume` still has what was finished."""
    record = Record() if resume is None else read_record(resume)
    others = os.getloadavg()[0]
    with temporary_directory("legion-fleet-") as directory:
        subjects = _Subjects(directory, progress)
        calibration = record.calibration or _calibrate({name: subjects[name] for name in map(float_of, what.networks)})
        # Without the kernel's quotas, nothing would hold the workers to their devices' share.
        all_cells = cells(what, calibration, offload=not rootless and os.geteuid() == 0)
        todo = [cell for cell in all_cells if cell not in record.finished]
        if todo:
            record.begin(calibration, command)
        begun, before = time.monotonic(), len(record.finished)

        def say(text: str) -> None:
            done = len(record.finished) - before
            left = (time.monotonic() - begun) / done * (len(todo) - done) / 60 if done else None
            place = f"{len(all_cells) - len(todo) + done} of {len(all_cells)} cells"
            progress(f"{place}{'' if left is None else f', about {left:.0f} min left'} — {text}", None)

        laboratory = Laboratory(subjects, calibration, directory, rootless, say)
        for cell, outcome in run_cells(todo, laboratory):
            record.add(cell, outcome)
    finished = {cell: record.finished[cell] for cell in all_cells}  # a file may hold more than was asked for
    shown = Record(None, calibration, finished, [command])
    return _report(shown, {"load before": round(others, 2)}), shown


def report(resume: Path) -> tuple[BenchReport, Record]:
    """All that a file holds, without measuring; raises InputError."""
    record = read_record(resume)
    if not record.finished:
        raise InputError(f"{resume}: no cell is finished there; measure some first (--resume)")
    record.finished = _in_order(record.finished)
    return _report(record, {}), record


def _in_order(finished: Finished) -> dict[Cell, Outcome]:
    """By experiment, network, wire dtype and group: rows that are compared stand below each other."""
    networks = {name: place for place, name in enumerate(dict.fromkeys(cell.network for cell in finished))}

    def place(cell: Cell) -> tuple[int, int, int, tuple[int, ...]]:
        wire = ALL_WIRES.index(cell.wire)
        return EXPERIMENTS.index(cell.experiment), networks[cell.network], wire, parse_fleet(cell.group).order

    return {cell: finished[cell] for cell in sorted(finished, key=place)}


def _report(record: Record, conditions: dict[str, Any]) -> BenchReport:
    assert record.calibration is not None  # cells were finished with it
    rows = [_row(cell, outcome) for cell, outcome in record.finished.items()]
    setting = _setting(record.calibration, list(record.finished)) | conditions
    return BenchReport("fleet", setting, rows, checks(record.finished))


class _Subjects(dict[str, Subject]):
    """Networks by name; each is made, and run whole, when it is first asked for."""

    def __init__(self, directory: Path, progress: Progress) -> None:
        super().__init__()
        self._directory, self._progress = directory, progress

    def __missing__(self, name: str) -> Subject:
        path = path_of(name, self._directory, self._progress)
        self._progress(f"running {name} whole", None)
        self[name] = made = subject(name, path)
        return made


def _calibrate(subjects: Mapping[str, Subject]) -> Calibration:
    """By the float32 network that computes most, which tells a processor's speed best."""
    flop = {name: divide(tflite.open_file(each.path)).flops for name, each in subjects.items()}
    name = max(flop, key=lambda each: flop[each])
    return calibrate(name, flop[name], subjects[name].seconds)


def _setting(calibration: Calibration, finished: Sequence[Cell]) -> dict[str, Any]:
    rates, rounds = sorted({cell.mbit for cell in finished}), sorted({cell.rounds for cell in finished})
    return {
        "this machine": f"{calibration.network} in {calibration.seconds * 1e3:.0f} ms on one thread "
        f"({calibration.flops / 1e9:.1f} GFLOP/s)",
        "F": f"{calibration.firefly:.3f} of a core ({calibration.flops * calibration.firefly / 1e9:.1f} GFLOP/s)",
        "O": f"{calibration.odroid:.3f} of a core",
        "links": f"{', '.join(f'{rate:g}' for rate in rates)} Mbit/s each way",
        "rounds": ", ".join(map(str, rounds)),
    }


def _row(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    return {
        "experiment": cell.experiment, "network": cell.network, "group": cell.group, "wire": cell.wire,
        "bound_ms": outcome.bound * 1e3,
        "computing_bound_ms": outcome.computing_bound * 1e3, "requests": outcome.requests, "exact": outcome.exact,
        "worst_relative_difference": outcome.worst, "cores": outcome.cores, "others_cores": outcome.others,
        "planners": [
            {
                "planner": each.planner, "kind": each.kind, "blocks": each.blocks, "devices": each.devices,
                "median_ms": round(each.seconds * 1e3, 3), "spread": round(each.spread, 4),
                "predicted_ms": round(each.predicted * 1e3, 3), "same_as": each.same_as,
                "rounds_ms": [[round(seconds * 1e3, 3) for seconds in turn] for turn in each.rounds],
                "tiles": each.cost.tiles, "runs": each.cost.runs,
                "device_s": round(each.cost.device_seconds, 3), "plans_tried": each.cost.trials,
                "planning_s": round(each.cost.seconds, 3),
                "measured_parts_ms": _parts(each.traced), "predicted_parts_ms": _parts(each.expected),
                "spent": [
                    {
                        "device": one.device, "processor_ms": round(one.processor * 1e3, 3),
                        "computing_ms": round(one.computing * 1e3, 3), "handling_ms": round(one.handling * 1e3, 3),
                        "bytes_sent": round(one.sent), "bytes_received": round(one.received),
                    }
                    for one in each.spent
                ],
            }
            for each in outcome.figures
        ],
        "throughput": [
            {"planner": rate.name, "in_flight": rate.window, "per_second": round(rate.median, 4)}
            for rate in outcome.rates
        ],
    }  # fmt: skip


def _parts(account: Account | None) -> dict[str, float] | None:
    if account is None:
        return None
    return {name: round(seconds * 1e3, 3) for name, seconds in account.parts.items()}
