"""Agents that come, go, and are two of one name: programs of their own, over both brokers."""

from __future__ import annotations

import json
import queue
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from legion_iot_broker.launch import local_broker

from .conftest import PATIENCE, Program, Stage, require_mosquitto, wait_until

MODEL = "mobilenet-v2"


@pytest.fixture(params=["embedded", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "mosquitto":
        require_mosquitto()
    with local_broker(request.param) as running:
        yield str(running.address)


class Witness:
    """Sees and says what it likes; messages are kept in order, as (topic below `legion/`, payload)."""

    def __init__(self, url: str, *filters: str) -> None:
        self.seen: list[tuple[str, bytes]] = []
        subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._paho = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._paho.on_message = lambda _, __, m: self.seen.append((m.topic.removeprefix("legion/"), m.payload))
        self._paho.on_subscribe = lambda *_: subscribed.put(True)
        host, _, port = url.removeprefix("mqtt://").partition(":")
        self._paho.connect(host, int(port))
        self._paho.loop_start()
        self._paho.subscribe([(f"legion/{each}", 1) for each in filters])
        subscribed.get(timeout=PATIENCE)

    def publish(self, topic: str, payload: bytes) -> None:
        self._paho.publish(f"legion/{topic}", payload, qos=1)

    def on(self, topic: str) -> list[dict[str, Any]]:
        """What was said there so far."""
        return [json.loads(payload) for at, payload in self.seen if at == topic]

    def close(self) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()


@pytest.fixture
def witness(broker: str) -> Iterator[Witness]:
    made = Witness(
        broker, "agents/+/state", "agents/+/metrics", "agents/slow/inbox/orchestrator", f"infer/{MODEL}/result"
    )
    yield made
    made.close()


def agent(stage: Stage, url: str, name: str, directory: Path, *options: str) -> Program:
    return stage.start("legion-agent", "--broker", url, "--name", name, "--state-dir", str(directory), *options)


def give_work(witness: Witness, photograph: Path) -> None:
    """Returns once the orchestrator has sent the agent `slow` a request."""

    def parcels() -> int:
        return sum(topic == "agents/slow/inbox/orchestrator" for topic, _ in witness.seen)

    before = parcels()
    witness.publish(f"infer/{MODEL}", photograph.read_bytes())
    wait_until(lambda: parcels() > before)


def has_heard(pid: int, number: signal.Signals) -> bool:
    """Whether no such signal waits for the process; one more would be the same one otherwise."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return not int(status["ShdPnd"], 16) >> (number - 1) & 1


def test_of_two_agents_of_one_name_the_newest_stays(
    stage: Stage, broker: str, witness: Witness, tmp_path: Path
) -> None:
    first = agent(stage, broker, "twin", tmp_path / "a")
    wait_until(lambda: witness.on("agents/twin/metrics"))
    second = agent(stage, broker, "twin", tmp_path / "b")
    assert first.wait(PATIENCE) == 15
    wait_until(lambda: first.lines)
    (line,) = first.lines
    assert "twin" in line
    assert "--name" in line

    # The second one goes on as if nothing had been: one session, which is never said to be gone.
    (old,) = {state["session"] for state in witness.on("agents/twin/state")[:1]}
    wait_until(lambda: len([m for m in witness.on("agents/twin/metrics") if m["session"] != old]) >= 2)
    states = witness.on("agents/twin/state")
    assert [state["state"] for state in states if state["session"] != old] == ["online"]
    late = Witness(broker, "agents/twin/state")
    wait_until(lambda: late.seen)
    assert late.on("agents/twin/state")[0]["session"] != old
    late.close()
    assert second.process.poll() is None


def test_a_killed_agent_has_its_name_back_at_once(stage: Stage, broker: str, witness: Witness, tmp_path: Path) -> None:
    first = agent(stage, broker, "ant", tmp_path)
    wait_until(lambda: witness.on("agents/ant/state"))
    first.process.kill()
    again = agent(stage, broker, "ant", tmp_path)
    old = witness.on("agents/ant/state")[0]["session"]
    wait_until(lambda: any(state["session"] != old for state in witness.on("agents/ant/state")))
    wait_until(lambda: len([m for m in witness.on("agents/ant/metrics") if m["session"] != old]) >= 2)
    assert witness.on("agents/ant/state")[-1] == {
        "schema": 1, "state": "online", "session": witness.on("agents/ant/state")[-1]["session"], "detail": "",
    }  # fmt: skip
    assert witness.on("agents/ant/state")[-1]["session"] != old
    assert again.process.poll() is None


@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_an_agent_that_is_told_to_end_finishes_what_it_computes(
    stage: Stage, broker: str, witness: Witness, photograph: Path, tmp_path: Path
) -> None:
    orchestrator = stage.start("legion", "orchestrator", "run", MODEL, "--broker", broker, "--planner", "balanced")
    # So slow that it computes for seconds.
    slow = agent(stage, broker, "slow", tmp_path, "--cpu-share", "0.005")
    orchestrator.wait_for_line("serving: slow")
    give_work(witness, photograph)
    assert not witness.on(f"infer/{MODEL}/result")
    slow.process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    assert slow.wait(20) == 0
    assert time.monotonic() - told < 20
    wait_until(lambda: witness.on(f"infer/{MODEL}/result"))
    (result,) = witness.on(f"infer/{MODEL}/result")
    assert result["ok"], result
    wait_until(lambda: witness.on("agents/slow/state")[-1]["state"] == "offline")


@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_the_group_does_not_notice_when_an_agent_is_told_to_end(
    stage: Stage, broker: str, witness: Witness, photograph: Path, tmp_path: Path
) -> None:
    orchestrator = stage.start("legion", "orchestrator", "run", MODEL, "--broker", broker, "--planner", "balanced")
    agents = [agent(stage, broker, name, tmp_path / name) for name in ("ant", "bee")]
    orchestrator.wait_for_line("serving: ant, bee")
    for number in range(12):
        witness.publish(f"infer/{MODEL}", photograph.read_bytes())
        if number == 4:
            agents[1].process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert agents[1].wait(20) == 0
    wait_until(lambda: len(witness.on(f"infer/{MODEL}/result")) == 12)
    results = witness.on(f"infer/{MODEL}/result")
    assert all(result["ok"] for result in results), results
    assert len({result["outputs"][0]["sha256"] for result in results}) == 1
    assert [state["state"] for state in witness.on("agents/bee/state")][-2:] == ["draining", "offline"]


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_told_twice_it_ends_at_once(
    stage: Stage, broker: str, witness: Witness, photograph: Path, tmp_path: Path
) -> None:
    orchestrator = stage.start("legion", "orchestrator", "run", MODEL, "--broker", broker, "--planner", "balanced")
    slow = agent(stage, broker, "slow", tmp_path, "--cpu-share", "0.002")
    orchestrator.wait_for_line("serving: slow")
    give_work(witness, photograph)
    slow.process.send_signal(signal.SIGTERM)
    wait_until(lambda: has_heard(slow.process.pid, signal.SIGTERM))
    assert slow.process.poll() is None
    slow.process.send_signal(signal.SIGTERM)
    assert slow.wait(PATIENCE) == 143  # 0 where it had waited for what it computes
    wait_until(lambda: witness.on("agents/slow/state")[-1]["state"] == "offline")  # the broker says so
