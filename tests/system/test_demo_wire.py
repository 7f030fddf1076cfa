"""`legion demo --wire`: fewer bytes between agents, and an honest word about what that does to the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.schemas import check

from .conftest import Stage
from .networks import residual_classifier


def sent(report: dict[str, Any]) -> int:
    """Bytes between agents; the tail's go to the orchestrator."""
    return sum(tile["bytes_sent"] for block in report["plan"]["blocks"] for tile in block["tiles"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return residual_classifier(tmp_path_factory.mktemp("models") / "small.tflite")


@pytest.mark.parametrize(("wire", "bound"), [("float16", 0.01), ("int8", 0.1)])
def test_a_float_network_in_fewer_bytes(stage: Stage, photograph: Path, model: Path, wire: str, bound: float) -> None:
    done = stage.run(
        "demo", "--json", "--model", str(model), "--image", str(photograph), "--requests", "2", "--wire", wire
    )
    assert done.returncode == 0, done.stderr
    report = check("demo", done.stdout)
    assert report["plan"]["wire"] == wire
    assert report["plan"]["wire_used"] is True
    assert report["ok"] is True
    assert report["exact"] is False
    assert 0 < report["max_rel_error"] <= report["bound"] == bound
    assert report["top_class_stays"] is True
    assert sent(report) > 0


def test_what_a_person_sees(stage: Stage, photograph: Path, model: Path) -> None:
    done = stage.run("demo", "--model", str(model), "--image", str(photograph), "--requests", "1", "--wire", "int8")
    assert done.returncode == 0, done.stderr
    assert "float32 maps travel between agents as int8" in done.stdout
    assert "allowed with int8: 10 %" in done.stdout
    assert "the best class stays" in done.stdout


def test_one_agent_sends_itself_nothing(stage: Stage, photograph: Path, model: Path) -> None:
    done = stage.run(
        "demo", "--json", "--model", str(model), "--image", str(photograph), "--requests", "1", "--agents", "1",
        "--wire", "int8",
    )  # fmt: skip
    report = check("demo", done.stdout)
    assert (report["ok"], report["exact"], report["plan"]["wire_used"]) == (True, True, False)


def test_nothing_is_packed_on_this_machine(stage: Stage, photograph: Path, model: Path) -> None:
    done = stage.run(
        "demo", "--json", "--model", str(model), "--image", str(photograph), "--requests", "1", "--agents", "2",
        "--planner", "layerwise",
    )  # fmt: skip
    report = check("demo", done.stdout)
    assert report["exact"] is True
    assert report["plan"]["planning"]["links"] == 3, "else there was nothing to decide by"
    assert report["plan"]["packed"] == []


def test_a_wire_dtype_that_there_is_not(stage: Stage) -> None:
    for command in ("demo", "verify", "orchestrator"):
        arguments = {"demo": (), "verify": ("hed",), "orchestrator": ("run", "hed")}[command]
        done = stage.run(command, *arguments, "--wire", "bfloat16")
        assert done.returncode == 2
        (said,) = done.stderr.splitlines()
        assert said.startswith("legion: --wire")
        assert all(name in said for name in ("bfloat16", "float32", "float16", "int8"))
