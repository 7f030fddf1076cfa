"""The profiler on parts whose times a clock of the test decides, and once on the real runtime."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import ModelError
from legion_iot.model import tflite
from legion_iot.model.blocks import divide
from legion_iot.model.geometry import Region
from legion_iot.model.signatures import tail_signature, unit_signatures
from legion_iot.planning.tile_rows import TileRows
from legion_iot.wire.messages import Command, ModelReference, PartTime, ProfilePart
from legion_iot.wire.tensors import bounds
from legion_iot_agent.engine import Array, Engine, Run
from legion_iot_agent.profiler import (
    LEAST_RUNS,
    MOST_COMMANDS,
    MOST_RUNS,
    Clocks,
    Profiled,
    Profiler,
    is_known,
    summary,
)
from tests.runtime.networks import GRAPHS, NETWORKS

REFERENCE = ModelReference("small", "ab" * 32, 1)
NETWORK = NETWORKS["residual"]
TAIL = ProfilePart()


def part(first: int, last: int) -> ProfilePart:
    whole = Region.whole(NETWORK.graph.tensors[NETWORK.units[last].reference])
    return ProfilePart((first, last), bounds(whole))


class Bench:
    """A device in virtual time: `times` are the seconds of each run, for ever; loading takes a second."""

    def __init__(
        self,
        directory: Path,
        times: Callable[[], Iterator[float]],
        quota: float | None = None,
        told: float | None = None,
    ) -> None:
        self.now, self.worked = 10.0, 3.0
        self._times = times
        self.loaded: list[Path] = []
        self.model = directory / "model.tflite"
        tflite.write_file(GRAPHS["residual"](), self.model)
        clocks = Clocks(lambda: self.now, lambda: self.worked, lambda: quota)
        self.profiler = Profiler(directory / "part", self._load, 1, told, clocks)

    def _load(self, path: Path, inputs: Sequence[Array]) -> Run:
        assert path.exists()
        self.loaded.append(path)
        self.now += 1.0
        times = self._times()

        def run(values: Sequence[Array]) -> list[Array]:
            assert [v.shape for v in values] == [i.shape for i in inputs]
            seconds = next(times)
            self.now += seconds
            self.worked += seconds
            return []

        return run

    def start(self, *parts: ProfilePart, seconds: float = 100.0, number: int = 7) -> None:
        self.profiler.start(self.model, Command("profile", REFERENCE, number, parts, seconds), "pi")

    def finish(self) -> tuple[Profiled, list[float]]:
        """Until the answer; and what each slice took."""
        slices = []
        while True:
            before = self.now
            profiled = self.profiler.turn()
            slices.append(self.now - before)
            if profiled is not None:
                return profiled, slices


def test_the_answer_is_in_the_order_of_the_parts(tmp_path: Path) -> None:
    seconds = iter([0.5, 0.1, 0.2])
    bench = Bench(tmp_path, lambda: repeat(next(seconds)))
    bench.start(TAIL, part(0, 0), part(0, 2))
    profiled, slices = bench.finish()
    assert profiled.measured.number == 7
    assert [time.seconds for time in profiled.measured.times] == pytest.approx([0.5, 0.1, 0.2])
    assert all(time.runs == LEAST_RUNS and time.deviation < 1e-9 for time in profiled.measured.times)
    assert max(slices) <= 1.0 + 1e-9  # never more than loading, or one run
    assert not bench.profiler.busy
    assert not (tmp_path / "part").exists()


def test_samples_have_the_signatures_and_rows_of_what_was_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda: repeat(0.25))
    bench.start(part(1, 2), TAIL)
    profiled, _ = bench.finish()
    block, tail = profiled.samples
    assert block.board == tail.board == "pi"
    network = divide(tflite.open_file(bench.model))
    assert block.units == unit_signatures(network)[1:3]
    tile_rows = TileRows(network)
    assert block.rows == tuple(tile_rows.of_tile(1, 2, tile_rows.whole(2)))
    assert (tail.units, tail.rows) == ((tail_signature(network),), ())
    assert block.seconds == tail.seconds == pytest.approx(0.25)


def test_no_part_is_begun_when_the_time_is_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda: repeat(0.3))
    bench.start(part(0, 0), part(1, 1), part(2, 2), seconds=2.5)  # a part is 1.9 s with loading
    assert len(bench.finish()[0].measured.times) == 2
    bench.start(part(0, 0), part(1, 1), seconds=0.0)
    assert len(bench.finish()[0].measured.times) == 1


def test_parts_there_are_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda: repeat(0.3))
    for wrong in (
        ProfilePart((0, 99), (0, 1, 0, 1)),
        ProfilePart((2, 1), (0, 1, 0, 1)),
        ProfilePart((0, 0), (0, 1, 0, 999)),
        ProfilePart((0, 0), (0, 0, 0, 1)),
        ProfilePart((0, 0), (5, 1, 0, 1)),
    ):
        bench.start(part(0, 0), wrong)
        measured = bench.finish()[0].measured
        assert measured.reason
        assert len(measured.times) == 1


def test_a_part_the_runtime_refuses_ends_the_command_with_its_reason(tmp_path: Path) -> None:
    def refuse() -> Iterator[float]:
        raise ModelError("no kernel for it")

    bench = Bench(tmp_path, refuse)
    bench.start(part(0, 0))
    assert bench.finish()[0].measured.reason == "no kernel for it"
    assert not bench.profiler.busy


def test_a_model_that_is_gone_is_a_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda: repeat(0.1))
    bench.model.unlink()
    bench.start(part(0, 0))
    assert bench.finish()[0].measured.reason


def test_commands_wait_in_a_bounded_queue(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda: repeat(0.1))
    for number in range(MOST_COMMANDS + 3):
        bench.start(TAIL, number=number)
    answered = []
    while bench.profiler.busy:
        answered.append(bench.finish()[0].measured.number)
    assert answered == list(range(3, MOST_COMMANDS + 3))
    bench.start(TAIL)
    bench.profiler.turn()
    bench.profiler.stop()
    assert not bench.profiler.busy
    assert bench.profiler.turn() is None


def test_under_a_quota_a_run_counts_with_its_processor_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda: repeat(0.01), quota=0.2)
    bench.start(TAIL)
    assert bench.finish()[0].measured.times[0].seconds == pytest.approx(0.05)


def test_a_quota_that_is_told_counts_before_one_that_is_found(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda: repeat(0.01), quota=0.5, told=0.2)
    bench.start(TAIL)
    assert bench.finish()[0].measured.times[0].seconds == pytest.approx(0.05)


def test_a_quota_of_all_that_a_thread_can_use_is_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda: repeat(0.01), quota=1.0)
    bench.start(TAIL)
    assert bench.finish()[0].measured.times[0].seconds == pytest.approx(0.01)


@given(st.lists(st.floats(1e-6, 1e-2), min_size=1, max_size=MOST_RUNS))
def test_when_a_part_is_known(seconds: list[float]) -> None:
    time = summary(seconds)
    assert time.seconds == statistics.median(seconds)
    assert time.runs == len(seconds)
    assert is_known([time.seconds] * LEAST_RUNS)
    assert not is_known([time.seconds] * (LEAST_RUNS - 1))
    assert is_known(seconds * MOST_RUNS)


def test_runs_that_differ_go_on_and_long_ones_do_not() -> None:
    assert not is_known([1.0e-3, 1.5e-3, 0.7e-3, 1.2e-3])
    assert is_known([5.0])
    assert not is_known([])
    assert summary([1.0, 1.0, 50.0]) == PartTime(1.0, 0.0, 3)


def test_on_the_real_runtime(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert.interpreter")
    model = tmp_path / "model.tflite"
    tflite.write_file(GRAPHS["residual"](), model)
    profiler = Profiler(tmp_path / "part", Engine().load)
    everything = tuple(part(i, j) for j in range(len(NETWORK.units)) for i in range(j + 1))
    profiler.start(model, Command("profile", REFERENCE, 1, (*everything, TAIL), 60.0), "pc")
    profiled = None
    while profiled is None:
        profiled = profiler.turn()
    assert profiled.measured.reason == ""
    assert len(profiled.measured.times) == len(everything) + 1
    assert all(1e-7 < time.seconds < 1.0 for time in profiled.measured.times)
