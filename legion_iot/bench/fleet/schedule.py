"""Which cells a run has: what is wanted, laid out so that cells of one group are neighbours and share its devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from legion_iot.bench.fleet.cells import OFFLOAD, Cell, Experiment
from legion_iot.bench.fleet.groups import MOST_CORES, Calibration, Fleet
from legion_iot.bench.fleet.networks import family, is_integer, of_other_depths, of_other_sizes
from legion_iot.wire.dtypes import EXACT

NETWORKS = ("vgg16", "vgg19", "yolov2", "resnet34", "mobilenet-v2", "hed")
GROUPS = ("1F", "2F", "3F", "4F", "5F", "6F", "1O", "3O", "1F+1O", "2F+1O", "2F+2O", "3F+2O", "3F+3O")
PLANNERS = ("single", "layerwise", "deepthings", "aofl", "legion", "halo", "auto", OFFLOAD)
WIRES = ("float32", "float16")
EXPERIMENTS: tuple[Experiment, ...] = ("latency", "throughput", "profiling", "growth", "size", "depth")
ROUNDS = 3
QUICK_NETWORKS, QUICK_GROUPS, QUICK_PLANNERS = ("resnet18",), ("3F",), ("single", "auto", OFFLOAD)
PROFILED = ("legion", "auto", "fss")
PROFILED_NETWORKS, PROFILED_GROUPS = ("resnet34", "mobilenet-v2"), ("2F", "3F")
GROWN = (1, 2, 4, 6, 9, 12)  # devices
GROWTH_PLANNERS = ("single", "auto")
ALONE = ("single", "auto", OFFLOAD)  # on one device all planners have the same plan


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to measure; `planners` are those of latency."""

    networks: tuple[str, ...]
    groups: tuple[Fleet, ...]
    planners: tuple[str, ...]
    wires: tuple[str, ...]
    experiments: tuple[Experiment, ...]
    mbit: float
    rounds: int


def cells(wanted: Wanted, calibration: Calibration, *, offload: bool) -> list[Cell]:
    """All cells in the order in which they are run; without `offload` the peer from outside takes no part."""
    made: list[Cell] = []
    largest = max(wanted.groups, key=lambda group: (group.size, group.fireflies))
    for group in wanted.groups:
        if "latency" in wanted.experiments:
            made += _latency(wanted, group, offload=offload)
        if "throughput" in wanted.experiments and group == largest:
            peers = (OFFLOAD,) if offload else ()
            made.append(
                Cell("throughput", wanted.networks[0], group.label, peers, "float32", wanted.mbit, wanted.rounds)
            )
    relatives = {"size": of_other_sizes, "depth": of_other_depths}
    for experiment in wanted.experiments:
        if experiment == "growth":
            made += _growth(wanted, calibration)
        elif experiment in relatives:
            for name in relatives[experiment](family(wanted.networks)):
                cell = Cell(experiment, name, largest.label, GROWTH_PLANNERS, "float32", wanted.mbit, wanted.rounds)
                made.append(cell)
    if "profiling" in wanted.experiments:
        made += _profiling(wanted)
    return made


def _latency(wanted: Wanted, group: Fleet, *, offload: bool) -> Iterator[Cell]:
    named = [name for name in wanted.planners if name in ALONE or group.size > 1]
    for network in wanted.networks:
        # How float32 maps travel is nothing to a network that has none: it is measured once.
        for wire in (EXACT,) if is_integer(network) else wanted.wires:
            # A worker is sent the frame as it is, whatever travels between agents; fss has an experiment of its own.
            left_out = {OFFLOAD} if not offload or wire != "float32" else set()
            planners = tuple(name for name in named if name not in left_out)
            yield Cell("latency", network, group.label, planners, wire, wanted.mbit, wanted.rounds)


def _growth(wanted: Wanted, calibration: Calibration) -> Iterator[Cell]:
    """One network on more and more devices, each slower than in the other experiments, so that all find room."""
    slower = max(1.0, round(GROWN[-1] * calibration.firefly / MOST_CORES, 3))
    for count in GROWN:
        group = Fleet(count).label
        yield Cell("growth", wanted.networks[0], group, GROWTH_PLANNERS, "float32", wanted.mbit, wanted.rounds, slower)


def _profiling(wanted: Wanted) -> Iterator[Cell]:
    """Networks and groups on which running every block takes minutes, not hours; those that were asked for, if any."""
    names = _either(PROFILED_NETWORKS, wanted.networks)
    groups = _either(PROFILED_GROUPS, [group.label for group in wanted.groups if group.size > 1])
    for network in names:
        for group in groups:
            yield Cell("profiling", network, group, PROFILED, "float32", wanted.mbit, wanted.rounds)


def _either(usual: Sequence[str], wanted: Sequence[str]) -> list[str]:
    return [name for name in usual if name in wanted] or list(wanted)
