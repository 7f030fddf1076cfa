"""`legion demo`, as a user runs it: real processes, a real broker, an exact answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from PIL import Image

from legion_iot_broker.mosquitto import MosquittoProcess
from tests.cli.schemas import check

from .conftest import Stage, require_mosquitto, wait_until
from .networks import picture_to_picture, residual_classifier

FIELDS = {
    "ok", "model", "image", "agents", "plan", "answer", "exact", "max_abs_error", "max_rel_error", "latency_ms",
    "single_device_ms",
}  # fmt: skip


@pytest.fixture
def mosquitto() -> Iterator[str]:
    """The URL of a real Mosquitto that the demo has not started."""
    require_mosquitto()
    with MosquittoProcess() as process:
        yield str(process.address)


def demo(stage: Stage, photograph: Path, *arguments: str) -> dict[str, Any]:
    """The report of `legion demo --json`, after what holds for every one of them."""
    done = stage.run("demo", "--json", "--image", str(photograph), "--requests", "2", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = check("demo", done.stdout)
    assert set(report) >= FIELDS
    assert report["ok"] is True
    assert report["exact"] is True
    assert (report["max_abs_error"], report["max_rel_error"]) == (0.0, 0.0)
    assert 0 < report["latency_ms"]["min"] <= report["latency_ms"]["median"] <= report["latency_ms"]["max"]
    assert report["single_device_ms"] > 0
    stage.wait_for_the_end()
    assert stage.left_behind() == []
    return report


def with_work(report: dict[str, Any]) -> set[str]:
    return {tile["agent"] for block in report["plan"]["blocks"] for tile in block["tiles"]}


def test_three_agents_on_the_embedded_broker(stage: Stage, photograph: Path) -> None:
    report = demo(stage, photograph, "--model", "mobilenet-v2", "--broker", "embedded")
    assert report["broker"].startswith("embedded")
    assert len({agent["pid"] for agent in report["agents"]}) == 3
    assert with_work(report) == {agent["name"] for agent in report["agents"]}
    assert len(report["plan"]["blocks"]) >= 3
    assert len(report["answer"]) == 5
    assert 0 <= report["answer"][0]["score"] <= 1
    tiles = [tile for block in report["plan"]["blocks"] for tile in block["tiles"]]
    assert all(tile["ms"] > 0 for tile in tiles)
    assert sum(tile["bytes_sent"] for tile in tiles) > 0


def test_a_mosquitto_of_its_own(stage: Stage, photograph: Path) -> None:
    require_mosquitto()
    report = demo(stage, photograph, "--model", "mobilenet-v1", "--broker", "mosquitto")
    assert report["broker"].startswith("mosquitto")


def test_a_mosquitto_that_runs_already(stage: Stage, photograph: Path, mosquitto: str) -> None:
    report = demo(stage, photograph, "--model", "mobilenet-v2", "--broker", mosquitto)
    assert report["broker"] == mosquitto.removeprefix("mqtt://")
    # A shared broker is left as it was found.
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    seen: list[str] = []
    subscribed = threading.Event()
    client.on_message = lambda client, data, message: seen.append(message.topic)
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", int(mosquitto.rpartition(":")[2]))
    client.subscribe("#", 1)
    client.loop_start()
    assert subscribed.wait(10)
    client.publish("end", b"", qos=1)
    wait_until(lambda: "end" in seen, timeout=10)
    client.disconnect()
    client.loop_stop()
    assert seen == ["end"]


def test_five_agents_and_a_residual_network(stage: Stage, photograph: Path) -> None:
    report = demo(stage, photograph, "--model", "resnet18", "--agents", "5", "--broker", "embedded")
    assert len(with_work(report)) == 5


def test_one_agent(stage: Stage, photograph: Path) -> None:
    assert len(demo(stage, photograph, "--model", "mobilenet-v1", "--agents", "1")["agents"]) == 1


def test_a_network_from_elsewhere(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    report = demo(stage, photograph, "--model", str(residual_classifier(tmp_path / "My Net (v2).tflite")))
    assert report["model"] == "my-net-v2"
    assert len(report["plan"]["blocks"]) >= 3
    assert {answer["label"] for answer in report["answer"]} <= {f"class {n}" for n in range(10)}


def test_a_picture_answer_has_the_size_of_the_picture(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    saved = tmp_path / "answer.png"
    model = picture_to_picture(tmp_path / "edges.tflite")
    report = demo(stage, photograph, "--model", str(model), "--save", str(saved))
    assert report["picture"] == str(saved)
    with Image.open(saved) as picture:
        # The network sees the largest central part of its own proportions, 64:48, of the 200×120 picture.
        assert picture.size == (160, 120)


@pytest.mark.parametrize(("agents", "columns"), [("3", "80"), ("5", "80"), ("5", "160")])
def test_what_a_person_sees(stage: Stage, photograph: Path, agents: str, columns: str) -> None:
    done = stage.run(
        "demo", "--model", "mobilenet-v2", "--requests", "1", "--agents", agents, "--image", str(photograph),
        COLUMNS=columns,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stdout
    assert "latency: median" in done.stdout
    assert all(f"agent-{n}" in done.stdout for n in range(1, int(agents) + 1))
    assert "…" not in done.stdout
    table = done.stdout.partition("(rows of")[0].splitlines()
    assert max(len(line) for line in table) <= int(columns)
    assert "measuring" in done.stderr
    assert "XNNPACK" not in done.stderr
