"""Timings that share a message: none is lost, none comes twice, and none is late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from legion_iot.runtime.timing_reports import HeldTimings
from legion_iot.wire.messages import TileTiming

WITHIN = 0.5


def timing(step: int, seconds: float = 0.1, request: str = "r") -> TileTiming:
    return TileTiming(7, request, step, seconds, 0)


def test_the_steps_of_a_request_are_reported_with_its_last_one() -> None:
    held = HeldTimings()
    for step in range(3):
        held.add(timing(step), WITHIN, True, 1.0)
    assert held.add(timing(0), WITHIN, False, 20.0) == ()
    assert held.before(7, 1, 20.0) == ()
    assert held.add(timing(1), WITHIN, False, 20.1) == ()
    assert held.add(timing(2), WITHIN, True, 20.2) == (timing(0), timing(1), timing(2))


def test_one_is_not_kept_back_while_a_long_step_is_computed() -> None:
    held = HeldTimings()
    assert held.add(timing(1, seconds=0.6), WITHIN, True, 0.0) == (timing(1, seconds=0.6),)
    assert held.add(timing(0), WITHIN, False, 1.0) == ()
    assert held.before(7, 1, 1.0) == (timing(0),)
    assert held.before(7, 1, 1.0) == ()


def test_an_orchestrator_that_does_not_ask_for_it_hears_of_each_at_once() -> None:
    held = HeldTimings()
    assert held.add(timing(0), 0.0, False, 1.0) == (timing(0),)
    assert held.add(timing(1), -1.0, False, 1.0) == (timing(1),)


PAUSES = st.one_of(st.just(0.0), st.floats(0.01, 0.4))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 1.0), PAUSES, st.sampled_from([0.0, WITHIN]), st.booleans()))
)
def test_each_is_reported_once_in_order_and_in_time(steps: list[tuple[int, float, float, float, bool]]) -> None:
    """Where steps take as long as before, and a tick comes with each pause."""
    held, now = HeldTimings(), 0.0
    done: list[tuple[TileTiming, float]] = []
    told: list[TileTiming] = []
    usual: dict[int, float] = {}

    def tell(timings: tuple[TileTiming, ...]) -> None:
        for each, allowed in zip(timings, [by for _, by in done[len(told) :]], strict=False):
            told.append(each)
            assert now <= allowed + 1e-9

    for number, (step, drawn, pause, within, is_last) in enumerate(steps):
        seconds = usual.setdefault(step, drawn)
        tell(held.before(7, step, now))
        now += seconds
        made = timing(step, seconds, f"r{number}")
        done.append((made, now + within))
        tell(held.add(made, within, is_last, now))
        if pause:
            tell(held.take())
            now += pause
    tell(held.take())
    assert told == [each for each, _ in done]
