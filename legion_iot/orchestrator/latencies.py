"""What is told of many latencies."""

from __future__ import annotations

from collections.abc import Sequence


def at_95_percent(ordered: Sequence[float]) -> float:
    """The one at 95 % of those in order, of which there is at least one: the nearest that was measured."""
    return ordered[round(0.95 * (len(ordered) - 1))]
