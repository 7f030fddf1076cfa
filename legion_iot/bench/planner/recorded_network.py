"""Recorded networks on groups of recorded devices: what a planner is given, and what its plan then truly takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from legion_iot.bench.planner.replay import Bill, Noise, Replay, TrueCosts
from legion_iot.bench.planner.trace import KINDS, KindRecord
from legion_iot.bench.planner.truth import Truth
from legion_iot.lab.pacing import bytes_per_second
from legion_iot.model.blocks import Network
from legion_iot.planning.costs import Predictor
from legion_iot.planning.estimate import Estimator
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Plan, check
from legion_iot.planning.problem import Device, Group, Planner, Problem, Reading, Wish, carry_out
from legion_iot.planning.samples import Samples
from legion_iot.planning.whole import whole_plan

LATENCY = 0.5e-3  # seconds; from a device to the broker, or back
MBIT = 100  # Fast Ethernet for each device, as in the paper
SERVER_MBIT = 1000  # of the machine with broker and orchestrator


def group_of(counts: Sequence[int]) -> Group:
    """So many devices of each of `KINDS`, in that order."""
    rate, server = bytes_per_second(MBIT), bytes_per_second(SERVER_MBIT)
    assert rate is not None
    assert server is not None
    link = Link(LATENCY, rate, rate)
    devices = [
        Device(f"{kind.name}{number}", kind.name, link)
        for kind, count in zip(KINDS, counts, strict=True)
        for number in range(1, count + 1)
    ]
    return Group(tuple(devices), Link(LATENCY / 5, server, server), server)


def label(counts: Sequence[int]) -> str:
    """`2F+1O`, say."""
    return "+".join(f"{count}{kind.name}" for kind, count in zip(KINDS, counts, strict=True) if count)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a planner yielded: seconds of its plan's requests as predicted and in truth, its bill, its own seconds.

    `samples` are what it knew and learned, in the form that outlives it.
    """

    plan: Plan
    predicted: float
    latency: float
    bill: Bill
    planning_seconds: float
    samples: Samples


@dataclass(slots=True)
class RecordedNetwork:
    """One recorded network: what each kind of device truly takes for it, and the noise of measuring it."""

    network: Network
    records: Mapping[str, KindRecord]
    seed: int = 0
    _truths: dict[str, Truth] = field(init=False)
    _noises: dict[str, Noise] = field(init=False)

    def __post_init__(self) -> None:
        self._truths = {kind.name: Truth(self.network, self.records[kind.name], kind) for kind in KINDS}
        self._noises = {kind.name: Noise(self.records[kind.name], self.seed) for kind in KINDS}

    def costs(self, group: Group) -> TrueCosts:
        """The truth, for whoever may see it."""
        return TrueCosts(self._truths, {device.name: device.board for device in group.devices})

    def latency(self, plan: Plan, group: Group) -> float:
        """Seconds a request truly takes."""
        return Estimator(self.network, group, self.costs(group)).estimate(plan).latency

    def single_seconds(self, group: Group) -> float:
        """Seconds a request truly takes on the quickest device alone."""
        return min(self.latency(whole_plan("single", self.network, name), group) for name in group.names)

    def play(self, planner: Planner, group: Group, samples: Samples = Samples()) -> Outcome:  # noqa: B008 — immutable
        """Let a planner work; it sees what it pays for, and `samples`."""
        problem = Problem(self.network, group, samples=samples)
        estimator = Estimator(self.network, group, self.costs(group))
        replay = Replay(problem, self.costs(group), self._noises, estimator.estimate)
        seen: dict[Wish, Reading] = {}
        thinking, resumed = 0.0, time.thread_time()

        def measure(wishes: tuple[Wish, ...]) -> Mapping[Wish, Reading]:
            nonlocal thinking, resumed
            thinking += time.thread_time() - resumed
            readings = replay.measure(wishes)
            seen.update(readings)
            resumed = time.thread_time()
            return readings

        plan = carry_out(planner(problem), measure)
        thinking += time.thread_time() - resumed
        check(plan, self.network)
        predictor = Predictor.of(problem).with_readings(seen)
        predicted = Estimator(self.network, group, predictor).estimate(plan).latency
        return Outcome(plan, predicted, estimator.estimate(plan).latency, replay.bill, thinking, predictor.samples)
