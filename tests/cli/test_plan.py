"""`legion plan`, as a user types it, and what stands behind its tables and its picture."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from legion_iot.cli import plan_outcome, plan_picture, plan_tables
from legion_iot.cli.figures import seconds_text
from legion_iot.cli.plan_outcome import Outcome, percent_more
from legion_iot.model import tflite
from legion_iot.model.blocks import divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.graph import Graph
from legion_iot.planning.device_file import parse_device_file
from legion_iot.planning.problem import Objective
from legion_iot.planning.routing import ORCHESTRATOR, route
from tests.cli.schemas import check
from tests.runtime.networks import GRAPHS, NETWORKS

EXAMPLE = Path(__file__).parents[2] / "docs" / "group.toml"
GROUP = """
[[device]]
name = "pi"
count = 2
board = "pi-4"
speed = 0.05
overhead_ms = 0.1
link = { latency_ms = 0.2, up = "80 mbit", down = "80 mbit" }

[[device]]
name = "zero"
speed = 0.001
memory_mb = 100
link = { latency_ms = 5, up = "1 mbit", down = "1 mbit" }
"""


def legion(*arguments: object, columns: int = 80) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "legion_iot.cli", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)


def network() -> Graph:
    net = GraphBuilder("small", seed=1)
    x = net.input((1, 32, 32, 3))
    for channels in (8, 8, 16):
        x = net.conv2d(x, channels, 3, activation="relu")
    x = net.conv2d(net.max_pool(x, 2), 16, 3, activation="relu")
    return net.finish(net.softmax(net.fully_connected(net.global_mean(x), 5)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and a device file."""
    place = tmp_path_factory.mktemp("plan")
    tflite.write_file(network(), place / "small.tflite")
    (place / "group.toml").write_text(GROUP)
    return place / "small.tflite", place / "group.toml"


def test_a_plan_in_words(files: tuple[Path, Path]) -> None:
    model, group = files
    done = legion("plan", model, "--devices", group, "--explain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("small on 2 × pi-4, zero; planner auto (")
    for words in ("latency: ", "bound: no plan takes less than ", "alone: pi1 takes ", "left out: zero; with it: "):
        assert words in done.stdout
    for name in ("halo", "single", "frames", "layerwise", "deepthings", "aofl", "legion", "fss"):
        assert re.search(rf"^{name} +\d+ +\d+ +[\d.]+ m?s ", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_plan_for_programs(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, group = files
    picture = tmp_path / "plan.png"
    options = ("--planner", "halo", "--objective", "throughput", "--explain", "--json", "--picture", picture)
    done = legion("plan", model, "--devices", group, *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = check("plan", done.stdout)
    assert (found["schema"], found["model"], found["planner"], found["objective"]) == (1, "small", "halo", "throughput")
    assert found["plan"]["planner"] == "halo"
    assert 0 < found["bound_s"] <= found["interval_s"] <= found["latency_s"]
    assert found["gap"] == pytest.approx(found["interval_s"] / found["bound_s"] - 1)
    assert found["speed_up"] == pytest.approx(found["fastest_alone"]["seconds"] / found["interval_s"])
    assert [device["name"] for device in found["devices"]] == ["pi1", "pi2", "zero", ORCHESTRATOR]
    assert max(bar["end"] for bar in found["bars"]) == pytest.approx(found["latency_s"], abs=1e-3)
    assert set(found["explanation"]) == {"left_out", "cuts", "others"}
    assert picture.read_bytes().startswith(b"\x89PNG")


SLOW = GROUP.replace("80 mbit", "1 mbit").replace("overhead_ms = 0.1", "")


def test_a_plan_for_a_wire_dtype_is_another_one_and_says_what_it_does_to_the_outputs(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "slow.toml").write_text(SLOW)
    found = {}
    for wire in ("float32", "int8"):
        done = legion("plan", files[0], "--devices", tmp_path / "slow.toml", "--wire", wire, "--json")
        assert done.returncode == 0, done.stderr
        found[wire] = check("plan", done.stdout)
        assert found[wire]["wire"] == wire
    exact, quantised = found["float32"], found["int8"]
    assert (exact["wire_used"], exact["accuracy"]) == (False, None)
    assert quantised["wire_used"] is True
    assert quantised["latency_s"] < exact["latency_s"]
    tiles = [[len(block["tiles"]) for block in each["plan"]["blocks"]] for each in (exact, quantised)]
    assert tiles == [[1], [2]], "what float32 leaves to one device, int8 shares out"
    accuracy = quantised["accuracy"]
    assert accuracy["ok"] is True
    assert accuracy["exact"] is False
    assert 0 < accuracy["max_rel_error"] <= accuracy["bound"] == 0.1


def test_what_a_person_sees_of_a_wire_dtype(files: tuple[Path, Path]) -> None:
    done = legion("plan", *files[:1], "--devices", files[1], "--wire", "float16")
    assert "wire: float32 maps travel between agents as float16; the outputs differ by 0.0" in done.stdout
    alone = legion("plan", *files[:1], "--devices", files[1], "--wire", "float16", "--planner", "single")
    assert "wire: no map travels between agents as float16 in this plan" in alone.stdout


WRONG_OPTIONS = {
    "another planner": (("--planner", "hallo"), 2, "--planner is 'hallo'; did you mean 'halo'?"),
    "another objective": (("--objective", "speed"), 2, "give latency or throughput"),
    "another wire dtype": (("--wire", "int4"), 2, "give float32, float16 or int8"),
    "another kind of picture": (("--picture", "plan.jpg"), 2, "ends in .png"),
    "no place for the picture": (("--picture", "/nowhere/plan.png"), 3, "/nowhere"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_wrong_options_are_one_line(name: str, files: tuple[Path, Path]) -> None:
    options, code, words = WRONG_OPTIONS[name]
    _refused(legion("plan", files[0], "--devices", files[1], *options), code, words)


def test_a_group_that_cannot_be_reached_is_one_line(files: tuple[Path, Path]) -> None:
    _refused(legion("plan", files[0], "--broker", "mqtt://127.0.0.1:1"), 5, "nobody listens")


WRONG_FILES = {
    "unknown key": (GROUP.replace("overhead_ms", "overheads"), "unknown key 'overheads'; did you mean 'overhead_ms'?"),
    "missing link": (GROUP.replace("link = { latency_ms = 5", "lines = { latency_ms = 5"), "unknown key 'lines'"),
    "no link at all": ('[[device]]\nname = "a"\nspeed = 1', "device 1 (a): link is missing"),
    "no TOML": ("[[", "no TOML"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_device_files_are_one_line(name: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    content, words = WRONG_FILES[name]
    path = tmp_path / "wrong.toml"
    path.write_text(content)
    done = legion("plan", files[0], "--devices", path)
    _refused(done, 3, words)
    assert f"{path}: " in done.stderr


def test_missing_files_are_one_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    _refused(legion("plan", files[0], "--devices", tmp_path / "none.toml"), 3, "none.toml: cannot be read")
    _refused(legion("plan", tmp_path / "none.tflite", "--devices", files[1]), 3, "none.tflite: no such file")


def test_too_little_memory_is_one_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    net = GraphBuilder("large")
    tflite.write_file(net.finish(net.fully_connected(net.input((1, 1000)), 1000)), tmp_path / "large.tflite")
    path = tmp_path / "tiny.toml"
    path.write_text(GROUP.replace("overhead_ms = 0.1", "memory_mb = 1").replace("memory_mb = 100", "memory_mb = 1"))
    _refused(legion("plan", tmp_path / "large.tflite", "--devices", path), 7, "memory")


def _refused(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("· ")]
    assert len(lines) == 1
    assert lines[0].startswith("legion: ")
    assert words in lines[0]


# --- what stands behind it ---


def outcome(
    name: str, planner: str, objective: Objective = "latency", explain: bool = False, wire: str = "float32"
) -> Outcome:
    return plan_outcome.make(NETWORKS[name], name, parse_device_file(GROUP), planner, objective, wire, explain)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("planner", ["single", "frames", "layerwise", "deepthings", "halo"])
def test_all_that_is_computed_and_sent_is_in_the_table(name: str, planner: str) -> None:
    """Inputs leave the orchestrator, which has no column; everything else is some tile's, some hub's or the tail's."""
    found = outcome(name, planner)
    tiles = [tile for turn in found.turns for block in turn.blocks for tile in (*block.tiles, block.gathered) if tile]
    tiles += [turn.tail for turn in found.turns if turn.tail]
    bars = found.estimate.bars
    computed = sum(bar.end - bar.start for bar in bars if bar.kind == "compute")
    assert sum(tile.milliseconds for tile in tiles) == pytest.approx(1e3 * computed)
    sent = sum(bar.size for bar in bars if bar.kind == "send" and bar.participant != ORCHESTRATOR)
    assert sum(tile.bytes_sent for tile in tiles) == sent
    for number, turn in enumerate(found.turns):
        gathered = [work for work in route(found.network, found.plan).works if work.gathers and work.replica == number]
        assert [block.gathered.agent for block in turn.blocks if block.gathered] == [work.agent for work in gathered]


@pytest.mark.parametrize("planner", ["single", "frames", "deepthings", "halo"])
@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(planner: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    monkeypatch.setattr(plan_tables, "out", console)
    found = outcome("residual", planner, "throughput" if planner == "frames" else "latency", explain=True)
    plan_tables.show(found, None)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    for device in found.loads:
        if device.computing_s:
            assert any(line.startswith(f"{device.name} ") for line in lines)


def test_a_network_of_nothing_but_a_tail_is_planned(tmp_path: Path) -> None:
    tflite.write_file(GRAPHS["flat"](), tmp_path / "flat.tflite")
    (tmp_path / "group.toml").write_text(GROUP)
    done = legion("plan", tmp_path / "flat.tflite", "--devices", tmp_path / "group.toml", "--explain")
    assert done.returncode == 0, done.stderr
    assert "nothing of flat can be tiled" in done.stderr


@pytest.mark.parametrize("planner", ["frames", "halo"])
@pytest.mark.parametrize("name", ["chain", "flat"])
def test_every_plan_can_be_drawn(name: str, planner: str, tmp_path: Path) -> None:
    found = outcome(name, planner, "throughput" if planner == "frames" else "latency")
    plan_picture.draw(found, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_the_example_of_the_documentation_is_read() -> None:
    told = parse_device_file(EXAMPLE.read_text(encoding="utf-8"))
    assert told.group.names == ("pi1", "pi2", "pi3", "zero")


def test_a_plan_is_deterministic() -> None:
    graph = divide(network())
    told = parse_device_file(GROUP)
    first, second = (plan_outcome.make(graph, "small", told, "auto", "latency", "float32", True) for _ in range(2))
    ignored = ("network", "group")
    for field in dataclasses.fields(Outcome):
        if field.name not in ignored:
            assert getattr(first, field.name) == getattr(second, field.name)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00123, "1.2 ms"), (0.7026, "702.6 ms"), (1.337, "1.34 s"), (123.4, "123 s")]
)
def test_seconds_in_words(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(1.05, "+5.0%"), (0.9, "−10.0%"), (1.0001, "±0%"), (36.2, "36 ×")])
def test_more_in_words(seconds: float, text: str) -> None:
    assert percent_more(seconds, 1.0) == text
