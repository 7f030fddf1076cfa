"""A group as it runs on real devices: orchestrator, agents and a client as programs of their own, over one broker."""

from __future__ import annotations

import json
import queue
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from legion_iot_broker.launch import local_broker

from .conftest import Program, Stage, require_mosquitto, wait_until

GROUP = "kitchen/test"
MODEL = "mobilenet-v2"


@pytest.fixture(params=["embedded", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    if request.param == "mosquitto":
        require_mosquitto()
    with local_broker(request.param) as running:
        yield running.address.host, running.address.port


class Client:
    """Any MQTT client: it knows two topics and nothing of this project."""

    def __init__(self, host: str, port: int) -> None:
        self.results: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._paho = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._paho.on_message = lambda client, data, message: self.results.put(message.payload)
        self._paho.on_subscribe = lambda *_: subscribed.put(True)
        self._paho.connect(host, port)
        self._paho.loop_start()
        self._paho.subscribe(f"{GROUP}/infer/{MODEL}/result", 1)
        subscribed.get(timeout=10)

    def infer(self, payload: bytes, timeout: float = 60.0) -> dict[str, Any]:
        self._paho.publish(f"{GROUP}/infer/{MODEL}", payload, qos=1)
        result: dict[str, Any] = json.loads(self.results.get(timeout=timeout))
        return result

    def close(self) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()


@pytest.fixture
def client(broker: tuple[str, int]) -> Iterator[Client]:
    made = Client(*broker)
    yield made
    made.close()


def _agent(stage: Stage, url: str, name: str, directory: Path) -> Program:
    return stage.start(
        "legion-agent", "--broker", url, "--name", name, "--base-topic", GROUP, "--state-dir", str(directory / name),
    )  # fmt: skip


def test_a_picture_in_and_a_result_out(
    stage: Stage, broker: tuple[str, int], client: Client, photograph: Path, tmp_path: Path
) -> None:
    url = f"mqtt://{broker[0]}:{broker[1]}"
    orchestrator = stage.start(
        "legion",
        "orchestrator",
        "run",
        MODEL,
        "--broker",
        url,
        "--agents",
        "2",
        "--base-topic",
        GROUP,
        "--planner",
        "balanced",
    )
    agents = {name: _agent(stage, url, name, tmp_path) for name in ("left", "right")}
    orchestrator.wait_for_line("serving: left, right")

    first = client.infer(photograph.read_bytes())
    assert first["ok"] is True
    assert first["model"] == MODEL
    assert len(first["answer"]) == 5

    refused = client.infer(b"no picture at all")
    assert (refused["ok"], refused["error"]) == (False, "bad-input")
    assert "JPEG" in refused["reason"]

    agents["right"].process.kill()
    orchestrator.wait_for_line("serving: left")
    wait_until(lambda: orchestrator.lines[-1].endswith("serving: left"))
    second = client.infer(photograph.read_bytes())
    assert second["ok"] is True
    assert second["epoch"] > first["epoch"]
    # The same numbers, whoever computes them.
    assert second["outputs"] == first["outputs"]

    again = _agent(stage, url, "right", tmp_path)
    wait_until(lambda: orchestrator.lines[-1].endswith("serving: left, right"))
    assert client.infer(photograph.read_bytes())["outputs"] == first["outputs"]

    for program in (orchestrator, agents["left"], again):
        program.process.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0
    stage.wait_for_the_end()


def test_programs_without_a_broker(stage: Stage, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
    for program in (
        stage.start("legion", "orchestrator", "run", MODEL, "--broker", url),
        _agent(stage, url, "alone", tmp_path),
    ):
        assert program.wait(60) == 5
        wait_until(lambda program=program: program.lines)  # type: ignore[misc]
        assert "nobody listens" in program.lines[-1]


def test_broker_run(stage: Stage) -> None:
    program = stage.start("legion", "broker", "run", "--port", "0")
    assert program.process.stdout is not None
    url = program.process.stdout.readline().strip()
    found = re.fullmatch(r"mqtt://127\.0\.0\.1:(\d+)", url)
    assert found, url
    client = Client("127.0.0.1", int(found[1]))
    client.close()
    program.process.send_signal(signal.SIGINT)
    assert program.wait(20) == 130
    stage.wait_for_the_end()
    assert stage.left_behind() == []


def test_broker_run_on_a_port_that_is_taken(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = stage.run("broker", "run", "--port", str(server.getsockname()[1]))
    assert done.returncode == 5
    assert done.stderr.startswith("legion: ")
    assert done.stderr.count("\n") == 1
    assert stage.left_behind() == []
