"""Several models served by one group, added and removed over MQTT, before and after the orchestrator is killed."""

from __future__ import annotations

import hashlib
import io
import json
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest

from legion_iot.lab.whole_model import run_whole_model
from legion_iot.model import tflite
from legion_iot_broker.launch import local_broker
from tests.cli.schemas import check

from .conftest import Program, Stage, require_mosquitto, wait_until
from .networks import picture_to_picture, residual_classifier

GROUP = "kitchen/test"


class Client:
    """Any MQTT client, which asks for models by name; it sees all that is retained."""

    def __init__(self, host: str, port: int) -> None:
        self.results: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.retained: dict[str, bytes] = {}
        subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._paho = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._paho.on_message = self._take
        self._paho.on_subscribe = lambda *_: subscribed.put(True)
        self._paho.connect(host, port)
        self._paho.loop_start()
        self._paho.subscribe([(f"{GROUP}/infer/+/result", 1), (f"{GROUP}/agents/+/assignment/+", 1)])
        self._paho.subscribe(f"{GROUP}/models/+", 1)
        for _ in range(2):
            subscribed.get(timeout=10)

    def _take(self, client: object, data: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/result"):
            self.results.put(json.loads(message.payload))
        elif message.payload:
            self.retained[message.topic] = message.payload
        else:
            self.retained.pop(message.topic, None)

    def send(self, model: str, payload: bytes) -> None:
        self._paho.publish(f"{GROUP}/infer/{model}", payload, qos=1)

    def infer(self, model: str, payload: bytes) -> dict[str, Any]:
        self.send(model, payload)
        return self.results.get(timeout=60)

    def close(self) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()


class Asked:
    """A model, an input for it, and what the whole model makes of that."""

    def __init__(self, path: Path) -> None:
        graph = tflite.open_file(path)
        tensor = graph.tensors[graph.inputs[0]]
        value = np.random.default_rng(5).standard_normal(tensor.shape).astype(tensor.numpy_dtype)
        file = io.BytesIO()
        np.save(file, value)
        self.path, self.payload = path, file.getvalue()
        outputs, _ = run_whole_model(path, value, 1)
        self.digests = [hashlib.sha256(np.ascontiguousarray(each).data).hexdigest() for each in outputs]

    def check(self, result: dict[str, Any]) -> None:
        assert result["ok"], result
        assert [output["sha256"] for output in result["outputs"]] == self.digests


@pytest.fixture
def broker() -> Iterator[tuple[str, int]]:
    require_mosquitto()
    with local_broker("mosquitto") as running:
        yield running.address.host, running.address.port


def orchestrator(stage: Stage, url: str, *models: str) -> Program:
    return stage.start(
        "legion", "orchestrator", "run", *models, "--broker", url, "--agents", "2", "--base-topic", GROUP,
        "--planner", "balanced",
    )  # fmt: skip


def model(stage: Stage, url: str, *arguments: str) -> dict[str, Any]:
    done = stage.run("model", *arguments, "--broker", url, "--base-topic", GROUP)
    assert done.returncode == 0, done.stderr
    return check("model list", done.stdout) if done.stdout else {}


def test_models_come_and_go_while_others_are_served(stage: Stage, broker: tuple[str, int], tmp_path: Path) -> None:
    url = f"mqtt://{broker[0]}:{broker[1]}"
    cats, edges = Asked(residual_classifier(tmp_path / "c.tflite")), Asked(picture_to_picture(tmp_path / "e.tflite"))
    first = orchestrator(stage, url)
    agents = [
        stage.start("legion-agent", "--broker", url, "--name", name, "--base-topic", GROUP, "--state-dir",
                    str(tmp_path / name)) for name in ("left", "right")
    ]  # fmt: skip
    first.wait_for_line("no model is served")
    client = Client(*broker)
    refused = client.infer("cats", cats.payload)
    assert (refused["ok"], refused["error"]) == (False, "no-model")

    model(stage, url, "add", str(cats.path), "--name", "cats")
    cats.check(client.infer("cats", cats.payload))
    # The second one comes while the first one computes.
    for _ in range(10):
        client.send("cats", cats.payload)
    model(stage, url, "add", str(edges.path), "--name", "edges")
    for _ in range(10):
        cats.check(client.results.get(timeout=60))
    edges.check(client.infer("edges", edges.payload))
    cats.check(client.infer("cats", cats.payload))
    listed = model(stage, url, "list", "--json")["models"]
    assert [(each["name"], each["kept"]) for each in listed] == [("cats", True), ("edges", True)]

    first.process.send_signal(signal.SIGKILL)
    first.wait(10)
    again = orchestrator(stage, url)
    again.wait_for_line("serving: left, right")
    edges.check(client.infer("edges", edges.payload))
    cats.check(client.infer("cats", cats.payload))

    model(stage, url, "remove", "edges")
    assert client.infer("edges", edges.payload)["error"] == "no-model"
    cats.check(client.infer("cats", cats.payload))
    wait_until(lambda: not any("edges" in topic for topic in client.retained))
    assert [each["name"] for each in model(stage, url, "list", "--json")["models"]] == ["cats"]

    again.process.send_signal(signal.SIGTERM)
    assert again.wait(20) == 0
    wait_until(lambda: not client.retained)
    client.close()
    for agent in agents:
        agent.process.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
    stage.wait_for_the_end()


def test_what_an_operator_is_told(stage: Stage, broker: tuple[str, int], tmp_path: Path) -> None:
    url = f"mqtt://{broker[0]}:{broker[1]}"
    cats, other = residual_classifier(tmp_path / "cats.tflite"), residual_classifier(tmp_path / "other.tflite", seed=8)
    wrong = tmp_path / "wrong.tflite"
    wrong.write_text("no model")
    running = orchestrator(stage, url, str(cats))
    running.wait_for_line("gathering")
    for arguments, code, says in [
        (["add", str(wrong)], 4, "no TFLite model"),
        (["add", str(other), "--name", "cats"], 2, "--replace"),
        (["add", str(other), "--name", "C/ats"], 2, "cannot be a model's name"),
        (["add", str(tmp_path / "missing.tflite")], 3, "missing.tflite"),
        (["remove", "dogs"], 2, "served are: cats"),
    ]:
        done = stage.run("model", *arguments, "--broker", url, "--base-topic", GROUP)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert says in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    alone = stage.run("model", "list", "--broker", url, "--base-topic", "elsewhere")
    assert alone.returncode == 8
    assert "no orchestrator is online" in alone.stderr
    nowhere = stage.run("model", "list", "--broker", "mqtt://127.0.0.1:9", "--base-topic", GROUP)
    assert nowhere.returncode == 5
