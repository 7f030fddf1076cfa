"""The page as people see it: a real group, a real Chromium, and what happens when something of it goes away."""

from __future__ import annotations

import contextlib
import io
import json
import queue
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import ModelInfo
from legion_iot.wire.topics import Topics
from legion_iot_broker.embedded import EmbeddedBroker
from tests.broker.groups import let_in, mosquitto_with_group, open_place
from tests.page.conftest import live_page, require

from .conftest import PATIENCE, Program, Stage, require_mosquitto
from .networks import detector, picture_to_picture, residual_classifier

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
AGENTS = ("ant", "bee", "cat")


class Page:
    """What a test sees of the page, and does to it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def text(self, selector: str) -> str:
        """What people read there, empty where nothing is shown."""
        return " ".join(self.texts(selector))

    def texts(self, selector: str) -> list[str]:
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter((found) => found.checkVisibility())"
            ".map((found) => (found.innerText ?? found.textContent).trim())"
        )
        return list(self.driver.execute_script(script, selector))  # type: ignore[no-untyped-call]

    def until(self, what: Callable[[], object]) -> None:
        try:
            WebDriverWait(self.driver, PATIENCE / 2, 0.05, [WebDriverException]).until(lambda _: what())
        except TimeoutException:
            pytest.fail(f"it did not happen in time; the page says: {self.text('body')}")

    def send_picture(self, path: Path) -> None:
        self.driver.find_element(By.ID, "file").send_keys(str(path))

    def sign_in(self, user: str, password: str) -> None:
        for name, value in (("user", user), ("password", password)):
            self.driver.find_element(By.ID, name).clear()
            self.driver.find_element(By.ID, name).send_keys(value)
        self.driver.find_element(By.ID, "password").send_keys(Keys.ENTER)

    def complaints(self) -> list[str]:
        """What the browser's console says, but for links that could not be made while a broker was away."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    require("chromium", "chromedriver")
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}", "--window-size=1440,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield Page(driver)
    finally:
        driver.quit()


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(port=0) as running:
        yield running


def agent(stage: Stage, url: str, name: str, directory: Path) -> Program:
    place = str(directory / name)
    return stage.start("legion-agent", "--broker", url, "--name", name, "--state-dir", place)


def results_of(broker: EmbeddedBroker, model: str, picture: Path) -> dict[str, Any]:
    """The result that any client gets for a picture, with its `png`; it asks again while nobody is there to answer."""
    came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: came.put(message.payload)
    client.connect(broker.address.host, broker.address.port)
    client.subscribe([(f"legion/infer/{model}/result", 1), (f"legion/infer/{model}/result/image", 1)])
    client.loop_start()
    try:
        deadline, first = time.monotonic() + PATIENCE, b""
        while not first:
            assert time.monotonic() < deadline, "nobody answers"
            client.publish(f"legion/infer/{model}", picture.read_bytes(), qos=1)
            with contextlib.suppress(queue.Empty):
                first = came.get(timeout=3)
        result: dict[str, Any] = json.loads(first)
        assert result["ok"], result
        if result["image"]:
            while not (png := came.get(timeout=PATIENCE)).startswith(b"\x89PNG"):
                pass
            result["png"] = png
    finally:
        client.disconnect()
        client.loop_stop()
    return result


def states(page: Page) -> dict[str, str]:
    script = "return [...document.querySelectorAll('#agents tr')].map((row) => [row.dataset.agent, row.dataset.state])"
    return dict(page.driver.execute_script(script))  # type: ignore[no-untyped-call]


def test_a_group_in_the_browser(
    browser: Page, stage: Stage, broker: EmbeddedBroker, photograph: Path, tmp_path: Path
) -> None:
    models = [residual_classifier(tmp_path / "stranger.tflite"), detector(tmp_path / "finder.tflite"),
              picture_to_picture(tmp_path / "edges.tflite")]  # fmt: skip
    url = f"mqtt://{broker.address.endpoint}"
    orchestrator = stage.start(
        "legion", "orchestrator", "run", *map(str, models), "--broker", url, "--agents", "3", "--planner", "balanced",
        "--page", "127.0.0.1:0", "--state-dir", str(tmp_path),
    )  # fmt: skip
    agents = {name: agent(stage, url, name, tmp_path) for name in AGENTS}
    orchestrator.wait_for_line("the live page is at ")
    (place,) = (found[1] for line in orchestrator.lines if (found := re.search(r"the live page is at (\S+)", line)))
    page = browser
    page.driver.get(place)

    # The group and its plan.
    page.until(lambda: page.text("#phase") == "serving")
    page.until(lambda: states(page) == dict.fromkeys(AGENTS, "online"))
    page.until(lambda: page.texts("#models button") == ["edges", "finder", "stranger"])
    choose(page, "stranger")
    page.until(lambda: page.texts("#gantt .bar.compute"))
    assert page.text("#link") == "live"
    assert page.text("#plan-title") == "Plan of stranger"
    assert set(page.texts("#gantt .name")) == {"orchestrator", *AGENTS}

    # A picture by the file input; the answer is what any other client gets.
    page.send_picture(photograph)
    page.until(lambda: page.texts("#labels .label"))
    expected = results_of(broker, "stranger", photograph)["answer"]
    assert page.texts("#labels .label") == [each["label"] for each in expected]
    assert page.texts("#labels .score") == [percent(each["score"]) for each in expected]
    page.until(lambda: len(page.texts("#recent li")) >= 2)
    _boxes_and_pictures(page, broker, photograph)
    page.until(lambda: "ms" in page.text("#latency .measured .figure"))

    # What is no picture is answered with a reason.
    (tmp_path / "words.txt").write_text("no picture at all", encoding="utf-8")
    choose(page, "stranger")
    page.send_picture(tmp_path / "words.txt")
    page.until(lambda: page.text("#failure").startswith("bad-input: "))
    assert "JPEG" in page.text("#failure")

    _nonsense_is_passed_over(page, broker)

    # The chart tells of its bars to the keyboard, too.
    page.driver.find_element(By.CSS_SELECTOR, "#gantt svg").send_keys(Keys.ARROW_RIGHT)
    assert re.match(r"orchestrator sends .* to (ant|bee|cat), from ", page.text("#detail"))

    for width, scheme in ((360, "light"), (1440, "dark")):
        _look(page, width, scheme, tmp_path / f"page-{width}-{scheme}.png")
    assert page.complaints() == []

    # An agent dies.
    agents["bee"].process.kill()
    page.until(lambda: states(page).get("bee") == "offline")
    page.until(lambda: "bee" not in page.texts("#gantt .name"))

    # The broker goes, and comes back without anything that it had.
    broker.stop()
    page.until(lambda: page.text("#link") == "reconnecting")
    page.until(lambda: page.text("#note") == "The broker is away. This page reconnects by itself.")
    with EmbeddedBroker(port=broker.address.port) as back:
        page.until(lambda: page.text("#link") == "live")
        page.until(lambda: not page.text("#note"))
        assert results_of(back, "stranger", photograph)["answer"] == expected  # so the orchestrator is back, too
        page.send_picture(photograph)
        page.until(lambda: page.texts("#labels .label") == [each["label"] for each in expected])
    assert [each for each in page.complaints() if "WebSocket connection to" not in each] == []


def choose(page: Page, model: str) -> None:
    (button,) = (each for each in page.driver.find_elements(By.CSS_SELECTOR, "#models button") if each.text == model)
    button.click()
    page.until(lambda: page.text("#plan-title") == f"Plan of {model}")


def _boxes_and_pictures(page: Page, broker: EmbeddedBroker, photograph: Path) -> None:
    choose(page, "finder")
    page.send_picture(photograph)
    page.until(lambda: page.texts(".box"))
    found = results_of(broker, "finder", photograph)["answer"]
    script = (
        "const whole = document.getElementById('preview').getBoundingClientRect();"
        "return [...document.querySelectorAll('.box')].map((found) => found.getBoundingClientRect()).map((box) =>"
        " [(box.top - whole.top) / whole.height, (box.left - whole.left) / whole.width,"
        " (box.bottom - whole.top) / whole.height, (box.right - whole.left) / whole.width])"
    )
    shown = page.driver.execute_script(script)  # type: ignore[no-untyped-call]
    assert shown == [pytest.approx(each["box"], abs=0.01) for each in found]

    choose(page, "edges")
    page.send_picture(photograph)
    loaded = "const drawn = document.getElementById('drawn'); return drawn.checkVisibility() && drawn.naturalWidth > 0"
    page.until(lambda: page.driver.execute_script(loaded))  # type: ignore[no-untyped-call]
    script = (
        "const drawn = document.getElementById('drawn'), canvas = document.createElement('canvas');"
        "[canvas.width, canvas.height] = [drawn.naturalWidth, drawn.naturalHeight];"
        "const context = canvas.getContext('2d'); context.drawImage(drawn, 0, 0);"
        "return [...context.getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 === 0)"
    )
    shown = page.driver.execute_script(script)  # type: ignore[no-untyped-call]
    with Image.open(io.BytesIO(results_of(broker, "edges", photograph)["png"])) as png:
        assert bytes(shown) == png.convert("L").tobytes()


def _nonsense_is_passed_over(page: Page, broker: EmbeddedBroker) -> None:
    """On a broker without rules, anybody may write anything."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect(broker.address.host, broker.address.port)
    client.loop_start()
    nonsense = (
        b"\xff", b"no JSON", b"null", b"[]", b'{"schema": 2}', b'{"schema": 1}',
        b'{"schema": 1, "agents": [null], "models": [7], "blocks": [null], "bars": [null]}',
        b'{"schema": 1, "agents": {}, "models": "", "blocks": 1, "bars": 0}',
    )  # fmt: skip
    for topic in ("orchestrator/state", "orchestrator/metrics", "models/edges/plan", "models/edges"):
        for payload in nonsense:
            client.publish(f"legion/{topic}", payload, qos=1)
    last = {"schema": 1, "ok": False, "error": "busy", "reason": "<b>that was all</b>"}
    client.publish("legion/infer/stranger/result", json.dumps(last), qos=1)
    page.until(lambda: "busy: <b>that was all</b>" in page.texts("#recent .what"))
    client.disconnect()
    client.loop_stop()


def percent(share: float) -> str:
    value = 100 * share
    return "< 1 %" if 0 < value < 0.995 else f"{int(value + 0.5)} %"


def _look(page: Page, width: int, scheme: str, path: Path) -> None:
    """A screenshot at a width, where nothing may stand out of the window."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    script = "return document.documentElement.scrollWidth - window.innerWidth"
    page.until(lambda: page.driver.execute_script(script) <= 0)  # type: ignore[no-untyped-call]
    assert page.driver.save_screenshot(str(path))
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (width, 900)


def test_who_signs_in_sees_what_the_broker_lets_them(browser: Page, photograph: Path) -> None:
    require_mosquitto()
    page = browser
    with open_place() as place, mosquitto_with_group(place) as group:
        hub = let_in(group, "orchestrator", "orchestrator")
        members = {role: let_in(group, f"my-{role}", role) for role in ("observer", "client")}
        with live_page(hub.address(), group.settings.base_topic) as url:
            page.driver.get(url)
            page.complaints()  # those of the page before
            page.until(lambda: page.text("#login h2") == "Sign in to the broker")
            assert page.text("#link") == "signed out"
            page.sign_in("my-observer", "a guess")
            page.until(lambda: "the password is another" in page.text("#login-why"))
            page.sign_in("my-observer", members["observer"].password or "")
            page.until(lambda: page.text("#link") == "live")
            assert not page.text("#login")

            # An observer looks, and no more.
            _serve_nothing(hub.address(), Topics(group.settings.base_topic))
            page.until(lambda: page.text("#plan-title") == "Plan of nothing")
            page.send_picture(photograph)
            page.until(lambda: page.text("#failure").startswith("not-allowed: "))

            # A client comes with its bundle, and stays one when the page is loaded again.
            page.driver.find_element(By.ID, "leave").click()
            page.until(lambda: page.text("#link") == "signed out")
            page.until(lambda: page.text("#login h2"))
            page.driver.find_element(By.ID, "bundle").send_keys(str(members["client"].path))
            page.until(lambda: page.text("#plan-title") == "Plan of nothing")
            page.driver.refresh()
            page.until(lambda: page.text("#link") == "live")
            assert page.complaints() == []


def _serve_nothing(address: BrokerAddress, topics: Topics) -> None:
    """What an orchestrator says of a model."""
    orchestrator = PahoConnection(address, "test", lambda event: None)
    orchestrator.open(PATIENCE)
    info = ModelInfo("nothing", "0" * 64, 1, (1, 8, 8, 3), "float32", 1, ())
    orchestrator.publish(topics.model("nothing"), codec.to_json(info), retain=True)
    orchestrator.close()
