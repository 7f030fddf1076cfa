"""The page's connection, run by node: through the relay to both brokers, and back when one was away."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from legion_iot.page.relay import PIECE
from legion_iot.page.server import MOST_MESSAGE
from legion_iot_broker.embedded import EmbeddedBroker
from legion_iot_broker.launch import local_broker
from legion_iot_broker.mosquitto import MosquittoProcess
from tests.system.conftest import require_mosquitto

from .conftest import HERE, PATIENCE, STATIC, live_page, node


class Script:
    """The script, told one thing after the other; `next` is the next thing it says that has these keys."""

    def __init__(self, url: str, **told: str) -> None:
        self._process = subprocess.Popen(
            [*node(), str(HERE / "connection_script.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        websocket = url.replace("http", "ws", 1) + "mqtt"
        self.tell({"static": STATIC.as_uri(), "url": websocket, **told})

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))

    def tell(self, what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def next(self, **wanted: str | bool) -> dict[str, Any]:
        while True:
            said = self._said.get(timeout=PATIENCE)
            if all(said.get(key) == value for key, value in wanted.items()):
                return said

    def send(self, number: str, size: int, topic: str = "legion/echo") -> None:
        self.tell({"number": number, "size": size, "topic": topic})

    def echo(self, number: str, size: int, topic: str = "legion/echo") -> dict[str, Any]:
        self.send(number, size, topic)
        return self.next(echo=number)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)


@pytest.fixture(params=["embedded", "mosquitto"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "mosquitto":
        require_mosquitto()
    return str(request.param)


@pytest.fixture
def broker(kind: str) -> Iterator[EmbeddedBroker | MosquittoProcess]:
    made = EmbeddedBroker(port=0) if kind == "embedded" else MosquittoProcess(port=0)
    made.start()
    yield made
    made.stop()


def test_a_picture_comes_through_whole_and_again_after_the_broker_was_away(
    kind: str, broker: EmbeddedBroker | MosquittoProcess
) -> None:
    with live_page(broker.address) as url:
        script = Script(url)
        try:
            script.next(state="online")
            for number, size in (("small", 3), ("edge", PIECE), ("large", 3 * MOST_MESSAGE + 17)):
                assert script.echo(number, size) == {"echo": number, "same": True, "ordered": True, "last": 1}
            # What is to be acknowledged meanwhile waits until a picture is through.
            for number in "abc":
                script.send(number, 3 * MOST_MESSAGE)
            assert {script.next(same=True)["echo"] for _ in "abc"} == set("abc")
            broker.stop()
            assert script.next(state="waiting")["reason"] == "broker"
            assert script.echo("lost", 3)["refused"] == "the connection was lost"
            script.next(state="waiting")  # also the relay does not reach it
            back = (
                EmbeddedBroker(port=broker.address.port)
                if kind == "embedded"
                else MosquittoProcess(port=broker.address.port)
            )
            back.start()
            try:
                script.next(state="online")
                assert script.echo("again", 1000)["same"] is True
            finally:
                back.stop()
        finally:
            script.close()


def test_who_is_not_known_is_told_so_and_who_may_not_write_too(kind: str) -> None:
    acl = "user phone\ntopic read legion/#\ntopic write legion/echo\n"
    with (
        local_broker(kind, users={"phone": "secret"}, acl=acl) as broker,  # type: ignore[arg-type]
        live_page(broker.address) as url,
    ):
        for told, reason in (({}, "name"), ({"user": "phone", "password": "guess"}, "password")):
            script = Script(url, **told)
            try:
                assert script.next(state="refused")["reason"] == reason
            finally:
                script.close()
        script = Script(url, user="phone", password="secret")
        try:
            script.next(state="online")
            assert script.echo("allowed", 10)["same"] is True
            assert script.echo("denied", 10, "legion/elsewhere")["refused"] == "not allowed"
        finally:
            script.close()
