"""A trace keeps what was recorded, is recorded once, and answers for tiles that were not recorded."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.bench.planner.measure import outputs
from legion_iot.bench.planner.record import record
from legion_iot.bench.planner.trace import KINDS, Kind, KindRecord, Sample, Trace, load, save
from legion_iot.bench.planner.truth import Curve, Origin, Truth, typical_excess
from legion_iot.errors import InputError
from legion_iot.model.blocks import Network, divide
from legion_iot.model.cut import tile_flops
from legion_iot.model.geometry import Interval, Region
from tests.bench.recorded import made_up_record, quiet, small

times = st.lists(st.integers(1, 10**7), min_size=1, max_size=5).map(tuple)
samples = st.builds(Sample, st.integers(0, 50), st.integers(51, 99), times)
blocks = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(5, 9)), st.lists(samples, min_size=1, max_size=3), max_size=4
)
records = st.builds(KindRecord, times, st.just(()) | times, blocks)
traces = st.builds(
    Trace,
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=3), records, max_size=2), max_size=2),
)


@settings(deadline=None)
@given(traces)
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace.json.gz"
    save(trace, path)
    assert load(path) == trace


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"nothing of the kind", "cannot be read"),
        (gzip.compress(b"[]"), "is no trace"),
        (gzip.compress(b'{"schema": 1, "origin": {}}'), "is no trace"),
        (gzip.compress(b'{"schema": 7, "origin": {}, "networks": {}}'), "schema 7"),
        (gzip.compress(json.dumps({"schema": 1, "origin": {}, "networks": {"n": {"F": {
            "whole": [1], "tail": [], "blocks": {"0-0": [[0, 4, 0]]}}}}}).encode()), "is no trace"),
    ],
    # Named, since what is packed has the time in it, and workers must agree on names.
    ids=["not packed", "a list", "no networks", "a newer schema", "times cut short"],
)  # fmt: skip
def test_another_file_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "trace.json.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=cause):
        load(path)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "absent")


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Network, Trace]:
    path = tmp_path / "trace.json.gz"
    trace = record(path, quiet, {"small": partial(small, "small", 0)})
    return path, divide(small("small", 0)), trace


def test_every_block_is_recorded_on_every_kind(recorded: tuple[Path, Network, Trace]) -> None:
    path, network, trace = recorded
    assert load(path) == trace
    units = len(network.units)
    for kind in KINDS:
        measured = trace.networks["small"][kind.name]
        assert len(measured.blocks) == units * (units + 1) // 2
        assert all(found for found in measured.blocks.values())
        for unit in range(units):
            heights = {sample.stop - sample.start for sample in measured.blocks[unit, unit]}
            assert len(heights) >= 3
            assert len(Region.whole(network.graph.tensors[network.units[unit].reference]).rows) in heights
        assert min(measured.whole) > 0
        assert min(measured.tail) > 0


def test_recording_again_adds_runs_to_units_and_to_what_strays(recorded: tuple[Path, Network, Trace]) -> None:
    path, _, trace = recorded
    slowed, *others = trace.networks["small"]["F"].blocks[0, 1]
    trace.networks["small"]["F"].blocks[0, 1] = [replace(slowed, runs=(10**7,)), *others]
    save(trace, path)
    again = record(path, quiet, {"small": partial(small, "small", 0)})
    assert load(path) == again
    for kind in KINDS:
        before, after = trace.networks["small"][kind.name].blocks, again.networks["small"][kind.name].blocks
        assert list(before) == list(after)
        for (first, last), found in after.items():
            for old, new in zip(before[first, last], found, strict=True):
                assert (new.start, new.stop) == (old.start, old.stop)
                assert new.runs[: len(old.runs)] == old.runs
                assert len(new.runs) > len(old.runs) or first < last
    assert min(again.networks["small"]["F"].blocks[0, 1][0].runs) < 10**6


def test_equal_tiles_of_another_network_are_not_run_again(recorded: tuple[Path, Network, Trace]) -> None:
    path, _, _ = recorded
    both = {name: partial(small, name, seed) for seed, name in enumerate(("small", "like"))}
    trace = record(path, quiet, both)
    shared = total = 0
    for kind in KINDS:
        for block, found in trace.networks["like"][kind.name].blocks.items():
            before = {(s.start, s.stop): s.runs for s in trace.networks["small"][kind.name].blocks[block]}
            # Strips follow the whole networks' times, which differ a little from run to run.
            like = [sample for sample in found if (sample.start, sample.stop) in before]
            assert all(before[sample.start, sample.stop] == sample.runs for sample in like)
            shared, total = shared + len(like), total + len(found)
    assert shared > total / 2


def test_a_recorded_tile_takes_what_was_recorded(recorded: tuple[Path, Network, Trace]) -> None:
    _, network, trace = recorded
    kind = KINDS[1]
    measured = trace.networks["small"][kind.name]
    truth, scale = Truth(network, measured, kind), typical_excess(measured) / kind.cpu_share
    for (first, last), found in measured.blocks.items():
        columns = Region.whole(network.graph.tensors[network.units[last].reference]).columns
        flops = [
            tile_flops(
                network, network.block_ops(first, last), outputs(network, first, last, Interval(s.start, s.stop))
            )
            for s in found
        ]
        assert len(set(flops)) == len(flops)
        for sample in found:
            seconds, origin = truth.tile(first, last, Region(Interval(sample.start, sample.stop), columns))
            assert origin is Origin.RECORDED
            assert seconds == pytest.approx(min(sample.runs) / 1e6 * scale)


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 23), st.integers(1, 24))
def test_tiles_between_recorded_ones_follow_their_units(first: int, last: int, start: int, height: int) -> None:
    network = divide(small("small", 0, convolutions=3))
    first, last = min(first, last), max(first, last)
    whole = Region.whole(network.graph.tensors[network.units[last].reference])
    start = min(start, len(whole.rows) - 1)
    rows = Interval(start, min(len(whole.rows), start + height))
    kind = Kind("F", "made up", True, 1.0)
    measured = made_up_record(network, 3e-3, 2e-6)
    seconds, _ = Truth(network, measured, kind).tile(first, last, Region(rows, whole.columns))
    flops = tile_flops(network, network.block_ops(first, last), outputs(network, first, last, rows))
    assert seconds == pytest.approx(3e-3 * (last - first + 1) + 2e-6 * flops, rel=1e-3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=6), st.floats(0, 120))
def test_curves_stay_within_their_points(points: list[tuple[int, int]], x: float) -> None:
    curve = Curve.through([(float(a), float(b)) for a, b in points])
    assert min(curve.y) - 1e-9 <= curve.held(x) <= max(curve.y) + 1e-9
    for a, b in zip(curve.x, curve.y, strict=True):
        assert curve.held(a) == curve.extended(a) == b
    assert curve.extended(x) >= 0
