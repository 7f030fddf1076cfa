"""`legion status` and `legion devices` on a real group, through a broker's restart, and on a terminal."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pty
import queue
import re
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from legion_iot.transport.connection import BrokerAddress, Connected, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import AgentState
from legion_iot_broker.launch import local_broker
from tests.cli.schemas import check
from tests.transport.conftest import _Real

from .conftest import PATIENCE, SCRIPTS, Stage, require_mosquitto, wait_until
from .networks import residual_classifier

BROKERS = ["embedded", "mosquitto"]


def status(stage: Stage, url: str, *arguments: str) -> dict[str, Any]:
    done = stage.run("status", "--json", "--broker", url, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return check("status", done.stdout)


@pytest.mark.parametrize("kind", BROKERS)
def test_a_group_and_its_request(stage: Stage, kind: str, photograph: Path) -> None:
    if kind == "mosquitto":
        require_mosquitto()
    model = residual_classifier(stage.temporary / "cats.tflite")
    with local_broker(kind) as broker:
        url = str(broker.address)
        orchestrator = stage.start(
            "legion", "orchestrator", "run", str(model), "--broker", url, "--agents", "2", "--planner", "balanced"
        )
        for name in ("left", "right"):
            place = str(stage.temporary / name)
            stage.start("legion-agent", "--broker", url, "--name", name, "--state-dir", place)
        orchestrator.wait_for_line("serving: left, right")
        result = ask(broker.address, "cats", photograph.read_bytes())

        seen = []

        def is_told() -> bool:
            """What the orchestrator tells is 2 s old at times."""
            seen.append(status(stage, url))
            agents = seen[-1]["agents"]
            return bool(seen[-1]["requests"]) and all(agent["share"] is not None and agent["tiles"] for agent in agents)

        wait_until(is_told)
        told = seen[-1]
        assert (told["orchestrator"]["state"], told["connected"]) == ("serving", True)
        assert (told["requests"]["answered"], told["requests"]["failed"]) == (1, 0)
        (cats,) = told["models"]
        assert (cats["name"], cats["state"], cats["agents"]) == ("cats", "serving", ["left", "right"])
        assert (cats["latency_ms"], cats["answered"], cats["epoch"]) == (result["latency_ms"], 1, result["epoch"])
        assert math.isclose(sum(each["share"] for each in cats["work"]), 1.0)
        assert [agent["name"] for agent in told["agents"]] == ["left", "right"]
        assert math.isclose(sum(agent["share"] for agent in told["agents"]), 1.0)
        for agent in told["agents"]:
            assert (agent["state"], agent["tiles"] > 0, agent["tile_ms"] > 0) == ("online", True, True)
            assert agent["sent_bytes"] > 0

        devices = stage.run("devices", "--json", "--broker", url)
        for device in check("devices", devices.stdout)["devices"]:
            assert (device["state"], device["cores"], device["models"]) == ("online", os.cpu_count(), ["cats"])
        lines = stage.run("status", "--broker", url).stdout.splitlines()
        assert [line.split()[:2] for line in lines] == [
            ["group", "legion"], ["agent", "left"], ["agent", "right"], ["model", "cats"],
        ]  # fmt: skip

        orchestrator.process.kill()
        wait_until(lambda: stage.run("status", "--broker", url).returncode == 8)
        done = stage.run("status", "--json", "--broker", url)
        gone = check("status", done.stdout)
        assert (done.returncode, gone["requests"], gone["orchestrator"]["present"]) == (8, None, False)
        assert [agent["state"] for agent in gone["agents"]] == ["online", "online"]
        assert [model["state"] for model in gone["models"]] == ["not served"]


def ask(address: BrokerAddress, model: str, payload: bytes) -> dict[str, Any]:
    """The answer to one request."""
    results: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _, __, message: results.put(message.payload)
    client.on_subscribe = lambda *_: subscribed.put(True)
    client.connect(address.host, address.port)
    client.loop_start()
    client.subscribe(f"legion/infer/{model}/result", 1)
    subscribed.get(timeout=PATIENCE)
    client.publish(f"legion/infer/{model}", payload, qos=1)
    result: dict[str, Any] = json.loads(results.get(timeout=PATIENCE))
    client.disconnect()
    client.loop_stop()
    return result


class Agent:
    """Says that it is online, and says it again to a broker that has forgotten."""

    def __init__(self, address: BrokerAddress) -> None:
        self.connection = PahoConnection(address, "ant", self._on_event)
        self.connection.open(PATIENCE)

    def _on_event(self, event: TransportEvent) -> None:
        if isinstance(event, Connected):
            state = codec.to_json(AgentState("online", "ant"))
            self.connection.publish("legion/agents/ant/state", state, retain=True)


@pytest.mark.parametrize("kind", BROKERS)
def test_watching_goes_on_when_the_broker_is_back(stage: Stage, kind: str) -> None:
    if kind == "mosquitto":
        require_mosquitto()
    broker = _Real(kind)
    assert broker.address is not None
    agent = Agent(broker.address)
    try:
        watching = subprocess.Popen(
            [str(SCRIPTS / "legion"), "status", "--watch", "--broker", str(broker.address)],
            env=stage.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        lines: list[str] = []
        assert watching.stdout is not None
        reader = threading.Thread(target=lambda: lines.extend(iter(watching.stdout.readline, "")), daemon=True)
        reader.start()

        def said(pattern: str, after: int = 0) -> int:
            """The number of the line that matches."""
            wait_until(lambda: any(re.search(pattern, line) for line in lines[after:]))
            return next(number for number in range(after, len(lines)) if re.search(pattern, lines[number]))

        known = said("^agent ant state=online")
        broker.stop()
        away = said("^group legion .* connected=no", known)
        assert not [line for line in lines if "state=offline" in line or "state=gone" in line]
        broker.start()
        said("^group legion .* connected=yes", away)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(PATIENCE) == 130
        assert watching.stderr is not None
        assert watching.stderr.read() == "legion: interrupted\n"
    finally:
        agent.connection.abort()
        broker.stop()


class Terminal:
    """`legion status --watch` on a terminal of its own."""

    def __init__(self, stage: Stage, url: str) -> None:
        arguments = [str(SCRIPTS / "legion"), "status", "--watch", "--broker", url]
        self.pid, self.end = pty.fork()
        if not self.pid:
            os.execve(arguments[0], arguments, {**stage.environment, "TERM": "xterm", "COLUMNS": "", "LINES": ""})
        self.before = termios.tcgetattr(self.end)
        termios.tcsetwinsize(self.end, (24, 80))
        self.output = ""

    def until(self, text: str) -> None:
        """What it prints, up to this and with it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.output:
            assert time.monotonic() < deadline, self.output
            self.read()
        self.output = self.output.partition(text)[2]

    def read(self) -> None:
        if select.select([self.end], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # the other end is closed
                self.output += os.read(self.end, 1 << 16).decode(errors="replace")

    def press(self, key: bytes) -> None:
        os.write(self.end, key)

    def stopped(self) -> bool:
        """Whether it is suspended, as Ctrl-Z does; it has to be alive."""
        pid, how = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        self.read()
        return bool(pid) and os.WIFSTOPPED(how)

    def ended(self) -> int:
        """Its exit code, once it has left the terminal as it was."""
        self.until("\x1b[?1049l")
        found: list[int] = []

        def is_over() -> bool:
            self.read()
            pid, how = os.waitpid(self.pid, os.WNOHANG)
            found.append(os.waitstatus_to_exitcode(how) if pid else 0)
            return bool(pid)

        wait_until(is_over)
        assert termios.tcgetattr(self.end)[3] == self.before[3]
        return found[-1]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.end)


@pytest.fixture
def terminal(stage: Stage) -> Iterator[Terminal]:
    with local_broker("embedded") as broker:
        made = Terminal(stage, str(broker.address))
        try:
            yield made
        finally:
            made.close()


def test_q_ends_what_is_shown_on_a_terminal(terminal: Terminal) -> None:
    terminal.until("\x1b[?1049h")
    terminal.until("none is online")
    assert not termios.tcgetattr(terminal.end)[3] & termios.ECHO
    terminal.press(b"x")
    termios.tcsetwinsize(terminal.end, (24, 40))  # it is told, and draws anew
    terminal.until("none is online")
    terminal.press(b"q")
    assert terminal.ended() == 0


def test_ctrl_z_and_ctrl_c(terminal: Terminal) -> None:
    terminal.until("none is online")
    terminal.press(b"\x1a")
    wait_until(terminal.stopped)
    terminal.until("\x1b[?1049l")
    assert termios.tcgetattr(terminal.end)[3] == terminal.before[3]
    os.kill(terminal.pid, signal.SIGCONT)
    terminal.until("\x1b[?1049h")
    terminal.until("none is online")
    terminal.press(b"\x03")
    assert terminal.ended() == 130
