"""What is measured is measured once: whole processes that are restarted, like boards, and a second model."""

from __future__ import annotations

import json
import queue
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from tests.cli.schemas import check

from .conftest import Program, Stage, wait_until
from .networks import residual_classifier

GROUP = "measured"


class Listener:
    """Hears the commands that agents get, and keeps what they retain."""

    def __init__(self, port: int) -> None:
        self.commands: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self.profiles: dict[str, dict[str, Any]] = {}
        subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._paho = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._paho.on_message = self._on_message
        self._paho.on_subscribe = lambda *_: subscribed.put(True)
        self._paho.connect("127.0.0.1", port)
        self._paho.loop_start()
        self._paho.subscribe([(f"{GROUP}/agents/+/command", 1), (f"{GROUP}/agents/+/profile", 1)])
        subscribed.get(timeout=10)

    def _on_message(self, client: object, data: object, message: paho.MQTTMessage) -> None:
        *_, agent, kind = message.topic.split("/")
        content = json.loads(message.payload)
        if kind == "command":
            self.commands.put((agent, content))
        else:
            self.profiles[agent] = content

    def told(self) -> list[tuple[str, str]]:
        """Who was told what, since the last time."""
        found = []
        while not self.commands.empty():
            agent, command = self.commands.get()
            if command["operation"] != "release":  # of the plan before, once the next is in force
                found.append((agent, command["operation"]))
        return found

    def close(self) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()


@contextmanager
def a_broker(stage: Stage, port: int) -> Iterator[int]:
    """A broker that keeps nothing when it ends; on the given port, or (0) on any."""
    program = stage.start("legion", "broker", "run", "--port", str(port))
    assert program.process.stdout is not None
    found = re.search(r":(\d+)", program.process.stdout.readline())
    assert found, program.lines
    yield int(found[1])
    end(program)


def end(*programs: Program) -> None:
    for program in programs:
        program.process.send_signal(signal.SIGTERM)
    for program in programs:
        program.wait(30)


def an_agent(stage: Stage, port: int, name: str, directory: Path) -> Program:
    return stage.start(
        "legion-agent", "--broker", f"mqtt://127.0.0.1:{port}", "--name", name, "--base-topic", GROUP,
        "--board", "shelf", "--state-dir", str(directory / name),
    )  # fmt: skip


def an_orchestrator(stage: Stage, port: int, model: Path, agents: int, state: Path, planner: str = "single") -> Program:
    state.mkdir(exist_ok=True)
    return stage.start(
        "legion", "orchestrator", "run", str(model), "--broker", f"mqtt://127.0.0.1:{port}", "--base-topic", GROUP,
        "--agents", str(agents), "--planner", planner, "--state-dir", str(state),
    )  # fmt: skip


def test_what_was_measured_outlives_agents_broker_and_orchestrator(stage: Stage, tmp_path: Path) -> None:
    model = residual_classifier(tmp_path / "net.tflite")
    with a_broker(stage, 0) as port:
        listener = Listener(port)
        agents = [an_agent(stage, port, name, tmp_path) for name in ("left", "right")]
        orchestrator = an_orchestrator(stage, port, model, 2, tmp_path / "first")
        orchestrator.wait_for_line("serving: left, right")
        told = listener.told()
        assert [each for each in told if each[1] == "probe"] == [("left", "probe"), ("right", "probe")]
        profiling = {agent for agent, operation in told if operation == "profile"}
        assert len(profiling) == 1, "both are of one class of board"
        (measured,) = profiling
        wait_until(lambda: len(listener.profiles) == 2)
        assert listener.profiles[measured]["samples"]
        assert listener.profiles[measured]["link"]["up"] > 0
        assert listener.profiles[measured]["link"]["message_seconds"] > 0

        _plan_for_the_live_group(stage, port, model)
        end(orchestrator)
        orchestrator = an_orchestrator(stage, port, model, 2, tmp_path / "second")  # a new one, with nothing of its own
        orchestrator.wait_for_line("serving: left, right")
        assert listener.told() == []
        end(orchestrator, *agents)
        listener.close()
    with a_broker(stage, port):
        listener = Listener(port)
        agents = [an_agent(stage, port, name, tmp_path) for name in ("left", "right")]
        orchestrator = an_orchestrator(stage, port, model, 2, tmp_path / "third")
        orchestrator.wait_for_line("serving: left, right")
        assert listener.told() == []
        end(*agents)
        # The orchestrator's own memory is enough for an agent that has lost its disk; only its link is its own.
        agents = [an_agent(stage, port, name, tmp_path / "empty") for name in ("left", "right")]
        wait_until(lambda: [line for line in orchestrator.lines if line == "serving: left, right"][1:])
        operations = {operation for _, operation in listener.told()}
        assert operations <= {"fetch", "probe"}
        end(orchestrator, *agents)
        listener.close()


def _plan_for_the_live_group(stage: Stage, port: int, model: Path) -> None:
    """By what is retained; a broker tells nothing of the orchestrator's own link."""
    at = ("--broker", f"mqtt://127.0.0.1:{port}", "--base-topic", GROUP, "--json")
    planned = stage.run("plan", str(model), *at)
    assert planned.returncode == 0, planned.stderr
    assert "the link of orchestrator was not measured" in planned.stderr
    found = check("plan", planned.stdout)
    assert [device["name"] for device in found["devices"]] == ["left", "right", "orchestrator"]
    assert 0 < found["bound_s"] <= found["latency_s"] < 10
    cost = stage.run("cost", str(model), *at)
    assert cost.returncode == 0, cost.stderr
    assert {device["board"] for device in check("cost", cost.stdout)["devices"]} == {found["devices"][0]["board"]}


def test_a_second_model_of_known_layers_costs_no_run(stage: Stage, tmp_path: Path) -> None:
    first = residual_classifier(tmp_path / "first.tflite", seed=1)
    second = residual_classifier(tmp_path / "second.tflite", seed=2)
    assert first.read_bytes() != second.read_bytes()
    with a_broker(stage, 0) as port:
        listener = Listener(port)
        agent = an_agent(stage, port, "only", tmp_path)
        orchestrator = an_orchestrator(stage, port, first, 1, tmp_path / "a", planner="legion")
        orchestrator.wait_for_line("serving: only")
        assert ("only", "profile") in listener.told()
        end(orchestrator)
        orchestrator = an_orchestrator(stage, port, second, 1, tmp_path / "b", planner="legion")
        orchestrator.wait_for_line("serving: only")
        assert listener.told() == [("only", "fetch")]
        end(orchestrator, agent)
        listener.close()
