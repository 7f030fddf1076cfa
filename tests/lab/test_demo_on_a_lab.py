"""`legion demo --lab`, and the self-test of a lab that is up."""

from __future__ import annotations

from pathlib import Path

import pytest

from legion_iot.bench import lab as bench
from tests.cli.schemas import check
from tests.system.conftest import Stage
from tests.system.conftest import photograph as photograph  # noqa: PLC0414 — a fixture of the system tests
from tests.system.networks import residual_classifier

from .test_labs import WAYS, made_in_the_kernel, status, traces

SPEC = """
[[device]]
name = "quick"
board = "pi-5"

[[device]]
name = "slow"
board = "toaster"
cpu_share = 0.2
link = { up_mbit = 30, down_mbit = 30, delay_ms = 2 }
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "pair.toml"
    path.write_text(SPEC)
    return path


def test_the_demo_is_exact_on_emulated_devices(stage: Stage, photograph: Path, spec: Path, tmp_path: Path) -> None:
    model = residual_classifier(tmp_path / "net.tflite")
    done = stage.run(
        "demo", "--json", "--image", str(photograph), "--model", str(model), "--lab", str(spec), "--requests", "2"
    )
    assert done.returncode == 0, done.stderr
    report = check("demo", done.stdout)
    assert report["exact"] is True
    assert {agent["name"]: agent["board"] for agent in report["agents"]} == {"quick": "pi-5", "slow": "toaster"}
    assert [device["cpu_share"] for device in report["lab"]["devices"]] == [0.4, 0.2]
    stage.wait_for_the_end()
    assert stage.left_behind() == []


def test_the_demo_says_what_the_devices_are(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    model = residual_classifier(tmp_path / "net.tflite")
    done = stage.run(
        "demo", "--image", str(photograph), "--model", str(model), "--lab", "legion-1f1o", "--requests", "1"
    )
    assert done.returncode == 0, done.stderr
    assert "f1: rk3399, 0.18 of a core" in done.stdout
    assert "o1: xu4, 0.14 of a core" in done.stdout
    assert "bit for bit" in done.stdout


def test_maps_leave_their_zeros_out_on_a_slow_link(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    spec = tmp_path / "far.toml"
    spec.write_text('[[device]]\nname = "p"\ncount = 2\nboard = "pi-5"\nlink = { up_mbit = 10, down_mbit = 10 }\n')
    model = residual_classifier(tmp_path / "net.tflite")
    done = stage.run(
        "demo", "--json", "--image", str(photograph), "--model", str(model), "--lab", str(spec), "--requests", "1",
        "--planner", "layerwise",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = check("demo", done.stdout)
    assert report["exact"] is True
    assert report["plan"]["planning"]["links"] == 3, "both devices' and the orchestrator's own"
    assert sorted(report["plan"]["packed"]) == [["p1", "p2"], ["p2", "p1"]]


@pytest.mark.parametrize("moment", ["starting 2 devices", "sending"])
def test_a_killed_demo_takes_its_lab_along(
    stage: Stage, photograph: Path, spec: Path, tmp_path: Path, moment: str
) -> None:
    model = residual_classifier(tmp_path / "net.tflite")
    program = stage.start(
        "legion", "demo", "--image", str(photograph), "--model", str(model), "--lab", str(spec), "--requests", "500"
    )
    program.wait_for_line(moment)
    (identity,) = [path.name for path in (stage.temporary / "legion-lab").iterdir()]
    program.process.kill()
    stage.wait_for_the_end()
    assert traces(stage) == []
    assert made_in_the_kernel(identity) == []


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--lab", "legion-9f"], "no lab is called 'legion-9f'"),
        (["--lab", "legion-2f", "--agents", "2"], "--agents and --lab"),
        (["--lab", "legion-2f", "--broker", "mqtt://127.0.0.1"], "--broker URL and --lab"),
    ],
)
def test_what_does_not_go_together(stage: Stage, arguments: list[str], cause: str) -> None:
    done = stage.run("demo", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("legion: ")
    assert done.stderr.count("\n") == 1
    assert cause in done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_the_self_test_of_a_lab_that_is_up(stage: Stage, spec: Path, way: str) -> None:
    assert stage.run("lab", "up", str(spec), *([way] if way else [])).returncode == 0
    report = bench.run(None, False, bench.Effort(1, 0.4), lambda text, fraction: None)
    assert (report.name, report.setting["lab"]) == ("lab", "pair")
    rows = {row["device"]: row for row in report.rows}
    # How close they come is for the bench to say, on a machine that does nothing else; here: that they are slow at all.
    assert 3 < rows["slow"]["slowdown"] < 10
    assert rows["quick"]["slowdown"] < rows["slow"]["slowdown"]
    assert 15 < rows["slow"]["up"] < 40
    assert 15 < rows["slow"]["down"] < 40
    assert 1 < rows["slow"]["delay_ms"] < 10
    tested = status(stage)["self_test"]
    assert tested["ok"] == report.ok
    assert "self-test at" in stage.run("lab", "status").stdout
