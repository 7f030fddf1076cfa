"""Strips divide every row among the agents, each by its speed to within one row."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from legion_iot.planning.strips import strips

SPEEDS = st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=9)


@given(st.integers(1, 5000), SPEEDS)
def test_strips_follow_each_other_over_all_rows(height: int, speeds: list[float]) -> None:
    result = strips(height, {f"agent-{n}": speed for n, speed in enumerate(speeds)})
    assert list(result) == [f"agent-{n}" for n in range(len(speeds))]
    end = 0
    for interval in result.values():
        assert interval.start == end
        assert interval.stop >= interval.start
        end = interval.stop
    assert end == height


@given(st.integers(1, 5000), SPEEDS)
def test_no_agent_is_off_its_share_by_more_than_a_row(height: int, speeds: list[float]) -> None:
    result = strips(height, {f"agent-{n}": speed for n, speed in enumerate(speeds)})
    total = sum(Fraction(speed) for speed in speeds)
    for interval, speed in zip(result.values(), speeds, strict=True):
        share = height * Fraction(speed) / total
        assert abs(len(interval) - share) <= 1 + Fraction(1, 10**9)


def test_equal_speeds_divide_evenly() -> None:
    assert [len(i) for i in strips(12, {"a": 2.0, "b": 2.0, "c": 2.0}).values()] == [4, 4, 4]


def test_proportions() -> None:
    assert [len(i) for i in strips(10, {"a": 1.0, "b": 3.0, "c": 1.0}).values()] == [2, 6, 2]


def test_more_agents_than_rows_leaves_some_without() -> None:
    lengths = [len(i) for i in strips(3, {f"a{n}": 1.0 for n in range(8)}).values()]
    assert sum(lengths) == 3
    assert set(lengths) == {0, 1}


def test_an_agent_far_too_slow_gets_nothing() -> None:
    assert len(strips(10, {"fast": 1e9, "slow": 1.0})["slow"]) == 0
