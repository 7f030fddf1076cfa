"""Which replica the next request goes through."""

from __future__ import annotations

import random

import pytest

from legion_iot.runtime.replicas import Replicas


def test_without_a_measurement_they_take_turns() -> None:
    replicas = Replicas(3)
    assert [replicas.choose() for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_each_is_tried_before_the_fastest_is_known() -> None:
    replicas = Replicas(3)
    for seconds, expected in ((0.1, 0), (0.3, 1), (0.2, 2)):
        assert replicas.choose() == expected
        replicas.measured(expected, 0, "ant", seconds)
        replicas.ended(expected)
    assert replicas.choose() == 0


def test_the_busiest_agent_counts() -> None:
    replicas = Replicas(2)
    for step, agent, seconds in ((0, "ant", 0.1), (1, "ant", 0.1), (0, "bee", 0.15), (2, "cat", 0.05)):
        replicas.measured(0, step, agent, seconds)
    assert replicas.seconds(0) == pytest.approx(0.2)
    assert replicas.seconds(1) == 0.0


def test_a_measurement_that_differs_is_followed() -> None:
    replicas = Replicas(1)
    replicas.measured(0, 0, "ant", 1.0)
    for _ in range(40):
        replicas.measured(0, 0, "ant", 3.0)
    assert replicas.seconds(0) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_requests_are_shared_out_by_speed(seed: int) -> None:
    """A closed loop of eight requests on three servers: each answers at nearly the rate it has when always busy."""
    draw, replicas = random.Random(seed), Replicas(3)
    seconds = [draw.uniform(0.5, 2.0) for _ in range(3)]
    for replica, each in enumerate(seconds):
        replicas.measured(replica, 0, "ant", each)
    free, served, leaving = [0.0] * 3, [0] * 3, list[tuple[float, int]]()
    now = 0.0
    for _ in range(2000):
        if len(leaving) == 8:
            now, ended = min(leaving)
            leaving.remove((now, ended))
            replicas.ended(ended)
        chosen = replicas.choose()
        free[chosen] = max(free[chosen], now) + seconds[chosen]
        served[chosen] += 1
        leaving.append((free[chosen], chosen))
    best = sum(1 / each for each in seconds)
    for replica in range(3):
        assert served[replica] / max(free) == pytest.approx(1 / seconds[replica], rel=0.05)
    assert sum(served) / max(free) == pytest.approx(best, rel=0.02)


def test_there_is_one_at_least() -> None:
    with pytest.raises(ValueError, match="0 replicas"):
        Replicas(0)
