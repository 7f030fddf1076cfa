"""What was measured, kept so that a like board, or another network with the same layers, needs no new run.

A sample tells how long a board took for a run of units, each named by its signature, with the rows each of them
computed: one unit alone, or several fused in a block. The tail is a run of one signature without any rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from legion_iot.errors import ProtocolError

SCHEMA = 1
KEPT = 5  # samples of one key: the newest
MOST_KEYS = 20_000  # the oldest are dropped beyond it
MOST_UNITS = 4096  # of one sample
MOST_TEXT = 256  # characters of a board's name or a signature
# One tile takes a microsecond at least, on any device: that much is the call. More than this is not worth waiting for.
LEAST_SECONDS, MOST_SECONDS = 1e-6, 600.0
LEAST_ERROR = 0.01  # no device repeats itself more closely than that over a day

Key = tuple[str, tuple[str, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Sample:
    """`seconds` a board took for the fused `units` (signatures), each on so many `rows`.

    `seconds` is the median of `runs` runs, `deviation` the standard deviation of a single run around it.
    Rows are those of a unit's reference map, counted by arithmetic where its ops differ in height (`TileRows`).
    """

    board: str
    units: tuple[str, ...]
    rows: tuple[float, ...]
    seconds: float
    deviation: float = 0.0
    runs: int = 1

    @property
    def key(self) -> Key:
        """Samples of one key measure the same thing."""
        return self.board, self.units, tuple(round(row, 3) for row in self.rows)

    @property
    def error(self) -> float:
        """The relative standard deviation of `seconds`, as a median of so many runs."""
        return max(LEAST_ERROR, self.deviation / self.seconds / math.sqrt(self.runs))


@dataclass(frozen=True, slots=True)
class Samples:
    """An immutable set of samples, newest last, and what is doubtful about boards that reported nonsense (`doubts`).

    Times that are no positive number are left out; those no device can have needed are clamped. Both are marked.
    """

    by_key: Mapping[Key, tuple[Sample, ...]] = field(default_factory=lambda: MappingProxyType({}))
    doubts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Samples:
        """The set of these samples, the newest last."""
        return cls().add(samples)

    def __len__(self) -> int:
        return len(self.by_key)

    def __iter__(self) -> Iterator[Sample]:
        """Every sample that is kept, by key in order of first appearance, older ones of a key first."""
        return (sample for kept in self.by_key.values() for sample in kept)

    def add(self, samples: Iterable[Sample]) -> Samples:
        """With newer samples. Of each key the newest `KEPT` are kept."""
        by_key, doubts = dict(self.by_key), dict(self.doubts)
        for sample in samples:
            checked, doubt = _checked(sample)
            if doubt:
                doubts[sample.board] = doubt
            if checked is not None:
                by_key[checked.key] = (*by_key.pop(checked.key, ()), checked)[-KEPT:]
        kept = dict(list(by_key.items())[-MOST_KEYS:])
        return Samples(MappingProxyType(kept), MappingProxyType(doubts))

    def merge(self, newer: Samples) -> Samples:
        """With those of another set, which count as newer; what both have is there once."""
        merged = self.add(sample for sample in newer if sample not in self.by_key.get(sample.key, ()))
        return replace(merged, doubts=MappingProxyType({**merged.doubts, **newer.doubts}))

    def without(self, boards: Collection[str]) -> Samples:
        """Those of other boards, and what is doubtful about these."""
        by_key = {key: kept for key, kept in self.by_key.items() if key[0] not in boards}
        doubts = {board: doubt for board, doubt in self.doubts.items() if board not in boards}
        return Samples(MappingProxyType(by_key), MappingProxyType(doubts))

    def of_board(self, board: str) -> tuple[Sample, ...]:
        """One sample for each key of a board: the median of those kept."""
        return tuple(_median(kept) for key, kept in self.by_key.items() if key[0] == board)

    @property
    def boards(self) -> tuple[str, ...]:
        """Every board with a sample, in order of first appearance."""
        return tuple(dict.fromkeys(key[0] for key in self.by_key))

    def has_unit(self, board: str, signature: str, rows: float, tolerance: float = 0.01) -> bool:
        """Whether a unit alone was measured on a board, at so many rows or nearly so."""
        return any(
            key[0] == board and key[1] == (signature,) and key[2] and math.isclose(key[2][0], rows, rel_tol=tolerance)
            for key in self.by_key
        )

    def to_json(self) -> dict[str, object]:
        """A form for files and retained messages; `from_json` reads it."""
        samples = [
            [s.board, list(s.units), list(s.key[2]), s.seconds, s.deviation, s.runs] for s in self
        ]  # fmt: skip
        return {"schema": SCHEMA, "samples": samples, "doubts": dict(self.doubts)}


def from_json(content: Any) -> Samples:
    """Raises ProtocolError for another schema or a form that is not the one `to_json` gives.

    Nonsensical times are no error: they are left out or clamped, and their board is marked.
    """
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ProtocolError(f"samples are not of schema {SCHEMA}; they were written by another version of legion-iot")
    samples, doubts = content.get("samples"), content.get("doubts", {})
    if not isinstance(samples, list) or len(samples) > MOST_KEYS * KEPT or not isinstance(doubts, dict):
        raise ProtocolError("samples have no list, or one that is too long")
    if len(doubts) > MOST_KEYS or not all(_is_text(text) for pair in doubts.items() for text in pair):
        raise ProtocolError("the doubts about samples are not texts by board")
    read = Samples.of(_sample(entry) for entry in samples)
    return replace(read, doubts=MappingProxyType({**doubts, **read.doubts}))


def _sample(entry: Any) -> Sample:
    match entry:
        case [str() as board, [*units], [*rows], int() | float() as seconds, int() | float() as error, int() as runs]:
            texts = 0 < len(units) <= MOST_UNITS and all(_is_text(text) for text in (board, *units))
            counts = len(rows) == len(units) or (len(units) == 1 and not rows)  # a tail has none
            finite = all(not isinstance(time, int) or abs(time) < 1 << 53 for time in (seconds, error, runs))
            if texts and counts and all(_is_count(row) for row in rows) and finite and runs > 0:
                return Sample(board, tuple(units), tuple(map(float, rows)), float(seconds), float(error), runs)
    raise ProtocolError("a sample is not [board, [signatures], [rows], seconds, deviation, runs]")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_TEXT


def _is_count(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9


def _checked(sample: Sample) -> tuple[Sample | None, str]:
    """The sample as it may be used, if it may, and what is wrong with it."""
    if not sample.seconds > 0 or math.isinf(sample.seconds):
        return None, f"reported a time of {sample.seconds:g} s, which is left out"
    seconds = min(max(sample.seconds, LEAST_SECONDS), MOST_SECONDS)
    doubt = "" if seconds == sample.seconds else f"reported a time of {sample.seconds:g} s, taken as {seconds:g} s"
    # A deviation only weighs a sample; without a sensible one it weighs as a single run that was off by all of it.
    sane = 0 <= sample.deviation <= seconds
    return replace(sample, seconds=seconds, deviation=sample.deviation if sane else seconds), doubt


def _median(samples: tuple[Sample, ...]) -> Sample:
    """One sample in place of several of one key."""
    if len(samples) == 1:
        return samples[0]
    import statistics  # noqa: PLC0415 — what only shows samples starts at once

    return replace(
        samples[-1],
        seconds=statistics.median(s.seconds for s in samples),
        deviation=statistics.median(s.deviation for s in samples),
        runs=sum(s.runs for s in samples),
    )
