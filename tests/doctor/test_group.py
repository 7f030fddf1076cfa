"""What a group retains, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from legion_iot import __version__
from legion_iot.doctor import group
from legion_iot.doctor.findings import Finding
from legion_iot.orchestrator.observed import Observed
from legion_iot.transport.connection import Message
from legion_iot.wire import codec
from legion_iot.wire.group import AgentMetrics, GroupMetrics, ModelMetrics
from legion_iot.wire.messages import AgentInfo, AgentState, OrchestratorState
from legion_iot.wire.topics import Topics

TOPICS = Topics("kitchen")
PI = AgentInfo("pi4", 4, 1, 1 << 30, "ai-edge-litert", "2.3.0", "xnnpack", __version__, ())
SERVED = ModelMetrics("cats", "ab" * 32, "serving", "ant", 5, "auto", "latency", "float32")


def observed(
    infos: dict[str, AgentInfo],
    states: dict[str, AgentState] | None = None,
    *,
    metrics: GroupMetrics | None = None,
    orchestrator: str = "serving",
) -> Observed:
    seen = Observed(TOPICS)
    said: dict[str, object] = {TOPICS.agent(name, "info"): info for name, info in infos.items()}
    states = {**{name: AgentState("online", "s") for name in infos}, **(states or {})}
    said |= {TOPICS.agent(name, "state"): state for name, state in states.items()}
    said[TOPICS.orchestrator_state()] = OrchestratorState(orchestrator, "s")
    if metrics is not None:
        said[TOPICS.orchestrator_metrics()] = metrics
    for topic, message in said.items():
        seen.take(Message(topic, codec.to_json(message), retain=True))
    return seen


def wrong(findings: list[Finding]) -> list[str]:
    return [f"{finding.level}: {finding.found}" for finding in findings if finding.level != "ok"]


def test_a_sound_group() -> None:
    metrics = GroupMetrics("s", 1.0, 0, (AgentMetrics("ant", "online"),), (SERVED,))
    seen = observed({"ant": PI, "bee": PI}, metrics=metrics)
    findings = [
        group.orchestrator(seen, {"s"}, "kitchen"), *group.agents(seen), *group.versions(seen),
        *group.runtimes(seen), *group.models(seen),
    ]  # fmt: skip
    assert wrong(findings) == []
    assert [finding.check for finding in findings] == ["orchestrator", "agents", "versions", "runtimes", "models"]
    assert {finding.about for finding in findings} == {"group"}


@pytest.mark.parametrize(
    ("state", "sessions", "level", "found"),
    [
        ("offline", set(), "failure", "none is online below 'kitchen'"),
        ("serving", {"s", "t"}, "failure", "2 serve the same group"),
        ("serving", set(), "warning", "tells nothing of late"),
    ],
)
def test_orchestrators_that_are_gone_or_too_many(state: str, sessions: set[str], level: str, found: str) -> None:
    finding = group.orchestrator(observed({}, orchestrator=state), sessions, "kitchen")
    assert finding.level == level
    assert found in finding.found
    assert finding.cure


def test_agents_that_are_gone_hot_or_left_out() -> None:
    states = {"bee": AgentState("offline", "s"), "cat": AgentState("degraded", "s", "at 85 °C it is slowed down")}
    metrics = GroupMetrics("s", 1.0, 0, (AgentMetrics("ant", "online", problem="left out: no memory"),), ())
    seen = observed({"ant": PI, "bee": PI, "cat": PI}, states, metrics=metrics)
    assert wrong(list(group.agents(seen))) == [
        "warning: 1 offline: bee",
        "warning: cat is degraded: at 85 °C it is slowed down",
        "warning: ant: left out: no memory",
    ]
    assert wrong(list(group.agents(observed({})))) == ["failure: none is online"]


def test_agents_of_another_version() -> None:
    seen = observed({"ant": PI, "bee": replace(PI, version="0.0.9"), "cat": replace(PI, version="0.0.9")})
    assert wrong(list(group.versions(seen))) == [
        f"warning: bee, cat have 0.0.9, and this machine has {__version__}",
    ]


def test_like_boards_with_unlike_runtimes() -> None:
    old = replace(PI, runtime="tflite-runtime", runtime_version="2.14.0")
    (said,) = wrong(list(group.runtimes(observed({"ant": PI, "bee": old}))))
    assert "(pi4) differ: ant: ai-edge-litert 2.3.0 xnnpack; bee: tflite-runtime 2.14.0 xnnpack" in said
    assert wrong(list(group.runtimes(observed({"ant": PI, "bee": replace(old, board="pi3")})))) == []


def test_models_that_are_not_served() -> None:
    metrics = GroupMetrics("s", 1.0, 0, (), (replace(SERVED, phase="profiling", detail="ant"),))
    assert wrong(list(group.models(observed({}, metrics=metrics)))) == ["warning: cats is profiling: ant"]
    metrics = replace(metrics, models=())
    assert wrong(list(group.models(observed({}, metrics=metrics)))) == ["warning: none is served"]


def test_many_names_are_counted() -> None:
    assert group.named(f"pi-{number}" for number in range(8)) == "pi-0, pi-1, pi-2, pi-3, pi-4 and 3 more"
