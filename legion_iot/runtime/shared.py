"""What the machines of one orchestrator share, each of them for a model of its own.

Theory. Agents are told by epochs and command numbers what an answer belongs to, so no two machines may use the same
one. What is known of the devices holds for every model. Two campaigns at the same time would measure each other, so
one waits for the other; and requests of any model are in the way of measuring. An agent fetches one model at a time,
the one it was told to fetch last.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from legion_iot.planning.links import Link
from legion_iot.planning.samples import Samples

if TYPE_CHECKING:
    from legion_iot.runtime.orchestrator import State

_COMMANDS_PER_EPOCH = 1000  # at most, on average over a process's life


class Shared:
    """Numbers above `first`, `samples` and `own_link` as far as they are known, and whose turn it is to measure.

    A new process begins above the numbers of the last one, so that no agent takes an old assignment for a new one, or
    answers a command of the last process.
    """

    def __init__(self, first: int = 0) -> None:
        self.epochs: Iterator[int] = itertools.count(first)
        self.numbers = itertools.count(first * _COMMANDS_PER_EPOCH)
        self.samples = Samples()
        self.own_link: Link | None = None
        self._machines: list[State] = []
        self._measuring: object | None = None

    def join(self, machine: State) -> None:
        """This one takes part from now on."""
        self._machines.append(machine)

    def leave(self, machine: State) -> None:
        """It does so no more."""
        self._machines = [each for each in self._machines if each is not machine]

    @property
    def under_way(self) -> int:
        """Requests under way, of all models."""
        return sum(len(each.requests.under_way) for each in self._machines)

    def fetches(self, agent: str) -> bool:
        """Whether an agent has been told to fetch any model, and has not done so yet."""
        return any(each.agents[agent].task == "fetch" for each in self._machines if agent in each.agents)

    def begin_measuring(self, who: object) -> bool:
        """Whether it is the turn of `who`, which keeps it until `end_measuring`."""
        if self._measuring is None:
            self._measuring = who
        return self._measuring is who

    def end_measuring(self, who: object) -> None:
        """Another one may measure, if it was the turn of `who`."""
        if self._measuring is who:
            self._measuring = None
