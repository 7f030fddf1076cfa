"""A group of recorded devices that answers a planner's wishes, and counts what each answer would have cost.

Nobody sees an entry of the trace without paying for it: readings come with the noise of the recording, and what a
plan truly takes is asked only after the planner has returned it.
"""

from __future__ import annotations

import hashlib
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from legion_iot.bench.planner.trace import KindRecord
from legion_iot.bench.planner.truth import Origin, Truth, typical_excess
from legion_iot.model.geometry import Region
from legion_iot.planning.estimate import Estimate
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import PlanRun, Problem, Reading, TailRun, TileRun, Wish


@dataclass(slots=True)
class Bill:
    """What profiling took: wishes that were answered, runs of a tile or tail on one device, seconds of computing.

    A run of a whole plan is one wish and as many runs as it has tiles; `plan_seconds` are those of such runs.
    """

    wishes: int = 0
    runs: int = 0
    device_seconds: float = 0.0
    plan_seconds: float = 0.0
    origins: Counter[Origin] = field(default_factory=Counter)


class TrueCosts:
    """What tiles and tails truly take on the devices of a group, by the trace."""

    def __init__(self, truths: Mapping[str, Truth], boards: Mapping[str, str]) -> None:
        self._truths = truths
        self._boards = boards

    def tile_seconds(self, device: str, first: int, last: int, region: Region) -> float:
        return self.tile(device, first, last, region)[0]

    def tile(self, device: str, first: int, last: int, region: Region) -> tuple[float, Origin]:
        """Seconds, and where they come from."""
        return self._truths[self._boards[device]].tile(first, last, region)

    def tail_seconds(self, device: str) -> float:
        return self._truths[self._boards[device]].tail


class Noise:
    """How far the median of a few runs was off what is typical, as recorded; the same for the same question."""

    def __init__(self, record: KindRecord, seed: int) -> None:
        typical = typical_excess(record)
        warm = [(s.runs[1:], min(s.runs)) for found in record.blocks.values() for s in found if len(s.runs) > 1]
        self._factors = [statistics.median(runs) / quickest / typical for runs, quickest in warm] or [1.0]
        runs = [run / quickest / typical for runs, quickest in warm for run in runs]
        self.deviation = statistics.pstdev(runs) if runs else 0.0
        self._seed = seed

    def factor(self, question: object) -> float:
        digest = hashlib.sha256(f"{self._seed} {question!r}".encode()).digest()
        return random.Random(digest).choice(self._factors)


class Replay:
    """The devices of one problem; `estimate` tells what a plan truly takes."""

    def __init__(
        self,
        problem: Problem,
        costs: TrueCosts,
        noises: Mapping[str, Noise],
        estimate: Callable[[Plan], Estimate],
    ) -> None:
        self._problem = problem
        self._costs = costs
        self._noises = noises
        self._estimate = estimate
        self.bill = Bill()

    def measure(self, wishes: Sequence[Wish]) -> dict[Wish, Reading]:
        """A reading for each wish, and its price on the bill."""
        return {wish: self._answer(wish) for wish in wishes}

    def _answer(self, wish: Wish) -> Reading:
        self.bill.wishes += 1
        match wish:
            case TileRun(device, first, last, region):
                true, origin = self._costs.tile(device, first, last, region)
                self.bill.origins[origin] += 1
                return self._reading(device, (first, last, region), true)
            case TailRun(device):
                return self._reading(device, "tail", self._costs.tail_seconds(device))
            case PlanRun(plan):
                return self._run_plan(plan)

    def _reading(self, device: str, question: object, true: float) -> Reading:
        noise = self._noises[self._problem.group[device].board]
        seconds = true * noise.factor((device, question))
        self.bill.runs += 1
        self.bill.device_seconds += seconds
        return Reading(seconds, noise.deviation * true)

    def _run_plan(self, plan: Plan) -> Reading:
        """Every tile and the tail are run."""
        true = self._estimate(plan)
        noise = self._noises[self._problem.group[plan.tail_agent].board]
        factor = noise.factor(("plan", plan))
        computing = factor * sum(seconds for (_, kind), seconds in true.busy.items() if kind == "compute")
        self.bill.runs += sum(len(block.tiles) for block in plan.blocks) + 1
        self.bill.device_seconds += computing
        self.bill.plan_seconds += computing
        return Reading(true.latency * factor, noise.deviation * true.latency)
