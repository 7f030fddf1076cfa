"""Samples are kept, merged, written and read; nonsense is left out or clamped, and named."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import ProtocolError
from legion_iot.planning.samples import KEPT, LEAST_SECONDS, MOST_SECONDS, Sample, Samples, from_json

UNIT = Sample("pi4", ("a1",), (14.0,), 0.02, 0.001, 5)

texts = st.text("abcdef0123", min_size=1, max_size=4)
entries = st.integers(1, 3).flatmap(
    lambda n: st.builds(
        Sample,
        board=texts,
        units=st.tuples(*[texts] * n),
        rows=st.tuples(*[st.floats(0.5, 300).map(lambda row: round(row, 3))] * n),
        seconds=st.floats(1e-5, 100),
        deviation=st.just(0.0),
        runs=st.integers(1, 30),
    )
)


@given(st.lists(entries, max_size=20))
def test_json_brings_back_what_was_written(given_samples: list[Sample]) -> None:
    samples = Samples.of(given_samples)
    assert from_json(json.loads(json.dumps(samples.to_json(), allow_nan=False))) == samples


@given(st.lists(entries, max_size=12), st.lists(entries, max_size=12))
def test_merging_is_adding_what_is_not_there(one: list[Sample], other: list[Sample]) -> None:
    first, second = Samples.of(one), Samples.of(other)
    merged = first.merge(second)
    assert set(merged) == set(first) | set(second)
    assert merged.merge(second) == merged
    assert first.merge(Samples()) == first


def test_of_one_key_the_newest_are_kept_and_their_median_counts() -> None:
    times = [9.0, 8.0, 0.5, 0.1, 0.2, 0.3, 0.4]
    samples = Samples.of(dataclasses.replace(UNIT, seconds=seconds) for seconds in times)
    assert [sample.seconds for sample in samples] == times[-KEPT:]
    (median,) = samples.of_board("pi4")
    assert (median.seconds, median.runs) == (0.3, 5 * KEPT)
    assert samples.of_board("pi5") == ()


@given(st.lists(entries, max_size=12), st.sets(texts, max_size=3))
def test_what_is_forgotten_of_some_boards_leaves_the_others(one: list[Sample], boards: set[str]) -> None:
    left = Samples.of(one).without(boards)
    assert list(left) == [sample for sample in Samples.of(one) if sample.board not in boards]
    assert Samples.of(one).without(()) == Samples.of(one)


def test_what_is_known_is_found() -> None:
    samples = Samples.of([UNIT])
    assert samples.has_unit("pi4", "a1", 14)
    assert not samples.has_unit("pi4", "a1", 28)
    assert not samples.has_unit("pi5", "a1", 14)
    assert not samples.has_unit("pi4", "b2", 14)
    assert not Samples().has_unit("pi4", "a1", 14)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_times_that_are_no_positive_number_are_left_out_and_named(seconds: float) -> None:
    samples = Samples.of([UNIT, dataclasses.replace(UNIT, seconds=seconds)])
    assert list(samples) == [UNIT]
    assert list(samples.doubts) == ["pi4"]
    assert "left out" in samples.doubts["pi4"]


@pytest.mark.parametrize(("seconds", "taken"), [(1e-12, LEAST_SECONDS), (1e9, MOST_SECONDS)])
def test_absurd_times_are_clamped_and_named(seconds: float, taken: float) -> None:
    samples = Samples.of([dataclasses.replace(UNIT, seconds=seconds)])
    assert [sample.seconds for sample in samples] == [taken]
    assert f"{taken:g} s" in samples.doubts["pi4"]


@pytest.mark.parametrize("deviation", [math.nan, -1.0, math.inf, 7.0])
def test_an_absurd_deviation_makes_a_sample_weigh_little(deviation: float) -> None:
    (sample,) = Samples.of([dataclasses.replace(UNIT, deviation=deviation)])
    assert sample.deviation == sample.seconds


def test_doubts_survive_the_file_and_nonsense_in_it_is_treated_alike() -> None:
    content = Samples.of([UNIT, dataclasses.replace(UNIT, board="pi5", seconds=-1.0)]).to_json()
    assert isinstance(content["samples"], list)
    content["samples"].append(["pi6", ["a1"], [3], 0, 0.0, 1])
    read = from_json(json.loads(json.dumps(content)))
    assert list(read) == [UNIT]
    assert set(read.doubts) == {"pi5", "pi6"}


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"schema": 2, "samples": []},
        {"schema": 1},
        {"schema": 1, "samples": {}},
        {"schema": 1, "samples": [7]},
        {"schema": 1, "samples": [["pi4", ["a1"], [1.0], 0.1, 0.0]]},
        {"schema": 1, "samples": [["", ["a1"], [1.0], 0.1, 0.0, 1]]},
        {"schema": 1, "samples": [["pi4", [], [], 0.1, 0.0, 1]]},
        {"schema": 1, "samples": [["pi4", ["a1"], [1.0, 2.0], 0.1, 0.0, 1]]},
        {"schema": 1, "samples": [["pi4", ["a1", "a1"], [], 0.1, 0.0, 1]]},
        {"schema": 1, "samples": [["pi4", ["a1"], [math.nan], 0.1, 0.0, 1]]},
        {"schema": 1, "samples": [["pi4", ["a1"], [-1], 0.1, 0.0, 1]]},
        {"schema": 1, "samples": [["pi4", ["a1"], ["1"], 0.1, 0.0, 1]]},
        {"schema": 1, "samples": [["pi4", ["a1"], [1.0], "fast", 0.0, 1]]},
        {"schema": 1, "samples": [["pi4", ["a1"], [1.0], 10**400, 0.0, 1]]},
        {"schema": 1, "samples": [["pi4", ["a1"], [1.0], 0.1, 0.0, 0]]},
        {"schema": 1, "samples": [["pi4", ["a" * 257], [1.0], 0.1, 0.0, 1]]},
        {"schema": 1, "samples": [], "doubts": []},
        {"schema": 1, "samples": [], "doubts": {"pi4": 7}},
    ],
)
def test_other_forms_are_refused(content: object) -> None:
    with pytest.raises(ProtocolError):
        from_json(content)
