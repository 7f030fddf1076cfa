"""The steps whose inputs are complete, in the order in which they are to be computed."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict

from legion_iot.runtime.agent_events import Compute

REMEMBERED = 1024  # requests whose age is known; one that is older than all of them counts as new


class ReadySteps:
    """Those of the request that began first come first, and of one request those that the plan puts first."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._began: OrderedDict[str, int] = OrderedDict()
        self._steps: list[tuple[int, int, int, Compute]] = []  # age, step, a number that is never the same, work

    def __len__(self) -> int:
        return len(self._steps)

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

    def forget(self, request: str) -> None:
        """The request has ended; its steps are not computed any more."""
        self._steps = [entry for entry in self._steps if entry[-1].request != request]
        heapq.heapify(self._steps)
