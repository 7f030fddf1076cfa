"""The steps whose inputs are complete, in the order in which they are to be computed."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable

from legion_iot.runtime.agent_events import Compute
from legion_iot.runtime.attempts import Attempt

MOST_ATTEMPTS = 64  # with steps that wait to be computed; a group has far fewer requests under way
REMEMBERED = 1024  # requests whose age is known; one that is older than all of them counts as new


class ReadySteps:
    """Those of the request that began first come first, and of one request those that the plan puts first."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._began: OrderedDict[str, int] = OrderedDict()
        self._steps: list[tuple[int, int, int, Compute]] = []  # age, step, a number that is never the same, work

    def __len__(self) -> int:
        return len(self._steps)

    def __contains__(self, attempt: Attempt) -> bool:
        """Whether a step of the attempt waits to be computed."""
        return any((work.request, work.attempt) == attempt for *_, work in self._steps)

    def has_room(self, attempt: Attempt) -> bool:
        """Whether the attempt is among those with steps here, or one more may be."""
        attempts = {(work.request, work.attempt) for *_, work in self._steps}
        return len(attempts) < MOST_ATTEMPTS or attempt in attempts

    def began(self, request: str) -> int:
        """Something of the request is here; a number that is smaller the earlier the request began."""
        if request not in self._began:
            self._began[request] = next(self._numbers)
            if len(self._began) > REMEMBERED:
                self._began.popitem(last=False)
        return self._began[request]

    def add(self, compute: Compute) -> None:
        """A step can be computed."""
        heapq.heappush(self._steps, (self.began(compute.request), compute.step, next(self._numbers), compute))

    def take(self) -> Compute | None:
        """The next one, which is forgotten; None where there is none."""
        return heapq.heappop(self._steps)[-1] if self._steps else None

    def displace(self, newer: Attempt) -> None:
        """Steps of older attempts at the same request are not computed any more."""
        self._keep(lambda work: work.request != newer.request or work.attempt >= newer.number)

    def forget(self, attempt: Attempt) -> None:
        """The attempt has ended; its steps are not computed any more."""
        self._keep(lambda work: (work.request, work.attempt) != attempt)

    def drop(self, epoch: int) -> None:
        """The epoch has ended; its steps are not computed any more."""
        self._keep(lambda work: work.epoch != epoch)

    def _keep(self, wanted: Callable[[Compute], bool]) -> None:
        self._steps = [entry for entry in self._steps if wanted(entry[-1])]
        heapq.heapify(self._steps)
