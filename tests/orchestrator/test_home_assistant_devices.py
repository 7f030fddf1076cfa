"""What Home Assistant is told fits what it documents, and its templates find in our messages what they are to find."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.errors import UsageError
from legion_iot.orchestrator.home_assistant_devices import Discovery
from legion_iot.wire import codec
from legion_iot.wire.group import AgentMetrics, Failures, GroupMetrics, ModelMetrics
from legion_iot.wire.home_assistant import DiscoveryTopics
from legion_iot.wire.messages import AgentState, Answer, Metrics, OrchestratorState, OutputDigest, Result
from legion_iot.wire.topics import Topics
from tests.orchestrator.home_assistant import is_available, read_device, render, state_of
from tests.wire.strategies import any_of

TOPICS = Topics("shed/pis")
PLACES = DiscoveryTopics("shed/pis")
GROUP = "homeassistant/device/shed_-pis/group/config"
ANT = "homeassistant/device/shed_-pis/agent-ant/config"
BEE = "homeassistant/device/shed_-pis/agent-bee/config"


def model(name: str, **more: Any) -> ModelMetrics:
    return replace(ModelMetrics(name, "0" * 64, "serving", "", 1, "auto", "latency", "float32"), **more)


def group(*agents: AgentMetrics, models: tuple[ModelMetrics, ...] = (model("cats"),)) -> GroupMetrics:
    return GroupMetrics("s", 1.0, 0, agents, models)


ONLINE = group(AgentMetrics("ant", "online", board="Raspberry Pi 4"), AgentMetrics("bee", "offline"))


def say(discovery: Discovery, metrics: GroupMetrics) -> dict[str, dict[str, Any]]:
    """What is announced for these metrics, and was not before."""
    announced = {}
    for topic, payload in discovery.changes(metrics):
        announced[topic] = read_device(payload)
        discovery.said(topic, payload)
    return announced


@pytest.fixture
def announced() -> dict[str, dict[str, Any]]:
    return say(Discovery(TOPICS, PLACES), ONLINE)


def test_a_device_for_the_group_and_one_for_each_agent(announced: dict[str, dict[str, Any]]) -> None:
    assert list(announced) == [GROUP, ANT, BEE]  # the group first: the others refer to it
    identifiers = announced[GROUP]["device"]["identifiers"]
    assert [announced[topic]["device"]["via_device"] for topic in (ANT, BEE)] == identifiers * 2
    assert announced[ANT]["device"]["model"] == "Raspberry Pi 4"
    assert {key for key, each in announced[GROUP]["components"].items() if each["platform"] == "button"} == {"replan"}
    ids = [each["unique_id"] for message in announced.values() for each in message["components"].values()]
    assert len(set(ids)) == len(ids)


def test_what_an_agent_says_becomes_its_sensors() -> None:
    warm = group(AgentMetrics("ant", "online", temperature=51.0))
    message = say(Discovery(TOPICS, PLACES), warm)[ANT]
    metrics = codec.to_json(Metrics("s", 9.0, 0.537, 51.26, False, 93_400_000, 200, 4, 0.0261, 7, 8, 0))
    idle = codec.to_json(Metrics("s", 9.0, 0.0, None, False, 1, 200, 0, 0.0, 7, 8, 0))
    sensors = message["components"]
    found = {key: (state_of(each, metrics), state_of(each, idle)) for key, each in sensors.items() if key != "state"}
    assert found == {
        "temperature": ("51.3", None),
        "load": ("0.5", "0.0"),
        "tile-time": ("6.5", None),
        "memory": ("93", "0"),
    }
    state = codec.to_json(AgentState("degraded", "s", "hot"))
    assert state_of(sensors["state"], state) == "degraded"
    assert json.loads(render(sensors["state"]["json_attributes_template"], state)) == {"detail": "hot"}
    assert {each["state_topic"] for each in sensors.values()} == {
        "shed/pis/agents/ant/state",
        "shed/pis/agents/ant/metrics",
    }


def test_what_the_orchestrator_says_becomes_the_groups_sensors(announced: dict[str, dict[str, Any]]) -> None:
    sensors = announced[GROUP]["components"]
    cats = model("cats", answered=7, per_second=0.26, latency_ms=41.28, last_error="busy: 32 requests wait already")
    dogs = model("dogs", answered=2, per_second=0.11, failed=(Failures("busy", 3), Failures("deadline", 1)))
    metrics = codec.to_json(group(models=(cats, dogs)))
    keys = ("answered", "failed", "rate", "last-error", "model-cats-latency")
    assert [state_of(sensors[key], metrics) for key in keys] == [
        "9", "4", "0.4", "busy: 32 requests wait already", "41.3",
    ]  # fmt: skip
    quiet = codec.to_json(group())
    assert [state_of(sensors[key], quiet) for key in keys] == ["0", "0", "0.0", "none", None]
    state = codec.to_json(OrchestratorState("serving", "s", "ant, bee", ("ant", "bee")))
    assert [state_of(sensors[key], state) for key in ("state", "agents")] == ["serving", "2"]
    long = codec.to_json(group(models=(model("cats", last_error="x" * 300),)))
    assert state_of(sensors["last-error"], long) == "x" * 255


BOX = (0.0, 0.0, 0.5, 0.5)
FEW = (OutputDigest("age", (1, 2), "float32", "0" * 64, (31.5, None)),)
ANSWERS: list[tuple[str, tuple[Answer, ...], tuple[OutputDigest, ...], str]] = [
    ("classes", (Answer(3, "tabby", 0.7), Answer(5, "tiger", 0.2)), (), "tabby"),
    ("classes", (Answer(0, "", 0.7),), (), "0"),  # a model without labels
    ("classes", (Answer(3, "x" * 300, 0.7),), (), "x" * 255),
    ("boxes", tuple(Answer(0, label, 0.7, BOX) for label in ("cat", "dog", "cat")), (), "cat, dog"),
    ("boxes", (), (), "nothing"),
    ("tensors", (), FEW, "31.5, None"),
    ("image", (), (), "image"),
]


@pytest.mark.parametrize(("kind", "answer", "outputs", "expected"), ANSWERS)
def test_a_result_becomes_an_answer(
    announced: dict[str, dict[str, Any]],
    kind: str,
    answer: tuple[Answer, ...],
    outputs: tuple[OutputDigest, ...],
    expected: str,
) -> None:
    sensor = announced[GROUP]["components"]["model-cats-answer"]
    result = codec.to_json(Result("r-1", True, "cats", 1, 41.5, answer, outputs, kind=kind))
    assert state_of(sensor, result) == expected
    attributes = json.loads(render(sensor["json_attributes_template"], result))
    assert (attributes["score"], attributes["latency_ms"]) == (answer[0].score if answer else None, 41.5)
    refused = codec.to_json(Result("r-2", False, "cats", 1, 0.0, error="busy", reason="later"))
    assert state_of(sensor, refused) is None
    assert json.loads(render(sensor["json_attributes_template"], refused))["error"] == "busy"


FUZZED = say(Discovery(TOPICS, PLACES), group(AgentMetrics("ant", "online", temperature=1.0)))
COMPONENTS = [component for message in FUZZED.values() for component in message["components"].values()]


@pytest.mark.parametrize(
    ("kind", "topic"),
    [(GroupMetrics, "orchestrator/metrics"), (Metrics, "agents/ant/metrics"), (Result, "infer/cats/result")],
)
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_no_message_is_too_much_for_a_template(kind: type[Any], topic: str, data: st.DataObject) -> None:
    """Whatever it holds: each sensor has a state, which is short enough, and attributes are JSON."""
    payload = codec.to_json(data.draw(any_of(kind)))
    reading = [each for each in COMPONENTS if each.get("state_topic") == f"shed/pis/{topic}"]
    assert reading
    for component in reading:
        state_of(component, payload)
        if "json_attributes_template" in component:
            assert "error" in json.loads(render(component["json_attributes_template"], payload))


def test_a_topic_that_was_cleared_is_unknown() -> None:
    for component in COMPONENTS:
        if component["platform"] == "sensor":
            assert render(component["value_template"], b"") == "None"
            assert isinstance(json.loads(render(component.get("json_attributes_template", "{}"), b"")), dict)


def test_what_is_available_when_somebody_is_offline(announced: dict[str, dict[str, Any]]) -> None:
    there, gone = codec.to_json(AgentState("degraded", "s")), codec.to_json(AgentState("offline", "s"))
    serving, ended = codec.to_json(OrchestratorState("serving", "s")), codec.to_json(OrchestratorState("offline", "s"))
    agent, orchestrator = "shed/pis/agents/ant/state", "shed/pis/orchestrator/state"
    cases = [
        ({agent: there, orchestrator: serving}, True, True),
        ({agent: gone, orchestrator: serving}, False, True),
        ({agent: there, orchestrator: ended}, False, False),
        ({agent: b"", orchestrator: serving}, False, True),
        ({orchestrator: b""}, False, False),
        ({}, False, False),
    ]
    for payloads, of_agent, of_group in cases:
        for topic, expected in ((ANT, of_agent), (GROUP, of_group)):
            message = announced[topic]
            for key, component in message["components"].items():
                # Who is offline says so.
                assert is_available(message, component, payloads) == (expected or key == "state"), (
                    topic,
                    key,
                    payloads,
                )


def test_what_could_not_be_sent_is_new_again() -> None:
    discovery = Discovery(TOPICS, PLACES)
    first = discovery.changes(ONLINE)
    assert discovery.changes(ONLINE) == first
    say(discovery, ONLINE)
    more = group(*ONLINE.agents, models=(model("cats"), model("dogs")))
    assert [topic for topic, _ in discovery.changes(more)] == [GROUP]
    assert list(say(discovery, more)) == [GROUP]
    assert say(discovery, more) == {}


def test_only_what_is_new_is_announced() -> None:
    discovery = Discovery(TOPICS, PLACES)
    say(discovery, ONLINE)
    assert say(discovery, ONLINE) == {}
    warm = group(
        AgentMetrics("ant", "online", board="Raspberry Pi 4", temperature=40.0), AgentMetrics("bee", "offline")
    )
    assert list(say(discovery, warm)) == [ANT]
    assert say(discovery, ONLINE) == {}  # it has a sensor, whether or not it tells just now
    assert [topic for topic, _ in discovery.everything()] == [GROUP, ANT, BEE]


def test_a_model_that_is_served_no_more_is_named_once_more_and_for_good() -> None:
    discovery = Discovery(TOPICS, PLACES)
    say(discovery, group(models=(model("cats"), model("dogs"))))
    components = say(discovery, group(models=(model("cats"),)))[GROUP]["components"]
    assert {key: each for key, each in components.items() if "dogs" in key} == {
        "model-dogs-answer": {"platform": "sensor"},
        "model-dogs-latency": {"platform": "sensor"},
    }
    again = Discovery(TOPICS, PLACES)  # after a restart
    again.found(dict(discovery.everything()), set())
    assert say(again, group(models=(model("cats"),))) == {}
    assert "name" in say(again, group(models=(model("dogs"),)))[GROUP]["components"]["model-dogs-answer"]


def test_a_model_that_answers_with_pictures_has_an_image() -> None:
    discovery = Discovery(TOPICS, PLACES)
    say(discovery, ONLINE)
    discovery.pictured("cats")
    image = say(discovery, ONLINE)[GROUP]["components"]["model-cats-picture"]
    assert (image["platform"], image["image_topic"]) == ("image", "shed/pis/infer/cats/result/image")
    again = Discovery(TOPICS, PLACES)
    again.found(dict(discovery.everything()), {"ant", "bee"})
    assert say(again, ONLINE) == {}


def test_agents_that_were_removed_go_and_those_that_are_offline_stay() -> None:
    discovery = Discovery(TOPICS, PLACES)
    assert discovery.removed("ant") is None
    discovery.returned("ant")
    say(discovery, ONLINE)
    topic = discovery.removed("bee")
    assert topic == BEE
    discovery.said(topic, b"")
    assert say(discovery, ONLINE) == {}  # the orchestrator still knows it, as offline
    discovery.returned("bee")
    assert list(say(discovery, ONLINE)) == [BEE]
    again = Discovery(TOPICS, PLACES)
    assert again.found(dict(discovery.everything()), {"ant"}) == [BEE]
    assert list(say(again, group(AgentMetrics("ant", "online", board="Raspberry Pi 4")))) == []


@pytest.mark.parametrize(
    "payload", [b"{", b"[]", b'{"components": 3}', b'{"components": {"x": {}}}', b"\xff", b"[" * 9999]
)
def test_what_somebody_else_has_left_there_is_replaced(payload: bytes) -> None:
    discovery = Discovery(TOPICS, PLACES)
    assert discovery.found({GROUP: payload}, set()) == []
    assert GROUP in say(discovery, ONLINE)


def test_the_automation_of_the_document_finds_what_results_become(announced: dict[str, dict[str, Any]]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "home-assistant.md").read_text(encoding="utf-8")
    condition, message = re.findall(r'^ *(?:value_template|message): "(.*)"$', text, re.MULTILINE)
    sensor = announced[GROUP]["components"]["model-cats-answer"]
    for labels, expected in ((("cat", "person"), "True"), (("cat", "dog"), "False")):
        found = tuple(Answer(0, label, 0.7, BOX) for label in labels)
        result = codec.to_json(Result("r-1", True, "cats", 1, 41.5, found, kind="boxes"))
        attributes = json.loads(render(sensor["json_attributes_template"], result))
        trigger = {"to_state": {"state": state_of(sensor, result), "attributes": attributes}}
        assert render(condition, b"", trigger=trigger) == expected
        assert render(message, b"", trigger=trigger) == "2 objects in 41.5 ms"


def test_bases_and_levels() -> None:
    """The level that a group has is made of what discovery takes, and no two groups have one."""
    bases = ["a", "a/b", "a_b", "a_/b", "a/_b", "a-b", "a__b", "a_-b", "a/-b", "legion"]
    levels = [DiscoveryTopics(base).node for base in bases]
    assert len(set(levels)) == len(bases)
    assert all(re.fullmatch("[a-zA-Z0-9_-]+", level) for level in levels)
    assert DiscoveryTopics("legion").device("group") == "homeassistant/device/legion/group/config"
    for prefix in ("", "a//b", "+", "a b", "/a"):
        with pytest.raises(UsageError, match="discovery prefix"):
            DiscoveryTopics("legion", prefix)


@settings(deadline=None, max_examples=40)
@given(st.from_regex(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", fullmatch=True))
def test_a_level_tells_its_base(base: str) -> None:
    level = DiscoveryTopics(base).node
    assert re.sub("_[_-]", lambda found: {"__": "_", "_-": "/"}[found[0]], level) == base
