"""docs/recipes.md as it stands: each block of code is taken out of the document and run against a real group."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import queue
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import paho.mqtt.client as paho
import pytest
import yaml
from PIL import Image

from legion_iot.transport.connection import BrokerAddress
from legion_iot.wire.topics import Topics
from tests.cli.schemas import check

from .conftest import PATIENCE, SCRIPTS, wait_until
from .served import Served, serve

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipes.md"
FLOW = DOCUMENT.parent / "recipes" / "node-red.json"
CLASSIFIER = "legion/infer/efficientnet-lite0"


def recipe(title: str, language: str) -> list[str]:
    """The blocks of code in a section of the document."""
    section = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert section, f"{DOCUMENT} has no section {title!r}"
    return re.findall(rf"^```{language}\n(.*?)^```$", section[1], re.DOTALL | re.MULTILINE)


def require(*programs: str) -> None:
    """Skip without them on a developer's machine; CI installs them."""
    for missing in (each for each in programs if shutil.which(each) is None):
        if os.environ.get("CI") == "true":
            pytest.fail(f"{missing} is missing, and CI may not skip its tests")
        pytest.skip(f"{missing} is not installed")


@pytest.fixture(scope="module")
def served(cache: Path) -> Iterator[Served]:
    with serve(cache, "efficientnet-lite0", "hed", "detector") as made:
        yield made


class Listener:
    """Any MQTT client that hears what is published, from the moment on that it is made."""

    def __init__(self, address: BrokerAddress, *filters: str) -> None:
        self.heard: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._paho = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._paho.on_message = lambda client, data, message: self.heard.put((message.topic, message.payload))
        self._paho.on_subscribe = lambda *_: subscribed.put(True)
        self._paho.connect(address.host, address.port)
        self._paho.loop_start()
        self._paho.subscribe([(each, 1) for each in filters])
        subscribed.get(timeout=PATIENCE)

    def publish(self, topic: str, payload: bytes) -> None:
        self._paho.publish(topic, payload, 1)

    def next(self) -> tuple[str, bytes]:
        return self.heard.get(timeout=PATIENCE)

    def close(self) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()


@pytest.fixture
def listen(served: Served) -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def start(*filters: str) -> Listener:
        made.append(Listener(served.address, *filters))
        return made[-1]

    yield start
    for each in made:
        each.close()


class Shell:
    """A place with a cat, where Mosquitto's programs know the broker; what is started in it ends with the test."""

    def __init__(self, served: Served, place: Path, photograph: Path) -> None:
        self.place = place
        self._started: list[subprocess.Popen[str]] = []
        shutil.copy(photograph, place / "cat.jpg")
        config, self.programs = place / "config", place / "programs"
        config.mkdir()
        self.programs.mkdir()
        for program in ("mosquitto_pub", "mosquitto_sub"):
            (config / program).write_text(f"-h {served.address.host}\n-p {served.address.port}\n")
        self.environment = {
            **served.stage.environment, "XDG_CONFIG_HOME": str(config), "LEGION_BROKER": served.url,
            "PATH": f"{self.programs}:{SCRIPTS}:{os.environ['PATH']}",
        }  # fmt: skip

    def run(self, code: str) -> str:
        """What a script prints, once it has ended well."""
        line = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(
            line, cwd=self.place, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, code: str) -> subprocess.Popen[str]:
        """A script that goes on; what it prints is read from its `stdout`."""
        self._started.append(
            subprocess.Popen(
                ["bash", "-c", code], cwd=self.place, env=self.environment, start_new_session=True,
                stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        return self._started[-1]

    def pretend(self, program: str, code: str) -> None:
        """Put a program in the place of one that this machine may not have."""
        (self.programs / program).write_text(f"#!/bin/sh\n{code}\n")
        (self.programs / program).chmod(0o755)

    def close(self) -> None:
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def shell(served: Served, tmp_path: Path, photograph: Path) -> Iterator[Shell]:
    made = Shell(served, tmp_path, photograph)
    yield made
    made.close()


def again_until(act: Callable[[], object], done: Callable[[], object]) -> None:
    """Nobody sees from outside when a program has subscribed: so publish until it has heard."""

    def happened() -> bool:
        if done():
            return True
        act()
        return False

    wait_until(happened)


def test_at_the_shell_with_our_own_program(shell: Shell) -> None:
    (block,) = recipe("At the shell, with our own program", "sh")
    lines = shell.run(block).splitlines()
    assert check("infer", lines[-1] + "\n")["answered"] == 20
    for name, size in (("boxes.png", (200, 120)), ("edges.png", (64, 48))):
        with Image.open(shell.place / name) as picture:
            assert (picture.format, picture.size) == ("PNG", size)


def test_publish_and_subscribe(shell: Shell) -> None:
    require("mosquitto_pub", "mosquitto_sub")
    listens, asks, saves = recipe("mosquitto_pub and mosquitto_sub", "sh")
    output = shell.place / "output"
    shell.start(f"{listens.strip()} > {output}")
    again_until(lambda: shell.run(asks), lambda: output.read_bytes().endswith(b"\n") if output.exists() else False)
    topic, _, result = output.read_text().splitlines()[0].partition(" ")
    assert topic == f"{CLASSIFIER}/result"
    assert check("result", result + "\n")["ok"]
    saving = shell.start(saves)
    again_until(lambda: shell.run(asks.replace("efficientnet-lite0", "hed")), lambda: saving.poll() is not None)
    with Image.open(shell.place / "edges.png") as picture:
        picture.verify()


def test_request_and_response(shell: Shell) -> None:
    require("mosquitto_pub", "mosquitto_sub")
    listens, asks = recipe("An answer for nobody else: MQTT 5 request and response", "sh")
    listening = shell.start(listens)
    again_until(lambda: shell.run(asks), lambda: listening.poll() is not None)
    assert listening.stdout is not None
    correlation, _, result = listening.stdout.read().partition(" ")
    assert correlation == "42"
    assert check("result", result)["ok"]


def test_paho_in_five_lines(shell: Shell, served: Served) -> None:
    (code,) = recipe("Python: paho in five lines", "python")
    assert len(code.strip().splitlines()) == 1 + 1 + 5  # the import, an empty line, and five
    host = f'"{served.address.host}", {served.address.port}'
    assert code.count('"localhost", 1883') == 1
    (shell.place / "ask.py").write_text(code.replace('"localhost", 1883', host))
    best = ast.literal_eval(shell.run(f"{sys.executable} ask.py"))
    assert set(best) == {"index", "label", "score", "box"}


@pytest.mark.parametrize(("number", "camera"), [(0, "ffmpeg"), (1, "rpicam-still")])
def test_a_camera(shell: Shell, listen: Callable[..., Listener], number: int, camera: str) -> None:
    """Cameras are not to be had here: a program with that name hands over the cat, twice."""
    require("mosquitto_pub")
    loop = recipe("A camera, every ten seconds", "sh")[number]
    shell.pretend(camera, f'test "$#" -gt 5 && cat {shell.place}/cat.jpg')
    shell.pretend("sleep", f'echo "$1" >> {shell.place}/slept; test "$(wc -l < {shell.place}/slept)" -le 2')
    results = listen(f"{CLASSIFIER}/result")
    shell.run(loop)
    for _ in range(2):
        assert json.loads(results.next()[1])["ok"]
    assert (shell.place / "slept").read_text() == "10\n10\n10\n"


def test_into_a_file_and_a_database(shell: Shell, listen: Callable[..., Listener]) -> None:
    require("mosquitto_sub", "jq", "sqlite3")
    appends, inserts, asks = recipe("Results into a file, or a database", "sh")
    shell.start(appends)
    shell.start(inserts)
    client = listen("nothing")
    hostile = {
        "schema": 1, "ok": True, "model": "m", "latency_ms": 1.5, "error": "",
        "answer": [{"label": "it's'); drop table results; --", "score": 0.5}],
    }  # fmt: skip
    picture = (shell.place / "cat.jpg").read_bytes()

    def publish() -> None:
        client.publish(CLASSIFIER, picture)
        client.publish(CLASSIFIER, b"no picture")
        client.publish("legion/infer/m/result", json.dumps(hostile).encode())

    def rows() -> dict[tuple[str, str], str]:
        """Labels by model and error; other tests may have asked for other models."""
        with contextlib.closing(sqlite3.connect(f"file:{shell.place}/results.db?mode=ro", uri=True)) as database:
            found = database.execute("select model, error, label from results").fetchall()
        return {(model, error): label for model, error, label in found}

    def noted() -> set[tuple[str, str]]:
        lines = (shell.place / "results.jsonl").read_text().split("\n")[:-1]
        return {(each["model"], each["error"]) for each in map(json.loads, lines)}

    wanted = {("m", ""), ("efficientnet-lite0", ""), ("efficientnet-lite0", "bad-input")}

    def done() -> bool:
        with contextlib.suppress(sqlite3.OperationalError, FileNotFoundError):  # not there yet, or being written
            return wanted <= set(rows()) and wanted <= noted()
        return False

    again_until(publish, done)
    assert rows()["m", ""] == "it's'); drop table results; --"
    assert rows()["efficientnet-lite0", ""].startswith("class ")
    assert "class " in shell.run(asks)


# --- Node-RED ---


def flow() -> dict[str, dict[str, Any]]:
    return {node["id"]: node for node in json.loads(FLOW.read_text())}


def real_results(
    listen: Callable[..., Listener], photograph: Path, model: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the group says to a picture, and to what is none; other tests may have asked, too."""
    client = listen(f"legion/infer/{model}/result")
    client.publish(f"legion/infer/{model}", photograph.read_bytes())
    client.publish(f"legion/infer/{model}", b"none")
    said: dict[str, dict[str, Any]] = {}
    while set(said) != {"", "bad-input"}:
        result = json.loads(client.next()[1])
        said[result["error"]] = result
    return said[""], said["bad-input"]


def test_the_flow_hangs_together() -> None:
    nodes = flow()
    assert FLOW.name in DOCUMENT.read_text()
    for node in nodes.values():
        assert all(target in nodes for port in node.get("wires", ()) for target in port)
        assert node.get("z", "legion-tab") == "legion-tab"
        assert node.get("broker") in (None, "localhost", "legion-broker")
    topics = {node["topic"] for node in nodes.values() if "topic" in node}
    ours = {topic for topic in topics if topic.startswith("legion/")}
    assert topics - ours == {"camera/hall", "home/hall/seen"}
    assert ours == {CLASSIFIER, f"{CLASSIFIER}/result"}


def test_the_flows_function(listen: Callable[..., Listener], photograph: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    good, bad = real_results(listen, photograph, "efficientnet-lite0")
    good["answer"][0].update(label="cat", score=0.456)
    unsure = {**good, "answer": [{**good["answer"][0], "score": 0.1}]}
    program = """
const { code, results } = JSON.parse(require("fs").readFileSync(0));
const warned = [];
const run = new Function("msg", "node", code);
const said = results.map((payload) => run({ payload }, { warn: (text) => warned.push(text) }));
console.log(JSON.stringify({ said, warned }));
"""
    told = json.dumps({"code": flow()["legion-best"]["func"], "results": [good, bad, unsure, {**good, "answer": []}]})
    done = subprocess.run(["node", "-e", program], input=told, capture_output=True, text=True, timeout=60, check=True)
    output = json.loads(done.stdout)
    assert output["said"] == [{"payload": "cat (46 %)"}, None, None, None]
    assert output["warned"] == [f"bad-input: {bad['reason']}"]


def test_the_flow_in_node_red(
    served: Served, listen: Callable[..., Listener], photograph: Path, tmp_path: Path
) -> None:
    """Node-RED itself, where it is installed; it is not in CI."""
    program = shutil.which("node-red")
    if program is None:
        pytest.skip("node-red is not installed")
    nodes = flow()
    nodes["legion-broker"].update(broker=served.address.host, port=str(served.address.port))
    assert "best.score < 0.2" in nodes["legion-best"]["func"]
    nodes["legion-best"]["func"] = nodes["legion-best"]["func"].replace("0.2", "0")  # the drawing is like nothing else
    (tmp_path / "flows.json").write_text(json.dumps(list(nodes.values())))
    (tmp_path / "settings.js").write_text(
        'module.exports = { flowFile: "flows.json", httpAdminRoot: false, httpNodeRoot: false };'
    )
    client = listen("home/hall/seen")
    with (tmp_path / "log").open("w") as log:
        line = [program, "--userDir", str(tmp_path), "--settings", str(tmp_path / "settings.js")]
        process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
    try:
        again_until(lambda: client.publish("camera/hall", photograph.read_bytes()), lambda: not client.heard.empty())
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)
    assert re.fullmatch(r"class \d+ \(\d+ %\)", client.next()[1].decode())


# --- Home Assistant ---


def rendered(template: str, **values: Any) -> str:
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template).render(**values)


def test_home_assistants_entities(listen: Callable[..., Listener], photograph: Path) -> None:
    configuration, _ = recipe("Home Assistant", "yaml")
    sensor, image = (entity for entry in yaml.safe_load(configuration)["mqtt"] for entity in entry.values())
    topics = Topics()
    assert sensor["state_topic"] == sensor["json_attributes_topic"] == topics.result("efficientnet-lite0")
    assert image["image_topic"] == topics.result_image("hed")
    good, bad = real_results(listen, photograph, "efficientnet-lite0")
    assert rendered(sensor["value_template"], value_json=good) == good["answer"][0]["label"]
    assert rendered(sensor["value_template"], value_json=bad) == "unknown"
    client = listen(image["image_topic"])
    client.publish(topics.infer("hed"), photograph.read_bytes())
    with Image.open(io.BytesIO(client.next()[1])) as picture:
        assert picture.get_format_mimetype() == image["content_type"]


def test_home_assistants_automation(listen: Callable[..., Listener], photograph: Path) -> None:
    _, text = recipe("Home Assistant", "yaml")
    (automation,) = yaml.safe_load(text)
    (trigger,), (condition,), (action,) = (automation[part] for part in ("triggers", "conditions", "actions"))
    assert (trigger["trigger"], trigger["topic"]) == ("mqtt", Topics().result("detector"))
    good, bad = real_results(listen, photograph, "detector")
    person = {**good, "answer": [{**good["answer"][0], "label": "person", "score": 0.62}, *good["answer"]]}
    nobody = {**good, "answer": [{**each, "label": "tree"} for each in good["answer"]]}

    def fires(result: dict[str, Any]) -> bool:
        return rendered(condition["value_template"], trigger={"payload_json": result}) == "True"

    assert [fires(each) for each in (person, nobody, bad, {**good, "answer": []})] == [True, False, False, False]
    said = rendered(action["data"]["message"], trigger={"payload_json": person})
    assert re.fullmatch(r"At the door: person \(62(\.0)? %\)(, class \d+ \(\d+(\.0)? %\))*", said), said
