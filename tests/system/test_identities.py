"""A group over TLS, each process with an identity of its own, by nothing but the commands a user has."""

from __future__ import annotations

import json
import queue
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from legion_iot.transport.credentials import read_bundle
from tests.cli.schemas import check

from .conftest import Program, Stage, require_mosquitto, wait_until

# Each starts some fifteen programs, most of them one after the other.
pytestmark = pytest.mark.timeout(240)

MODEL = "mobilenet-v2"
ROLES = {
    "boss": "orchestrator",
    "phone": "client",
    "chief": "operator",
    "eye": "observer",
    "left": "agent",
    "right": "agent",
}


def free_ports() -> list[str]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(2)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]


class Group:
    """A broker's directory that runs, and the bundles of its members."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.directory, self.bundles = stage.temporary / "broker", stage.temporary / "bundles"
        self.bundles.mkdir()
        port, local = free_ports()
        self.url = f"mqtts://localhost:{port}"
        self.legion("init", str(self.directory), "--host", "localhost", "--port", port, "--local-port", local)
        for name, role in ROLES.items():
            self.legion("add-device", name, "--role", role, "--out", str(self.bundle(name)), *self.where)
        self.broker = stage.start("legion", "broker", "run", str(self.directory))
        self.broker.wait_for_line("is running")

    @property
    def where(self) -> tuple[str, str]:
        return "--dir", str(self.directory)

    def bundle(self, name: str) -> Path:
        return self.bundles / f"{name}.pem"

    def legion(self, *arguments: str) -> str:
        done = self._stage.run("broker", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def agent(self, name: str) -> Program:
        place = str(self._stage.temporary / f"state-{name}")
        return self._stage.start("legion-agent", "--credentials", str(self.bundle(name)), "--state-dir", place)


@pytest.fixture
def group(stage: Stage) -> Group:
    require_mosquitto()
    return Group(stage)


class Member:
    """Any MQTT client: it reads certificates and key out of the bundle as of any PEM file."""

    def __init__(self, path: Path, *filters: str) -> None:
        self.messages: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self.codes: queue.SimpleQueue[ReasonCode] = queue.SimpleQueue()
        bundle = read_bundle(path)
        address = bundle.address()
        ready: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._paho = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._paho.tls_set(str(path), str(path), str(path))
        self._paho.username_pw_set(bundle.name, bundle.password)
        self._paho.on_message = lambda client, data, message: self.messages.put((message.topic, message.payload))
        self._paho.on_subscribe = lambda *_: ready.put(True)
        self._paho.on_publish = self._on_publish
        self._paho.connect(address.host, address.port)
        self._paho.loop_start()
        self._paho.subscribe([(each, paho.SubscribeOptions(1)) for each in filters])
        ready.get(timeout=20)

    def _on_publish(self, client: paho.Client, data: object, number: int, code: ReasonCode, _: Properties) -> None:
        self.codes.put(code)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> str:
        """What the broker says to it."""
        self._paho.publish(topic, payload, qos=1, retain=retain)
        return str(self.codes.get(timeout=20))

    def close(self) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()


@pytest.fixture
def member(group: Group) -> Iterator[Any]:
    made: list[Member] = []

    def join(name: str, *filters: str) -> Member:
        made.append(Member(group.bundle(name), *filters))
        return made[-1]

    yield join
    for each in made:
        each.close()


def test_the_demo_is_exact_over_tls(stage: Stage, group: Group, member: Any, photograph: Path) -> None:
    done = stage.run(
        "demo", "--credentials", str(group.bundles), "--model", MODEL, "--image", str(photograph), "--requests", "2",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = check("demo", done.stdout)
    assert (report["exact"], report["broker"]) == (True, group.url)
    assert [agent["name"] for agent in report["agents"]] == ["left", "right"]
    listed = stage.run("broker", "devices", "--json", *group.where)
    members = check("broker devices", listed.stdout)["devices"]
    assert {member["name"]: member["role"] for member in members} == ROLES
    # Nothing of it stays behind, as far as anybody can see.
    eye = member("eye", "legion/#")
    boss = member("boss", "legion/agents/left/state")
    assert boss.publish("legion/models/end", b"end") != ""
    assert eye.messages.get(timeout=20) == ("legion/models/end", b"end")


class Serving:
    """A group of two agents that serves, and a client of it."""

    def __init__(self, stage: Stage, group: Group, phone: Member, picture: bytes) -> None:
        self.phone, self._picture = phone, picture
        self.orchestrator = stage.start(
            "legion", "orchestrator", "run", MODEL, "--credentials", str(group.bundle("boss")), "--agents", "2"
        )
        self.agents = {name: group.agent(name) for name in ("left", "right")}
        self.orchestrator.wait_for_line("serving: left, right")

    def infer(self) -> dict[str, Any]:
        self.phone.publish(f"legion/infer/{MODEL}", self._picture)
        result: dict[str, Any] = json.loads(self.phone.messages.get(timeout=60)[1])
        assert result["ok"], result
        return result


@pytest.fixture
def serving(stage: Stage, group: Group, member: Any, photograph: Path) -> Serving:
    phone = member("phone", "legion/infer/+/result", "legion/agents/#")
    return Serving(stage, group, phone, photograph.read_bytes())


def test_who_may_do_what(stage: Stage, group: Group, serving: Serving, member: Any, photograph: Path) -> None:
    first, phone = serving.infer(), serving.phone
    # A client asks for inference and does nothing else, an observer not even that.
    eye = member("eye", "legion/infer/#")
    for topic in (
        "models/evil", "agents/left/assignment/evil", "agents/left/command", "agents/left/inbox/right",
        "bridge/request/model-remove",
    ):  # fmt: skip
        for outsider in (phone, eye):
            assert outsider.publish(f"legion/{topic}", b"{}") == "Not authorized"
    assert eye.publish(f"legion/infer/{MODEL}", photograph.read_bytes()) == "Not authorized"
    for name in ("phone", "chief"):
        asked = stage.run("infer", MODEL, str(photograph), "--credentials", str(group.bundle(name)), "--json")
        assert asked.returncode == 0, asked.stderr
        assert json.loads(asked.stdout)["result"]["outputs"] == first["outputs"]
    denied = stage.run("infer", MODEL, str(photograph), "--credentials", str(group.bundle("eye")))
    assert (denied.returncode, denied.stderr.count("\n")) == (2, 1)
    assert "role client or operator" in denied.stderr
    listed = stage.run("model", "list", "--credentials", str(group.bundle("chief")), "--json")
    assert [model["name"] for model in check("model list", listed.stdout)["models"]] == [MODEL], listed.stderr
    refused = stage.run("model", "list", "--credentials", str(group.bundle("phone")))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "role operator" in refused.stderr
    busy = stage.run("demo", "--credentials", str(group.bundles), "--model", MODEL, "--image", str(photograph))
    assert busy.returncode == 2
    assert "the group 'legion' is at work (left, right, the orchestrator)" in busy.stderr


def test_an_agent_that_is_removed(stage: Stage, group: Group, serving: Serving) -> None:
    first, agents, orchestrator = serving.infer(), serving.agents, serving.orchestrator
    assert "the running broker knows" in group.legion("remove-device", "right", *group.where)
    assert agents["right"].wait(60) == 11
    ours = [line for line in agents["right"].lines if line.startswith("legion-agent: ")]
    assert len(ours) == 1, ours
    assert "has revoked the certificate" in ours[0]
    wait_until(lambda: orchestrator.lines[-1].endswith("serving: left"))
    assert serving.infer()["outputs"] == first["outputs"]

    for program in (orchestrator, agents["left"]):
        program.process.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0
    group.broker.process.send_signal(signal.SIGTERM)
    assert group.broker.wait(20) == 130
    stage.wait_for_the_end()


def test_credentials_that_do_not_do(stage: Stage, group: Group, tmp_path: Path) -> None:
    url = group.url
    for arguments, code, words in [
        (("--credentials", str(group.bundle("boss"))), 2, "role agent"),
        (("--credentials", str(group.bundle("left")), "--name", "right"), 2, "--name"),
        (("--credentials", str(group.bundle("left")), "--broker", "mqtt://192.0.2.1"), 2, "in the clear"),
        (("--credentials", str(tmp_path / "none.pem")), 3, "cannot be read"),
        (("--broker", "mqtts://me:secret@localhost"), 2, "--credentials"),
        (("--broker", url, "--name", "left"), 13, "another authority"),
    ]:
        done = stage.start("legion-agent", "--state-dir", str(tmp_path), *arguments)
        assert done.wait(30) == code, done.lines
        assert len(done.lines) == 1
        assert words in done.lines[0]
        assert "secret" not in done.lines[0]
    served = stage.run("orchestrator", "run", MODEL, "--credentials", str(group.bundle("left")))
    assert served.returncode == 2
    assert "role orchestrator" in served.stderr
    both = stage.run("broker", "run", str(group.directory), "--port", "1")
    assert both.returncode == 2
