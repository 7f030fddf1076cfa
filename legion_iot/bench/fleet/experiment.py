"""Cells of the experiment, carried out: labs, sessions, planners that take turns, the peer from outside beside them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from legion_iot.bench.fleet.account import Account, mean, without_links
from legion_iot.bench.fleet.cells import OFFLOAD, Cell, Cost, Figures, Outcome, Rate
from legion_iot.bench.fleet.groups import Calibration, lab_of, parse_fleet
from legion_iot.bench.fleet.offload import Offload, offloading
from legion_iot.bench.fleet.processors import ProcessorMeter, Use
from legion_iot.bench.fleet.session import Exactness, Planned, Session, open_session
from legion_iot.bench.fleet.spending import SpendingMeter, Spent, average
from legion_iot.bench.fleet.subject import Subject
from legion_iot.lab.running import running_lab
from legion_iot.lab.state import LabState
from legion_iot.planning.planners import planners

REQUESTS = 3  # of a planner's turn that count, more where they are quick
WARM_UP = 2  # before them: the first one finds nothing in caches
TURN = 2.0  # seconds that a turn takes at least, up to so many requests
MOST_REQUESTS = 30
BASE_TOPIC = "legion-fleet"
AUTO_FOR_THROUGHPUT = "auto (throughput)"
AUTO_FOR_LATENCY = "auto (latency)"
FRAMES = "frames"

Progress = Callable[[str], None]


@dataclass(slots=True)
class Laboratory:
    """What all cells have in common: the networks by name, how fast devices are, and where measurements are kept."""

    subjects: Mapping[str, Subject]
    calibration: Calibration
    directory: Path
    rootless: bool
    progress: Progress
    meter: ProcessorMeter = field(default_factory=ProcessorMeter)
    _fresh: int = 0

    @contextlib.contextmanager
    def lab(self, cell: Cell) -> Iterator[LabState]:
        """The lab of a cell's group; raises LegionError."""
        spec = lab_of(parse_fleet(cell.group), self.calibration, cell.mbit, cell.slower)
        with running_lab(replace(spec, base_topic=BASE_TOPIC), "bench", self.progress, self.rootless) as state:
            yield state

    @property
    def kept(self) -> Path:
        """Where measurements outlive a lab, as those of an orchestrator do."""
        return self._made("kept")

    def fresh(self) -> Path:
        """Where nothing has been measured yet."""
        self._fresh += 1
        return self._made(f"fresh-{self._fresh}")

    def _made(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path


def run_cells(cells: Sequence[Cell], laboratory: Laboratory) -> Iterator[tuple[Cell, Outcome]]:
    """Every cell with what was measured; neighbours of one group share a lab. Raises LegionError."""
    left = list(cells)
    while left:
        first = left[0]
        if first.experiment == "profiling":
            yield left.pop(0), _profiling(first, laboratory)
            continue
        with laboratory.lab(first) as lab:
            while left and _same_lab(left[0], first):
                cell = left.pop(0)
                measure = _throughput if cell.experiment == "throughput" else _latency
                yield cell, measure(cell, lab, laboratory)


def _same_lab(one: Cell, other: Cell) -> bool:
    kinds = {one.experiment, other.experiment}
    return "profiling" not in kinds and (one.group, one.mbit, one.slower) == (other.group, other.mbit, other.slower)


# --- latency ---


def _latency(cell: Cell, lab: LabState, laboratory: Laboratory) -> Outcome:
    """Planners find their plans one after the other, with what was measured before, and then take turns."""
    subject = laboratory.subjects[cell.network]
    names = [name for name in cell.planners if name != OFFLOAD]
    with contextlib.ExitStack() as stack:
        if OFFLOAD in cell.planners:
            laboratory.progress(f"{cell.title}: starting the offload worker")
            offload = stack.enter_context(offloading(lab, subject, lab.devices[:1]))
        else:
            offload = None
        laboratory.progress(f"{cell.title}: serving")
        session = stack.enter_context(open_session(lab, subject, cell.wire, "latency", laboratory.kept))
        planned = _plans(cell, names, session, laboratory)
        return _turns(cell, planned, session, offload, laboratory)


def _profiling(cell: Cell, laboratory: Laboratory) -> Outcome:
    """Each planner finds its plan on devices of which nothing is known; on the last ones, all plans take turns."""
    subject = laboratory.subjects[cell.network]
    planned: dict[str, Planned] = {}
    for number, name in enumerate(cell.planners, 1):
        with (
            laboratory.lab(cell) as lab,
            open_session(lab, subject, cell.wire, "latency", laboratory.fresh()) as session,
        ):
            planned |= _plans(cell, [name], session, laboratory)
            if number == len(cell.planners):
                return _turns(cell, planned, session, None, laboratory)
    raise ValueError("a cell has planners")


def _plans(cell: Cell, names: Iterable[str], session: Session, laboratory: Laboratory) -> dict[str, Planned]:
    planned = {}
    for name in names:
        laboratory.progress(f"{cell.title}: planner {name}")
        planned[name] = session.plan(planners[name])
    return planned


def _turns(
    cell: Cell, planned: Mapping[str, Planned], session: Session, offload: Offload | None, laboratory: Laboratory
) -> Outcome:
    """Requests by one planner's plan after the other's; who comes first changes from round to round."""
    doubles = _doubles(planned)
    ways: dict[str, Callable[[int], list[float]]] = {
        name: _through(session, each) for name, each in planned.items() if name not in doubles
    }
    if offload is not None:
        ways[OFFLOAD] = offload.ask
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    traces = {name: _Traces([], []) for name in planned}
    uses: list[Use] = []
    order = list(ways)
    group = next(iter(planned.values())).problem.group
    for number in range(cell.rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            laboratory.progress(f"{cell.title}: round {number + 1} of {cell.rounds}, {name}")
            requests = _requests(ways[name](WARM_UP)[-1])
            spending = SpendingMeter(session.agents)
            laboratory.meter.restart()
            rounds[name].append(tuple(ways[name](requests)))
            uses.append(laboratory.meter.read())
            if name in planned:
                traces[name].spent.append(spending.read(requests, planned[name].tile_seconds))
                traces[name].accounts.extend(session.accounts(group, rounds[name][-1]))
    figures = []
    for name, each in planned.items():
        same = doubles.get(name, name)
        figures.append(_figures(name, each, rounds[same], doubles, session.expected(each), traces[same]))
    if offload is not None:
        figures.append(Figures(OFFLOAD, OFFLOAD, 1, 1, tuple(rounds[OFFLOAD])))
    bounds = session.bound(group), session.bound(without_links(group))
    return _outcome(figures, (), bounds, session.exactness, offload, uses)


def _requests(seconds: float) -> int:
    """Of a turn, where one request takes so long: what is quick varies most."""
    return min(MOST_REQUESTS, max(REQUESTS, math.ceil(TURN / seconds)))


@dataclass(frozen=True, slots=True)
class _Traces:
    """Of a planner's requests: where latency went, of each; what they cost the devices, of each turn."""

    accounts: list[Account]
    spent: list[tuple[Spent, ...]]


def _through(session: Session, planned: Planned) -> Callable[[int], list[float]]:
    def ask(requests: int) -> list[float]:
        session.use(planned.plan)
        return session.ask(requests)

    return ask


def _doubles(planned: Mapping[str, Planned]) -> dict[str, str]:
    """Planners whose plan is that of an earlier one but for its name, and whose."""
    found: dict[object, str] = {}
    doubles = {}
    for name, each in planned.items():
        plan = each.plan
        first = found.setdefault((plan.blocks, plan.tail_agent, plan.hub, plan.replicas), name)
        if first != name:
            doubles[name] = first
    return doubles


def _figures(
    name: str,
    planned: Planned,
    rounds: Sequence[tuple[float, ...]],
    doubles: Mapping[str, str],
    expected: Account,
    traces: _Traces,
) -> Figures:
    plan, effort = planned.plan, planned.effort
    cost = Cost(effort.parts, effort.runs, effort.seconds, effort.trials, planned.seconds)
    return Figures(
        name, plan.planner, len(plan.blocks), len(plan.agents), tuple(rounds), planned.estimate.latency,
        doubles.get(name, ""), cost, mean(traces.accounts) if traces.accounts else None, expected,
        average(traces.spent),
    )  # fmt: skip


def _outcome(
    figures: Sequence[Figures],
    rates: Sequence[Rate],
    bounds: tuple[float, float],
    exactness: Exactness,
    offload: Offload | None,
    uses: Sequence[Use],
) -> Outcome:
    asked, exact = (0, 0) if offload is None else (offload.requests, offload.exact)
    return Outcome(
        tuple(figures), tuple(rates), *bounds, exactness.requests + asked, exactness.exact + exact, exactness.worst,
        max(use.ours for use in uses), sum(use.others for use in uses) / len(uses),
    )  # fmt: skip


# --- throughput ---

WINDOWS = (1, 4, 16)


def _throughput(cell: Cell, lab: LabState, laboratory: Laboratory) -> Outcome:
    """Answers per second by `frames`, by `auto` for either objective, and by workers on all devices."""
    subject = laboratory.subjects[cell.network]
    with contextlib.ExitStack() as stack:
        offload = None
        if OFFLOAD in cell.planners:
            laboratory.progress(f"{cell.title}: starting the offload workers")
            offload = stack.enter_context(offloading(lab, subject, lab.devices))
        with open_session(lab, subject, cell.wire, "latency", laboratory.kept) as session:
            laboratory.progress(f"{cell.title}: planner auto, for latency")
            quickest = session.plan(planners["auto"])
        session = stack.enter_context(open_session(lab, subject, cell.wire, "throughput", laboratory.kept))
        laboratory.progress(f"{cell.title}: planner auto, for throughput")
        planned = {AUTO_FOR_LATENCY: quickest, AUTO_FOR_THROUGHPUT: session.plan(planners["auto"]),
                   FRAMES: session.plan(planners["frames"])}  # fmt: skip
        doubles = _doubles(planned)
        ways = {name: _rate_through(session, each) for name, each in planned.items() if name not in doubles}
        if offload is not None:
            ways[OFFLOAD] = offload.answers_per_second
        rates: list[Rate] = []
        uses: list[Use] = []
        for window in WINDOWS:
            found: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(cell.rounds):
                for name, way in ways.items():
                    laboratory.progress(f"{cell.title}: {window} in flight, round {number + 1}, {name}")
                    laboratory.meter.restart()
                    found[name].append(way(window, max(REQUESTS, 2 * window)))
                    uses.append(laboratory.meter.read())
            names = [*planned, *([OFFLOAD] if offload else [])]
            rates += [Rate(name, window, tuple(found[doubles.get(name, name)])) for name in names]
        return _outcome((), rates, (0.0, 0.0), session.exactness, offload, uses)


def _rate_through(session: Session, planned: Planned) -> Callable[[int, int], float]:
    def rate(window: int, requests: int) -> float:
        session.use(planned.plan)
        return session.answers_per_second(window, requests)

    return rate
