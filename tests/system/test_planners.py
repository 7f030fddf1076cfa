"""Every planner's plan on agents that are processes of their own: the whole model's bits, from whom the plan says."""

from __future__ import annotations

from pathlib import Path

import pytest

from legion_iot.lab.demonstration import DemoOptions, run_demo
from legion_iot.planning.planners import planners
from tests.planning.problems import case

from .networks import residual_classifier

# FLOP per second, so few that sharing pays.
SPEEDS = {"agent-1": 3e7, "agent-2": 1e7, "agent-3": 1e7}
REQUESTS = 6


@pytest.mark.parametrize("name", planners)
def test_a_plan_runs_exactly(name: str, photograph: Path, tmp_path: Path) -> None:
    report = run_demo(
        DemoOptions(
            residual_classifier(tmp_path / "small.tflite"), "small", photograph, requests=REQUESTS, broker="embedded",
            make_plan=lambda network, speeds: case(network, SPEEDS).plan(planners[name]),
        )
    )  # fmt: skip
    assert report.exact
    assert len(report.turns) == (3 if name == "frames" else 1)
    agents = {tile.agent for turn in report.turns for block in turn.blocks for tile in block.tiles}
    assert agents == ({"agent-1"} if name == "single" else set(SPEEDS))
