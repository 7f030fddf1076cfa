"""Devices that get slower or faster for good, found out from the times of the steps that they report.

Theory. Every step of a plan does the same work for each request, so what it took at first is what it is compared with;
no prediction is needed. The ratio of the two is noisy, since a device does other things, too. A change counts when the
older and the newer half of what was reported lately both show it, in the median, and that for some time. The device is
then taken for a class of board of its own: the old one's samples, with all times multiplied. After each change it is
longer until the next one is believed, so that a device which is now fast and now slow does not make the group restless.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field, replace

from legion_iot.planning.samples import Sample, Samples

FIRST = 8  # runs of a step, the median of which is what later ones are compared with
RECENT = 64  # ratios that are looked at,
LEAST_RECENT = 32
LEAST_SECONDS = 20.0  # from the oldest to the newest of them,
APART = 0.5  # seconds: those of steps that follow each other faster count as one, their median
LEAST_CHANGE = 1.3  # times slower, or faster, that a plan is worth being made anew for
PAUSE = 60.0  # seconds between two changes of a device; twice as long after each, up to
MOST_PAUSE = 3600.0
_MARK = ", of late ×"
_STEPS = 4  # of a doubling: changes are rounded, so that there are few classes


@dataclass(slots=True)
class Tempo:
    """How long one agent takes for the steps of one epoch."""

    first: dict[int, list[float]] = field(default_factory=dict)  # seconds of the first runs, by step
    usual: dict[int, float] = field(default_factory=dict)
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))  # when, and the ratio
    newest: list[float] = field(default_factory=list)  # ratios
    newest_since: float = 0.0

    def note(self, step: int, seconds: float, now: float) -> None:
        """A step has taken so long."""
        if seconds <= 0 or not math.isfinite(seconds):
            return
        if step in self.usual:
            self._note_ratio(seconds / self.usual[step], now)
            return
        runs = self.first.setdefault(step, [])
        runs.append(seconds)
        if len(runs) == FIRST:
            self.usual[step] = statistics.median(self.first.pop(step))

    def _note_ratio(self, ratio: float, now: float) -> None:
        if self.newest and now - self.newest_since >= APART:
            self.recent.append((self.newest_since, statistics.median(self.newest)))
            self.newest.clear()
        if not self.newest:
            self.newest_since = now
        if len(self.newest) < RECENT:
            self.newest.append(ratio)

    def change(self) -> float | None:
        """How many times longer steps take for good than at first; None where that is not so, or not known."""
        if len(self.recent) < LEAST_RECENT or self.recent[-1][0] - self.recent[0][0] < LEAST_SECONDS:
            return None
        ratios = [ratio for _, ratio in self.recent]
        half = len(ratios) // 2
        older, newer = statistics.median(ratios[:half]), statistics.median(ratios[half:])
        if min(older, newer) < LEAST_CHANGE and max(older, newer) > 1 / LEAST_CHANGE:
            return None
        return statistics.median(ratios)


def rounded(slowdown: float) -> float:
    """One of few values near it; 1 where it is near 1."""
    steps = round(_STEPS * math.log2(min(max(slowdown, 1 / 64), 64.0)))
    return float(2 ** (steps / _STEPS))


def pause(changes: int) -> float:
    """Seconds until the next change of a device counts, after so many."""
    return min(PAUSE * 2.0 ** min(changes, 16), MOST_PAUSE)


def class_of(board: str, slowdown: float) -> str:
    """The class of a board that has become so many times slower than its own."""
    return board if slowdown == 1 else f"{board}{_MARK}{slowdown:.3g}"


def own_class(board: str) -> str:
    """The class that a board was of before it changed."""
    return board.partition(_MARK)[0]


def lasting(samples: Samples) -> Samples:
    """Those of classes that do not change."""
    return Samples.of(sample for sample in samples if _MARK not in sample.board)


def scaled(samples: Samples, board: str, slowdown: float) -> Samples:
    """What is known of a class, as samples of the class that is so many times slower."""
    name = class_of(board, slowdown)
    return Samples.of(_scaled(sample, name, slowdown) for sample in samples if sample.board == board)


def _scaled(sample: Sample, name: str, slowdown: float) -> Sample:
    return replace(sample, board=name, seconds=sample.seconds * slowdown, deviation=sample.deviation * slowdown)
