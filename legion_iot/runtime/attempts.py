"""Attempts at a request: one that is begun again displaces what is left of the attempts before it."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

REMEMBERED = 1024  # requests whose newest attempt is known; an older request's fragments are fenced by their epoch


class Attempt(NamedTuple):
    """One attempt at a request; the first is number 1."""

    request: str
    number: int


class StepRun(NamedTuple):
    """One step of one epoch's plan, run for one attempt at a request."""

    epoch: int
    request: str
    attempt: int
    step: int


class Attempts:
    """The newest attempt at each request that one participant has heard of."""

    def __init__(self) -> None:
        self._newest: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._newest)

    def note(self, attempt: Attempt) -> bool:
        """Something of the attempt is here; whether it displaces an older one."""
        newest = self._newest.get(attempt.request)
        if newest is not None and attempt.number <= newest:
            return False
        self._newest[attempt.request] = attempt.number
        if len(self._newest) > REMEMBERED:
            self._newest.popitem(last=False)
        return newest is not None

    def newest(self, request: str) -> int:
        """The newest attempt at a request; 1 where nothing is known of it."""
        return self._newest.get(request, 1)
