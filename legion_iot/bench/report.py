"""What every bench answers: figures, and the checks they have to meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One figure against its target; `target` says the comparison too, as in `<= 1.5`."""

    name: str
    value: float
    unit: str
    target: str
    ok: bool

    @classmethod
    def at_most(cls, name: str, value: float, unit: str, limit: float) -> Check:
        return cls(name, round(value, 4), unit, f"<= {limit:g}", value <= limit)

    @classmethod
    def at_least(cls, name: str, value: float, unit: str, limit: float) -> Check:
        return cls(name, round(value, 4), unit, f">= {limit:g}", value >= limit)

    @classmethod
    def within(cls, name: str, value: float, unit: str, low: float, high: float) -> Check:
        return cls(name, round(value, 4), unit, f"{low:g} to {high:g}", low <= value <= high)

    @classmethod
    def equal(cls, name: str, value: float, unit: str, wanted: float) -> Check:
        return cls(name, value, unit, f"= {wanted:g}", value == wanted)


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured: rows of figures by column name, and the checks on them."""

    name: str
    setting: dict[str, Any]
    rows: Sequence[dict[str, Any]]
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)
