"""The agent's own throttle, on clocks that do as they are told."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import UsageError
from legion_iot_agent.throttle import LEARNING_RUNS, MOST_CREDIT, Throttle


class Machine:
    """A processor and a wall clock; `late` is by how much every sleep is too long."""

    def __init__(self, late: float = 0.0) -> None:
        self.now = 100.0
        self.used = 5.0
        self.late = late
        self.slept = 0.0

    def compute(self, seconds: float, waiting: float = 0.0) -> None:
        self.used += seconds
        self.now += seconds + waiting

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept += seconds
        self.now += seconds + self.late

    def throttle(self, share: float) -> Throttle:
        return Throttle(share, clock=lambda: self.now, processor=lambda: self.used, sleep=self.sleep)


@given(st.floats(0.05, 1), st.floats(1e-4, 1))
def test_work_takes_as_long_as_on_the_slower_device(share: float, seconds: float) -> None:
    machine = Machine()
    work = machine.throttle(share).learn(lambda: machine.compute(seconds))
    assert machine.now == pytest.approx(100 + LEARNING_RUNS * seconds)
    for _ in range(3):
        before = machine.now
        assert work.stretch(lambda: machine.compute(seconds) or "done") == "done"
        assert machine.now - before == pytest.approx(seconds / share)


def test_cold_caches_are_not_the_devices() -> None:
    machine = Machine()
    work = machine.throttle(0.1).learn(lambda: machine.compute(0.010))
    before = machine.now
    work.stretch(lambda: machine.compute(0.013))
    assert machine.now - before == pytest.approx(0.1)


def test_time_given_to_others_counts_as_sleep() -> None:
    machine = Machine()
    work = machine.throttle(0.1).learn(lambda: machine.compute(0.010))
    before = machine.now
    work.stretch(lambda: machine.compute(0.010, waiting=0.050))
    assert machine.now - before == pytest.approx(0.1)
    assert machine.slept == pytest.approx(0.040)


def test_oversleeping_is_made_good() -> None:
    machine = Machine(late=0.001)
    work = machine.throttle(0.5).learn(lambda: machine.compute(0.010))
    before = machine.now
    for _ in range(100):
        work.stretch(lambda: machine.compute(0.010))
    assert machine.now - before == pytest.approx(100 * 0.020, abs=0.002)


def test_a_long_stall_is_not_made_good() -> None:
    machine = Machine()
    work = machine.throttle(0.5).learn(lambda: machine.compute(0.010))
    work.stretch(lambda: machine.compute(0.010, waiting=3.0))
    before = machine.now
    for _ in range(10):
        work.stretch(lambda: machine.compute(0.010))
    assert machine.now - before == pytest.approx(10 * 0.020 - MOST_CREDIT)


def test_a_whole_core_is_not_slowed() -> None:
    machine = Machine()
    work = machine.throttle(1.0).learn(lambda: machine.compute(0.010))
    work.stretch(lambda: machine.compute(0.010))
    assert machine.slept == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, -0.1, math.nan, math.inf])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(UsageError, match="--cpu-share"):
        Throttle(share)


def test_on_the_real_clocks() -> None:
    def spin() -> None:
        end = time.thread_time() + 0.005
        while time.thread_time() < end:
            pass

    work = Throttle(0.1).learn(spin)
    for _ in range(5):  # a busy machine adds to some
        start = time.perf_counter()
        for _ in range(10):
            work.stretch(spin)
        taken = time.perf_counter() - start
        assert taken > 0.45
        if taken < 1.5:
            return
    raise AssertionError(taken)
