"""A whole group, watched: by Home Assistant's rules, and by Prometheus where it is installed."""

from __future__ import annotations

import json
import queue
import re
import shutil
import signal
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from prometheus_client.parser import text_string_to_metric_families

from legion_iot_broker.launch import local_broker
from tests.orchestrator import dashboard
from tests.orchestrator.home_assistant import is_available, read_device, state_of

from .conftest import Program, Stage, require_mosquitto, wait_until
from .networks import residual_classifier
from .test_profiling import end

GROUP = "shed/pis"
DEVICES = "homeassistant/device/shed_-pis"
AGENTS = ("left", "right")


class Listener:
    """Any MQTT client: the last payload on each topic, and all results and answers to operators."""

    def __init__(self, host: str, port: int) -> None:
        self.last: dict[str, bytes] = {}
        self.answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._paho = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._paho.on_message = self._take
        self._paho.on_subscribe = lambda *_: subscribed.put(True)
        self._paho.connect(host, port)
        self._paho.loop_start()
        self._paho.subscribe("#", 1)
        subscribed.get(timeout=10)

    def _take(self, client: object, data: object, message: paho.MQTTMessage) -> None:
        self.last[message.topic] = message.payload
        if re.fullmatch(f"{GROUP}/(infer/[^/]+/result|bridge/response/[^/]+)", message.topic):
            self.answers.put(json.loads(message.payload))

    def say(self, topic: str, payload: bytes) -> None:
        self._paho.publish(topic, payload, qos=1)

    def ask(self, topic: str, payload: bytes) -> dict[str, Any]:
        self.say(topic, payload)
        return self.answers.get(timeout=60)

    def json(self, topic: str) -> Any:
        payload = self.last.get(f"{GROUP}/{topic}")
        return json.loads(payload) if payload else {}

    def devices(self) -> dict[str, dict[str, Any]]:
        """Every device that Home Assistant would show."""
        found = {topic: payload for topic, payload in self.last.items() if topic.startswith(DEVICES) and payload}
        return {topic.split("/")[-2]: read_device(payload) for topic, payload in found.items()}

    def states(self, device: dict[str, Any]) -> dict[str, str | None]:
        """What each sensor of a device would show."""
        sensors = {key: each for key, each in device["components"].items() if each["platform"] == "sensor"}
        return {key: state_of(each, self.last.get(each["state_topic"], b"")) for key, each in sensors.items()}

    def shown(self, device: dict[str, Any]) -> set[bool]:
        """Whether what it shows is available; its own state always is."""
        rest = [each for key, each in device["components"].items() if key != "state"]
        return {is_available(device, each, self.last) for each in rest}

    def close(self) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()


@pytest.fixture(params=["embedded", "mosquitto"])
def listener(request: pytest.FixtureRequest) -> Iterator[tuple[Listener, str]]:
    if request.param == "mosquitto":
        require_mosquitto()
    with local_broker(request.param) as running:
        made = Listener(running.address.host, running.address.port)
        yield made, str(running.address)
        made.close()


def orchestrator(stage: Stage, url: str, model: Path, state: Path, *options: str) -> Program:
    state.mkdir(exist_ok=True)
    return stage.start(
        "legion", "orchestrator", "run", str(model), "--broker", url, "--base-topic", GROUP, "--agents", "2",
        "--planner", "balanced", "--state-dir", str(state), *options,
    )  # fmt: skip


def agents(stage: Stage, url: str, directory: Path) -> list[Program]:
    return [
        stage.start(
            "legion-agent", "--broker", url, "--name", name, "--base-topic", GROUP, "--state-dir", str(directory / name)
        )
        for name in AGENTS
    ]


def scraped(url: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Labels and value of each sample, by its name."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found: dict[str, list[tuple[dict[str, str], float]]] = {family.name: [] for family in families}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def url_of_metrics(program: Program) -> str:
    program.wait_for_line("metrics: http")
    return next(line for line in program.lines if line.startswith("metrics: ")).removeprefix("metrics: ")


def test_a_group_in_home_assistant_and_in_prometheus(
    stage: Stage, listener: tuple[Listener, str], photograph: Path, tmp_path: Path
) -> None:
    home, url = listener
    model = residual_classifier(tmp_path / "net.tflite")
    wanted = ("--home-assistant", "--prometheus", "127.0.0.1:0")
    program = orchestrator(stage, url, model, tmp_path / "state", *wanted)
    started = agents(stage, url, tmp_path)
    program.wait_for_line("serving: left, right")
    result = [home.ask(f"{GROUP}/infer/net", photograph.read_bytes()) for _ in range(3)][-1]
    refused = home.ask(f"{GROUP}/infer/net", b"no picture at all")
    assert (result["ok"], refused["ok"]) == (True, False)
    home.ask(f"{GROUP}/infer/net", photograph.read_bytes())

    def is_told() -> bool:
        models = home.json("orchestrator/metrics").get("models", [])
        computing = [home.json(f"agents/{name}/metrics").get("tiles") for name in AGENTS]
        counted = bool(models) and models[0]["answered"] == 4 and models[0]["failed"] != []
        return counted and all(computing) and len(home.devices()) == 3

    wait_until(is_told)
    devices = home.devices()
    assert set(devices) == {"group", "agent-left", "agent-right"}
    assert {availability for device in devices.values() for availability in home.shown(device)} == {True}
    group = home.states(devices["group"])
    assert (group["state"], group["agents"], group["answered"], group["failed"]) == ("serving", "2", "4", "1")
    assert group["model-net-answer"] == (result["answer"][0]["label"] or str(result["answer"][0]["index"]))
    assert group["last-error"].startswith("bad-input: ")  # type: ignore[union-attr]
    assert float(group["model-net-latency"]) > 0  # type: ignore[arg-type]
    for name in AGENTS:
        shown = home.states(devices[f"agent-{name}"])
        assert shown["state"] == "online"
        assert all(float(shown[key]) >= 0 for key in ("load", "tile-time", "memory"))  # type: ignore[arg-type]
    button = devices["group"]["components"]["replan"]
    pressed = home.ask(button["command_topic"], button["payload_press"].encode())
    assert (pressed["status"], pressed["transaction"]) == ("ok", "home-assistant")

    samples = scraped(url_of_metrics(program))
    assert [value for labels, value in samples["legion_requests_total"] if labels["outcome"] == "answered"] == [4]
    assert sorted(labels["agent"] for labels, up in samples["legion_agent_up"] if up) == ["left", "right"]
    for query in dashboard.queries():
        for each in dashboard.series(query):
            assert each.metric in samples, query
            assert all(each.labels <= set(labels) for labels, _ in samples[each.metric]), query

    program.process.send_signal(signal.SIGTERM)
    assert program.wait(30) == 0
    wait_until(lambda: home.shown(home.devices()["group"]) == {False})
    assert home.shown(home.devices()["agent-left"]) == {False}
    assert set(home.devices()) == set(devices)  # they are only not there now
    again = orchestrator(stage, url, model, tmp_path / "state")
    again.wait_for_line("Home Assistant forgets 3 devices")
    wait_until(lambda: home.devices() == {})
    end(again, *started)


def test_a_port_that_is_taken_is_one_line(stage: Stage, tmp_path: Path) -> None:
    model = residual_classifier(tmp_path / "net.tflite")
    with socket.create_server(("127.0.0.1", 0)) as server, local_broker("embedded") as running:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        program = orchestrator(stage, str(running.address), model, tmp_path / "state", "--prometheus", where)
        assert program.wait(60) == 2
        wait_until(lambda: any(line.startswith("legion: ") for line in program.lines))
    assert program.lines[-1] == f"legion: --prometheus {where}: that port is taken; choose another, or 0 for any"


@contextmanager
def prometheus(target: str, directory: Path) -> Iterator[str]:
    """A real one that scrapes the target each second; where it answers."""
    configuration = directory / "prometheus.yml"
    scrapes = [{"job_name": "legion", "static_configs": [{"targets": [target]}]}]
    text = json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes})  # which is YAML, too
    configuration.write_text(text, encoding="utf-8")
    storage = f"--storage.tsdb.path={directory / 'data'}"
    process = subprocess.Popen(
        ["prometheus", f"--config.file={configuration}", storage, "--web.listen-address=127.0.0.1:0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    server = Program(process)
    try:
        server.wait_for_line("Server is ready to receive web requests")
        (address,) = re.findall(r'msg="Listening on" address=(\S+)', "\n".join(server.lines))
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_every_query_of_the_dashboard_finds_something(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    model = residual_classifier(tmp_path / "net.tflite")
    with ExitStack() as stack:
        running = stack.enter_context(local_broker("embedded"))
        home, url = Listener(running.address.host, running.address.port), str(running.address)
        stack.callback(home.close)
        program = orchestrator(stage, url, model, tmp_path / "state", "--prometheus", "127.0.0.1:0")
        started = agents(stage, url, tmp_path)
        metrics = url_of_metrics(program)
        program.wait_for_line("serving: left, right")
        address = stack.enter_context(prometheus(urllib.parse.urlsplit(metrics).netloc, tmp_path))

        def found(query: str) -> list[Any]:
            asked = urllib.parse.urlencode({"query": query})
            with urllib.request.urlopen(f"http://{address}/api/v1/query?{asked}", timeout=10) as answer:
                content = json.load(answer)
            assert content["status"] == "success"
            return list(content["data"]["result"])

        wait_until(lambda: found("legion_agent_up"))
        for _ in range(2):  # what increases has to be seen before and after
            home.ask(f"{GROUP}/infer/net", photograph.read_bytes())
            home.ask(f"{GROUP}/infer/net", b"no picture at all")
            wait_until(lambda: found('changes(legion_requests_total{outcome!="answered"}[30s]) >= 0'))
        without_sensor = "legion_agent_temperature_celsius"
        for query in dashboard.queries():
            if without_sensor not in query or scraped(metrics)[without_sensor]:
                wait_until(lambda query=query: found(query))  # type: ignore[misc]
        end(program, *started)
