"""The shortest path is the best of all divisions."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from legion_iot.planning.shortest_path import best_division, division_cost
from tests.planning.test_balanced import divisions

COSTS = st.integers(1, 7).flatmap(
    lambda count: st.lists(
        st.lists(st.floats(0, 1e6), min_size=count, max_size=count), min_size=count, max_size=count
    )
)  # fmt: skip


@given(COSTS)
def test_no_division_costs_less(costs: list[list[float]]) -> None:
    best = best_division(costs)
    assert list(best) in list(divisions(len(costs)))
    least = min(division_cost(costs, tuple(division)) for division in divisions(len(costs)))
    assert math.isclose(division_cost(costs, best), least, rel_tol=1e-12)


def test_blocks_that_cannot_be_are_not_taken() -> None:
    infinite = math.inf
    assert best_division([[1.0, infinite], [infinite, 1.0]]) == ((0, 0), (1, 1))
    assert best_division([[infinite, 5.0], [infinite, 1.0]]) == ((0, 1),)


def test_without_units_there_are_no_blocks() -> None:
    assert best_division([]) == ()
