"""Devices that change their speed for good are told from those that are only restless."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.planning.samples import Sample, Samples
from legion_iot.runtime import drift
from legion_iot.runtime.drift import LEAST_CHANGE, Tempo


def told(tempo: Tempo, slowdown: float, seconds: float, start: float, draw: random.Random, noise: float = 0.1) -> float:
    """An agent of five unequal steps, four requests a second, so many times slower; returns when it ends."""
    now = start
    while now < start + seconds:
        for step in range(5):
            tempo.note(step, 0.01 * (step + 1) * slowdown * draw.lognormvariate(0, noise), now)
        now += 0.25
    return now


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slowdown", [0.5, 0.7, 1.5, 3.0])
def test_a_lasting_change_is_found_and_how_large_it_is(slowdown: float, seed: int) -> None:
    tempo, draw = Tempo(), random.Random(seed)
    now = told(tempo, 1.0, 30, 0.0, draw)
    assert tempo.change() is None
    told(tempo, slowdown, 60, now, draw)
    change = tempo.change()
    assert change is not None
    assert change == pytest.approx(slowdown, rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_short_spells_are_no_change(seed: int) -> None:
    tempo, draw = Tempo(), random.Random(seed)
    now = 0.0
    for _ in range(20):
        now = told(tempo, 1.0, 10, now, draw, noise=0.3)
        now = told(tempo, 3.0, 0.5, now, draw)
        now = told(tempo, 1.0, 5, now, draw, noise=0.3)
        assert tempo.change() is None


def test_nothing_is_said_of_an_agent_that_has_hardly_worked() -> None:
    tempo = Tempo()
    for now in range(drift.FIRST + drift.LEAST_RECENT):
        assert tempo.change() is None
        tempo.note(0, 1.0 if now < drift.FIRST else 9.0, float(now))
    tempo.note(0, 9.0, 100.0)
    assert tempo.change() == 9.0


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True)), st.integers(0, 3))
def test_nonsense_does_no_harm(times: list[float], step: int) -> None:
    tempo = Tempo()
    for now, seconds in enumerate(times):
        tempo.note(step, seconds, float(now))
    change = tempo.change()
    assert change is None or change > 0
    assert len(tempo.recent) <= drift.RECENT
    assert len(tempo.newest) <= drift.RECENT


@given(st.floats(1e-9, 1e9))
def test_there_are_few_classes_of_boards_that_have_changed(slowdown: float) -> None:
    kept = drift.rounded(slowdown)
    assert kept in {2 ** (n / 4) for n in range(-24, 25)}
    if 1 / 64 <= slowdown <= 64:
        assert max(kept / slowdown, slowdown / kept) < LEAST_CHANGE


def test_samples_of_a_changed_board_are_its_classs_times_slower() -> None:
    known = Samples.of([Sample("pi", ("a",), (4.0,), 0.5, 0.1, 3), Sample("other", ("a",), (4.0,), 9.0)])
    (sample,) = drift.scaled(known, "pi", 2.0)
    assert (sample.board, sample.seconds, sample.deviation, sample.runs) == (drift.class_of("pi", 2.0), 1.0, 0.2, 3)
    assert drift.class_of("pi", 1.0) == "pi"
    assert list(drift.lasting(known.merge(drift.scaled(known, "pi", 2.0)))) == list(known)


def test_pauses_between_changes_grow_to_an_hour() -> None:
    pauses = [drift.pause(changes) for changes in range(100)]
    assert pauses == sorted(pauses)
    assert pauses[0] == drift.PAUSE
    assert pauses[-1] == drift.MOST_PAUSE
