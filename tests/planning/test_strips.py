"""Strips divide every row among the agents, each by its speed to within one row, or by bisection in the least time."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import AgentError
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.strips import bisected_heights, strip_tiles, strips
from tests.runtime.networks import NETWORKS

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


@st.composite
def costs_of_rows(draw: st.DrawFn) -> tuple[npt.NDArray[np.float64], list[int]]:
    """What rows cost each of up to four devices, rising, in steps that may be flat; and caps that leave no row."""
    devices, height = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    steps = st.lists(st.sampled_from((0.0, 0.25, 1.0, 7.0)), min_size=height, max_size=height)
    seconds = np.array([np.cumsum([0.0, *draw(steps)]) for _ in range(devices)])
    caps = draw(st.lists(st.integers(0, height), min_size=devices, max_size=devices))
    return seconds, caps


@given(costs_of_rows())
def test_bisection_finds_the_least_time_of_all_divisions(
    given_costs: tuple[npt.NDArray[np.float64], list[int]],
) -> None:
    seconds, caps = given_costs
    devices, height = len(seconds), seconds.shape[1] - 1
    every = [rows for rows in itertools.product(*(range(cap + 1) for cap in caps)) if sum(rows) == height]
    if not every:
        with pytest.raises(AgentError, match="memory"):
            bisected_heights(seconds, caps)
        return
    heights = bisected_heights(seconds, caps)
    assert tuple(heights) in every
    least = min(max(seconds[d, rows[d]] for d in range(devices)) for rows in every)
    assert max(seconds[d, heights[d]] for d in range(devices)) == least


def test_a_device_that_does_harm_gets_no_row() -> None:
    """Two alike take 5 s for ten rows; a third one would need 6 s for its first."""
    alike = [float(row) for row in range(11)]
    heights = bisected_heights(np.array([alike, alike, [0.0, *(5.0 + row for row in range(1, 11))]]))
    assert heights.tolist() == [5, 5, 0]


def test_strips_become_tiles_but_for_empty_ones() -> None:
    network = NETWORKS["chain"]
    tiles = strip_tiles(network, 0, {"a": Interval(0, 4), "b": Interval(4, 4), "c": Interval(4, 13)})
    assert [(tile.agent, tile.region) for tile in tiles] == [
        ("a", Region(Interval(0, 4), Interval(0, 9))),
        ("c", Region(Interval(4, 13), Interval(0, 9))),
    ]
