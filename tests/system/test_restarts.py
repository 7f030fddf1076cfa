"""What outlives the end of an orchestrator, and of a broker: programs of their own, on a Mosquitto of the test's."""

from __future__ import annotations

import json
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from legion_iot_broker.mosquitto import MosquittoProcess

from .conftest import PATIENCE, Program, Stage, require_mosquitto, wait_until

MODEL = "mobilenet-v2"
INFER, RESULT, ANSWERS = f"legion/infer/{MODEL}", f"legion/infer/{MODEL}/result", "legion/answers/me/1"


@pytest.fixture
def broker() -> Iterator[MosquittoProcess]:
    require_mosquitto()
    with MosquittoProcess() as running:
        yield running


class Client:
    """An MQTT 5 client that comes back after a restart of the broker; it keeps what it was sent, oldest first."""

    def __init__(self, broker: MosquittoProcess, *filters: str) -> None:
        self.seen: list[tuple[str, bytes, bytes]] = []
        self._filters = filters
        self._subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._paho = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._paho.reconnect_delay_set(1, 1)
        self._paho.on_message = self._on_message
        self._paho.on_connect = lambda *_: self._paho.subscribe([(each, 1) for each in filters])
        self._paho.on_subscribe = lambda *_: self._subscribed.put(True)
        self._paho.connect(broker.address.host, broker.address.port)
        self._paho.loop_start()
        self.subscribed()

    def subscribed(self) -> None:
        self._subscribed.get(timeout=PATIENCE)

    def _on_message(self, client: Any, data: Any, message: paho.MQTTMessage) -> None:
        correlation = getattr(message.properties, "CorrelationData", b"")
        self.seen.append((message.topic, message.payload, correlation))

    def ask(self, payload: bytes, correlation: bytes = b"") -> None:
        """Send a request; with correlation data, the answer is wanted on a topic of our own."""
        properties = Properties(PacketTypes.PUBLISH)
        if correlation:
            properties.ResponseTopic, properties.CorrelationData = ANSWERS, correlation
        self._paho.publish(INFER, payload, qos=1, properties=properties).wait_for_publish(PATIENCE)

    def on(self, topic: str) -> list[dict[str, Any]]:
        """What was said there so far."""
        return [json.loads(payload) for at, payload, _ in self.seen if at == topic and payload]

    def close(self) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()


def orchestrator(stage: Stage, broker: MosquittoProcess, *options: str) -> Program:
    url = str(broker.address)
    return stage.start("legion", "orchestrator", "run", MODEL, "--broker", url, "--planner", "balanced", *options)


def agent(stage: Stage, broker: MosquittoProcess, directory: Path, *options: str) -> Program:
    url, where = str(broker.address), str(directory)
    return stage.start("legion-agent", "--broker", url, "--name", "ant", "--state-dir", where, *options)


def test_an_answer_comes_where_it_is_wanted(
    stage: Stage, broker: MosquittoProcess, photograph: Path, tmp_path: Path
) -> None:
    serving = orchestrator(stage, broker)
    agent(stage, broker, tmp_path)
    serving.wait_for_line("serving: ant")
    client = Client(broker, RESULT, "legion/answers/me/+")
    client.ask(photograph.read_bytes(), b"\x00 7")
    wait_until(lambda: client.seen)
    client.ask(b"no picture", b"8")
    wait_until(lambda: len(client.seen) == 2)
    client.ask(photograph.read_bytes())
    wait_until(lambda: len(client.seen) == 3)
    assert [(topic, correlation) for topic, _, correlation in client.seen] == [
        (ANSWERS, b"\x00 7"), (ANSWERS, b"8"), (RESULT, b""),
    ]  # fmt: skip
    first, second = client.on(ANSWERS)
    assert first["outputs"] == client.on(RESULT)[0]["outputs"]
    assert second["error"] == "bad-input"
    client.close()


def test_a_killed_orchestrator_forgets_no_request(
    stage: Stage, broker: MosquittoProcess, photograph: Path, tmp_path: Path
) -> None:
    picture = photograph.read_bytes()
    client = Client(broker, RESULT, "legion/answers/me/+", "legion/agents/ant/assignment/+")
    first = orchestrator(stage, broker)
    slow = agent(stage, broker, tmp_path, "--cpu-share", "0.002")
    first.wait_for_line("serving: ant")
    for correlation in (b"", b"one", b"two"):
        client.ask(picture, correlation)
    journal = next((Path(stage.environment["XDG_STATE_HOME"]) / "legion-iot").rglob("*.jsonl"))
    wait_until(lambda: journal.read_text(encoding="ascii").count('"open"') == 3)
    first.process.kill()
    first.wait(PATIENCE)
    slow.process.kill()
    client.ask(picture, b"meanwhile")  # the broker keeps it
    assert not client.on(RESULT)
    assert not client.on(ANSWERS)

    second = orchestrator(stage, broker)
    agent(stage, broker, tmp_path)
    second.wait_for_line("serving: ant")
    wait_until(lambda: len(client.on(ANSWERS)) == 3)
    client.ask(picture, b"last")
    wait_until(lambda: len(client.on(ANSWERS)) == 4)
    answers = {correlation: json.loads(payload) for topic, payload, correlation in client.seen if topic == ANSWERS}
    assert {each: answers[each]["error"] for each in answers} == {
        b"one": "restarted", b"two": "restarted", b"meanwhile": "", b"last": "",
    }  # fmt: skip
    (plain,) = client.on(RESULT)
    assert (plain["ok"], plain["error"]) == (False, "restarted")
    assert "send the request again" in plain["reason"]

    # The epochs of the second process lie above the first one's, and in the end nothing of either stays behind.
    epochs = [assignment["epoch"] for assignment in client.on("legion/agents/ant/assignment/" + MODEL)]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) >= 2
    second.process.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE) == 0
    client.close()
    late = Client(broker, "legion/agents/ant/assignment/+", "legion/models/+", "legion/orchestrator/state")
    wait_until(lambda: late.seen)
    assert [topic for topic, _, _ in late.seen] == ["legion/orchestrator/state"]
    late.close()


def test_the_group_says_everything_again_to_a_broker_that_forgot(
    stage: Stage, broker: MosquittoProcess, photograph: Path, tmp_path: Path
) -> None:
    serving = orchestrator(stage, broker)
    agent(stage, broker, tmp_path)
    serving.wait_for_line("serving: ant")
    client = Client(broker, RESULT)
    client.ask(photograph.read_bytes())
    wait_until(lambda: client.on(RESULT))
    broker.stop()
    broker.start()
    client.subscribed()
    late = Client(broker, "legion/#")
    wanted = {"agents/ant/state", "agents/ant/info", f"agents/ant/assignment/{MODEL}", f"models/{MODEL}"}
    wait_until(lambda: wanted | {"orchestrator/state"} <= {topic.removeprefix("legion/") for topic, _, _ in late.seen})
    client.ask(photograph.read_bytes())
    wait_until(lambda: len(client.on(RESULT)) == 2)
    before, after = client.on(RESULT)
    assert before["outputs"] == after["outputs"]
    assert late.on("legion/agents/ant/state")[-1]["state"] == "online"
    for each in (client, late):
        each.close()


def test_of_two_orchestrators_of_one_group_the_newest_stays(
    stage: Stage, broker: MosquittoProcess, photograph: Path, tmp_path: Path
) -> None:
    client = Client(broker, RESULT, "legion/orchestrator/state")
    first = orchestrator(stage, broker)
    agent(stage, broker, tmp_path)
    first.wait_for_line("serving: ant")
    elsewhere = tmp_path / "another machine"
    elsewhere.mkdir()
    second = orchestrator(stage, broker, "--state-dir", str(elsewhere))
    assert first.wait(PATIENCE) == 15
    wait_until(lambda: any("--base-topic" in line for line in first.lines))
    second.wait_for_line("serving: ant")
    client.ask(photograph.read_bytes())
    wait_until(lambda: client.on(RESULT))
    assert client.on(RESULT)[0]["ok"]
    newer = client.on("legion/orchestrator/state")[-1]["session"]
    said = [state["state"] for state in client.on("legion/orchestrator/state") if state["session"] == newer]
    assert "offline" not in said  # it was not disturbed

    # On the same machine nobody has to guess which one is meant: the second one does not begin.
    third = orchestrator(stage, broker, "--state-dir", str(elsewhere))
    assert third.wait(PATIENCE) == 3
    wait_until(lambda: any("another orchestrator" in line for line in third.lines))
    assert second.process.poll() is None
    client.close()


def test_a_broker_that_remembers_a_process_of_before_harms_nobody(
    stage: Stage, photograph: Path, tmp_path: Path
) -> None:
    require_mosquitto()
    with MosquittoProcess(persistent=True) as broker:
        client = Client(broker, RESULT, "legion/agents/ant/state", "legion/orchestrator/state")
        serving, first = orchestrator(stage, broker), agent(stage, broker, tmp_path)
        serving.wait_for_line("serving: ant")
        saved = (client.on("legion/agents/ant/state")[-1], client.on("legion/orchestrator/state")[-1])
        assert broker._directory is not None
        database = Path(broker._directory.name) / "data" / "mosquitto.db"

        def written() -> bool:
            return database.exists() and all(old["session"].encode() in database.read_bytes() for old in saved)

        wait_until(written)
        of_then = database.read_bytes()
        for program in (serving, first):
            program.process.kill()
        serving, second = orchestrator(stage, broker), agent(stage, broker, tmp_path)
        serving.wait_for_line("serving: ant")

        broker.kill()
        database.write_bytes(of_then)  # as where it writes it down every few minutes
        broker.start()
        client.subscribed()
        for topic, old in zip(("legion/agents/ant/state", "legion/orchestrator/state"), saved, strict=True):
            wait_until(lambda topic=topic, old=old: client.on(topic)[-1]["session"] != old["session"])  # type: ignore[misc]
        client.ask(photograph.read_bytes())
        wait_until(lambda: client.on(RESULT))
        assert client.on(RESULT)[0]["ok"]
        assert serving.process.poll() is None
        assert second.process.poll() is None
        # The broker did come back with what it had written down.
        assert saved[0] in client.on("legion/agents/ant/state")[2:]
        client.close()
