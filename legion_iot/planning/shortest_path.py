"""Where to cut the trunk: a shortest path over the cut points, exact in O(N²) once the blocks' costs are there."""

from __future__ import annotations

import math
from collections.abc import Sequence

Division = tuple[tuple[int, int], ...]  # (first, last) unit of each block, in order


def best_division(costs: Sequence[Sequence[float]]) -> Division:
    """The blocks of least total cost; `costs[first][last]` in any unit, infinite for a block that cannot be.

    The first of several that cost the same, in the order of where their last block begins. Empty without a unit.
    """
    count = len(costs)
    best, origin = [0.0] + [math.inf] * count, [0] * (count + 1)
    for end in range(1, count + 1):
        for first in range(end):
            cost = best[first] + costs[first][end - 1]
            if cost < best[end]:
                best[end], origin[end] = cost, first
    blocks: list[tuple[int, int]] = []
    end = count
    while end:
        blocks.append((origin[end], end - 1))
        end = origin[end]
    return tuple(reversed(blocks))


def division_cost(costs: Sequence[Sequence[float]], division: Division) -> float:
    """The total cost of some blocks."""
    return sum(costs[first][last] for first, last in division)
