"""The cells of the experiment, what was measured in each, and the file in which finished ones are kept.

The file has one JSON object a line: first the calibration, then the finished cells. It is replaced whole after each
cell, so a run that was interrupted at any moment can be resumed with what it had finished.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from legion_iot.bench.fleet.account import Account
from legion_iot.bench.fleet.groups import Calibration
from legion_iot.bench.fleet.spending import Spent
from legion_iot.errors import InputError
from legion_iot.files import replace_file

SCHEMA = 2
OFFLOAD = "offload"  # not a planner: the peer from outside, run beside them
Experiment = Literal["latency", "throughput", "profiling", "growth", "size", "depth"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One network on one group. `mbit` is each device's link, both ways; processors are so many times `slower`.

    In `profiling`, every planner finds its plan on devices of which nothing is known.
    """

    experiment: Experiment
    network: str
    group: str
    planners: tuple[str, ...]
    wire: str
    mbit: float
    rounds: int
    slower: float = 1.0

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.experiment}: {self.network} on {self.group}, {self.wire}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What finding a plan has cost: tiles run on devices, runs of them, seconds these computed, plans tried, seconds
    from begin to end."""

    tiles: int = 0
    runs: int = 0
    device_seconds: float = 0.0
    trials: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One planner in a cell. `rounds` has the seconds of every request, by turn; `kind` is the plan's own planner.

    Where its plan was that of another planner, `same_as` names that one, and the requests are those of both.
    `predicted` are seconds, as of when the plan was found; 0 where nothing was predicted. `traced` says where the
    latency of the requests of one turn and more went, on average, `expected` where that of the prediction did, and
    `spent` what a request cost each device.
    """

    planner: str
    kind: str
    blocks: int
    devices: int
    rounds: tuple[tuple[float, ...], ...]
    predicted: float = 0.0
    same_as: str = ""
    cost: Cost = Cost()
    traced: Account | None = None
    expected: Account | None = None
    spent: tuple[Spent, ...] = ()

    @property
    def seconds(self) -> float:
        """The median of all requests."""
        return statistics.median(self._all)

    @property
    def spread(self) -> float:
        """Half of what the middle half of the requests spans, over the median."""
        if len(self._all) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self._all, n=4)
        return (high - low) / 2 / self.seconds

    @property
    def _all(self) -> list[float]:
        return [seconds for turn in self.rounds for seconds in turn]


@dataclass(frozen=True, slots=True)
class Rate:
    """Answers per second of one way to serve, with so many requests in flight."""

    name: str
    window: int
    per_second: tuple[float, ...]  # by round

    @property
    def median(self) -> float:
        return statistics.median(self.per_second)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured in a cell.

    `bound` are seconds that no plan takes less than by the predictor, 0 where not asked for; `computing_bound` those
    with links that take no time. Of `requests` outputs so
    many were `exact`, the others differed by `worst` of the largest value at most. `cores` are those in use by the
    experiment, at the busiest plan, `others` by everything else on this machine, on average.
    """

    figures: tuple[Figures, ...] = ()
    rates: tuple[Rate, ...] = ()
    bound: float = 0.0
    computing_bound: float = 0.0
    requests: int = 0
    exact: int = 0
    worst: float = 0.0
    cores: float = 0.0
    others: float = 0.0

    def of(self, planner: str) -> Figures | None:
        """The figures of a planner, if it took part."""
        return next((each for each in self.figures if each.planner == planner), None)


Finished = Mapping[Cell, Outcome]


@dataclass(slots=True)
class Record:
    """What is finished, the calibration it was finished with, and the commands that did; in a file if there is one."""

    path: Path | None = None
    calibration: Calibration | None = None
    finished: dict[Cell, Outcome] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def begin(self, calibration: Calibration, command: str) -> None:
        """Keep the calibration and the command; raises InputError where the file cannot be written."""
        self.calibration = calibration
        if command not in self.commands:
            self.commands.append(command)
        self._write()

    def add(self, cell: Cell, outcome: Outcome) -> None:
        """Keep a finished cell; raises InputError where the file cannot be written."""
        self.finished[cell] = outcome
        self._write()

    def _write(self) -> None:
        if self.path is None or self.calibration is None:
            return
        lines: list[dict[str, Any]] = [
            {"schema": SCHEMA, "calibration": asdict(self.calibration), "commands": self.commands}
        ]
        lines += [{"cell": asdict(cell), "outcome": asdict(outcome)} for cell, outcome in self.finished.items()]
        content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        try:
            replace_file(self.path, content, 0o644)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); choose another (--resume)") from None


def read_record(path: Path) -> Record:
    """What a file of an earlier run holds, nothing where there is no file; raises InputError for any other file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return Record(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give another file (--resume)") from None
    try:
        head, *rest = [json.loads(line) for line in lines]
        if head["schema"] != SCHEMA:
            raise ValueError("another schema")
        finished = {_cell(line["cell"]): _outcome(line["outcome"]) for line in rest}
        return Record(path, Calibration(**head["calibration"]), finished, list(map(str, head["commands"])))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is no record of legion bench fleet ({error}); give another (--resume)") from None


def _cell(table: dict[str, Any]) -> Cell:
    return Cell(**{**table, "planners": tuple(table["planners"])})


def _outcome(table: dict[str, Any]) -> Outcome:
    known = {each.name for each in fields(Outcome)}
    if set(table) != known:
        raise ValueError("an outcome lacks figures")
    return Outcome(**{
        **table,
        "figures": tuple(map(_figures, table["figures"])),
        "rates": tuple(Rate(**{**rate, "per_second": tuple(rate["per_second"])}) for rate in table["rates"]),
    })  # fmt: skip


def _figures(table: dict[str, Any]) -> Figures:
    rounds = tuple(tuple(map(float, turn)) for turn in table["rounds"])
    traced, expected = (None if table[key] is None else Account(**table[key]) for key in ("traced", "expected"))
    spent = tuple(Spent(**each) for each in table["spent"])
    return Figures(**{
        **table, "rounds": rounds, "cost": Cost(**table["cost"]), "traced": traced, "expected": expected,
        "spent": spent,
    })  # fmt: skip


def of_experiment(finished: Finished, experiment: Experiment) -> Sequence[tuple[Cell, Outcome]]:
    """The finished cells of one experiment, in order."""
    return [(cell, outcome) for cell, outcome in finished.items() if cell.experiment == experiment]
