"""What an operator asks of a group that runs: where a request's time went, what was measured, and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.schemas import check

from .conftest import wait_until
from .served import Served, serve


@pytest.fixture(scope="module")
def served(cache: Path) -> Iterator[Served]:
    with serve(cache, "efficientnet-lite0") as group:
        yield group


def test_a_request_is_traced_from_its_arrival_to_its_answer(served: Served, tmp_path: Path) -> None:
    stage, at = served.stage, ("--broker", served.url)
    picture, file = tmp_path / "grey.png", tmp_path / "trace.json"
    Image.new("RGB", (64, 64), "grey").save(picture)
    traced: dict[str, Any] = {}

    def is_whole() -> bool:
        """Reports of timings may come after the answer, or not at all."""
        asked = stage.run("infer", "efficientnet-lite0", str(picture), *at, "--json")
        assert asked.returncode == 0, asked.stderr
        done = stage.run("trace", *at, "--json", "--out", str(file))
        assert done.returncode == 0, done.stderr
        traced.update(check("trace", done.stdout))
        return not traced["missing"]

    wait_until(is_whole)
    assert traced["ok"]
    assert {tile["agent"] for tile in traced["tiles"]} <= {"left", "right"}
    assert -0.01 <= traced["latency_ms"] - traced["covered_ms"] <= traced["latency_ms"]
    assert sum(share["ms"] for share in traced["path"]) == pytest.approx(traced["latency_ms"], abs=0.01)
    assert json.loads(file.read_text())["otherData"]["requests"] == 1
    shown = stage.run("trace", traced["request"], *at)
    assert shown.returncode == 0, shown.stderr
    assert f"request {traced['request']} of efficientnet-lite0: answered" in shown.stdout
    unknown = stage.run("trace", "nobody-1", *at)
    assert (unknown.returncode, unknown.stdout) == (8, "")
    assert traced["request"] in unknown.stderr, "the range that is kept"


def test_devices_are_measured_again_while_the_group_serves(served: Served) -> None:
    stage, at = served.stage, ("--broker", served.url)
    done = stage.run("profile", "--again", *at, "--json")
    assert done.returncode == 0, done.stderr
    devices = check("profile", done.stdout)["devices"]
    assert [device["agent"] for device in devices] == ["left", "right"]
    assert all(device["link"] and device["measured"] for device in devices)
    assert {device["of_class"] for device in devices} == {2}, "the trunk and the tail, for one class of board"
    assert [each["model"] for each in devices[0]["alone"]] == ["efficientnet-lite0"]


def test_nothing_is_wrong_with_it(served: Served) -> None:
    stage = served.stage
    done = stage.run("doctor", "--broker", served.url, "--json")
    assert done.returncode == 0, done.stdout
    told = check("doctor", done.stdout)
    assert told["ok"]
    assert {("agents", "ok"), ("versions", "ok")} <= {(each["check"], each["level"]) for each in told["findings"]}
    assert {each["about"] for each in told["findings"]} == {"machine", "broker", "group"}
