"""`legion demo` on files as they are found: detectors, open sizes, and nothing to tile at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cli.schemas import check

from .conftest import Stage
from .networks import detector, open_sizes, without_trunk


def demo(stage: Stage, photograph: Path, *arguments: str) -> dict[str, Any]:
    done = stage.run("demo", "--json", "--image", str(photograph), "--requests", "1", "--agents", "2", *arguments)
    assert done.returncode == 0, done.stderr
    report = check("demo", done.stdout)
    assert report["exact"] is True
    return report


def test_a_detector_with_custom_post_processing(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    """The shapes of its outputs are known to the runtime only."""
    model = detector(tmp_path / "detector.tflite")
    report = demo(stage, photograph, "--model", str(model))
    assert report["plan"]["blocks"]
    assert report["plan"]["tail"]["bytes_sent"] == 4 * (10 * 4 + 10 + 10 + 1)  # boxes, classes, scores, count
    verified = stage.run("verify", str(model), "--json")
    assert check("verify", verified.stdout)["exact"] is True


def test_open_sizes_are_the_users_choice(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    model = open_sizes(tmp_path / "open.tflite")
    report = demo(stage, photograph, "--model", str(model), "--input-shape", "1x40x56x3")
    assert report["plan"]["blocks"][-1]["output_shape"] == [1, 20, 28, 4]
    refused = stage.run("demo", "--model", str(model), "--image", str(photograph))
    assert refused.returncode == 4
    assert "--input-shape" in refused.stderr.splitlines()[-1]


def test_what_cannot_be_tiled_runs_whole_and_says_why(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    model = without_trunk(tmp_path / "flat.tflite")
    report = demo(stage, photograph, "--model", str(model))
    assert report["plan"]["blocks"] == []
    assert report["plan"]["tail"]["agent"].startswith("agent-")
    assert report["trunk_ended_by"] == "RESHAPE is not spatially local"
    shown = stage.run("demo", "--model", str(model), "--image", str(photograph), "--requests", "1", "--agents", "1")
    assert "RESHAPE is not spatially local" in shown.stderr
