"""`legion bench fleet`'s smallest cells, with agents, broker and workers that are processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from legion_iot.bench.fleet.cells import OFFLOAD, Cell
from legion_iot.bench.fleet.experiment import WINDOWS, Laboratory, run_cells
from legion_iot.bench.fleet.groups import Calibration
from legion_iot.bench.fleet.subject import subject
from tests.system.conftest import Stage, wait_until
from tests.system.networks import residual_classifier

CELL = Cell("latency", "small", "2F", ("single", "layerwise", "halo", OFFLOAD), "float32", 100.0, 2)


def test_planners_and_a_worker_take_turns_on_one_lab(stage: Stage, tmp_path: Path) -> None:
    model = subject("small", residual_classifier(tmp_path / "small.tflite"))
    said: list[str] = []
    laboratory = Laboratory({"small": model}, Calibration("small", 1.0, 1e9, 0.3, 0.2), tmp_path, False, said.append)
    throughput = Cell("throughput", "small", "2F", (), "float32", 100.0, 1)
    latency, rates = (outcome for _, outcome in run_cells([CELL, throughput], laboratory))
    assert [each.planner for each in latency.figures] == ["single", "layerwise", "halo", OFFLOAD]
    assert latency.exact == latency.requests > 0
    turns = [each for each in latency.figures if not each.same_as]
    counted = sum(len(turn) for each in turns for turn in each.rounds)
    assert latency.requests == counted + 2 * 2 * len(turns), "two of each turn do not count"
    assert all(3 <= len(turn) <= 30 and min(turn) > 0 for each in latency.figures for turn in each.rounds)
    assert latency.bound > 0
    figures = {each.planner: each for each in latency.figures}
    assert (figures["single"].devices, figures["layerwise"].devices) == (1, 2)
    assert figures["single"].cost.runs > 0
    assert figures["layerwise"].predicted > 0
    for each in latency.figures[:3]:
        assert each.traced is not None
        assert each.expected is not None
        assert 0 < each.traced.seconds <= max(seconds for turn in each.rounds for seconds in turn) * (1 + 1e-6)
        assert each.traced.computing > 0
        assert each.expected.seconds == pytest.approx(each.predicted)
        assert [one.device for one in each.spent] == ["f1", "f2"]
        assert sum(one.processor for one in each.spent) > 0
    assert {rate.window for rate in rates.rates} == set(WINDOWS)
    assert all(rate.median > 0 for rate in rates.rates)
    assert rates.exact == rates.requests > 0
    assert sum("starting 2 devices" in text for text in said) == 1, "both cells ran on one lab"
    wait_until(lambda: not [name for name in stage.left_behind() if name != "legion-lab"])
