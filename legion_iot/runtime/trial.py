"""A plan being tried: requests of zeros, in between those of clients, and what they take.

Where latency counts, they run one after the other, each while nothing else is under way; where throughput counts, all
at once, and what is measured is the time between two answers. The first one warms up.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from legion_iot.model.blocks import Network
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Objective, Reading
from legion_iot.planning.samples import LEAST_SECONDS
from legion_iot.runtime.orchestrator_events import RequestEnded
from legion_iot.wire.tensors import Array

RUNS = 5
MOST_OTHERS = 8  # requests of clients beside which a trial for throughput begins
PREFIX = "trial/"  # of a request's name; those of clients have no slash


@dataclass(slots=True)
class Trial:
    """The trial of one plan. `numbers` make names that were never used.

    `answers` are the times at which its requests ended, `seconds` what each took.
    """

    plan: Plan
    objective: Objective
    numbers: Iterator[int]
    asked: int = 0
    answers: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def done(self) -> bool:
        """Whether no further request is needed."""
        return bool(self.failure) or len(self.answers) > RUNS

    def next(self, others: int) -> list[str]:
        """The requests to begin now, while `others` wait or are under way."""
        most = 0 if self.objective == "latency" else MOST_OTHERS
        if self.done or self.asked > RUNS or others > most:
            return []
        many = 1 if self.objective == "latency" else RUNS + 1
        self.asked += many
        return [f"{PREFIX}{next(self.numbers)}" for _ in range(many)]

    def ended(self, ended: RequestEnded, now: float) -> None:
        """One of the requests has ended."""
        if ended.error:
            self.failure = f"{ended.error}: {ended.reason}"
        self.answers.append(now)
        self.seconds.append(ended.seconds)

    @property
    def reading(self) -> Reading | None:
        """What was measured; None where it failed."""
        if self.failure:
            return None
        if self.objective == "latency":
            taken = self.seconds[1:]
            return Reading(max(statistics.median(taken), LEAST_SECONDS), statistics.pstdev(taken))
        taken = [later - earlier for earlier, later in itertools.pairwise(self.answers)]
        return Reading(max(statistics.fmean(taken), LEAST_SECONDS), statistics.pstdev(taken))


def zeros(network: Network) -> tuple[Array, ...]:
    """An input for every input of the network."""
    tensors = [network.graph.tensors[index] for index in network.graph.inputs]
    return tuple(np.zeros(tensor.shape, tensor.numpy_dtype) for tensor in tensors)
