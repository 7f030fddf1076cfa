"""Topics are built and parsed alike, and no name carries a level or a wildcard with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import ProtocolError, UsageError
from legion_iot.wire.topics import (
    AGENT_KINDS,
    AgentTopic,
    AssignmentTopic,
    BridgeTopic,
    InboxTopic,
    InferTopic,
    ModelTopic,
    OrchestratorTopic,
    PlanTopic,
    ReportTopic,
    ResultTopic,
    Topics,
    check_agent_name,
    check_model_name,
    check_participant_name,
)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True).filter(lambda name: name != "orchestrator")
MODELS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,31}", fullmatch=True)
BASES = st.from_regex(r"[A-Za-z0-9_-]{1,9}(/[A-Za-z0-9_-]{1,9}){0,2}", fullmatch=True)
SMUGGLERS = [
    "",
    "a/b",
    "+",
    "#",
    "a+",
    "a#",
    "/a",
    "a/",
    "../a",
    "A",
    "ä",
    "a b",
    "a\n",
    "a\0",
    "$sys",
    "-a",
    "x" * 33,
    "٣",
]


@given(BASES, NAMES, NAMES, MODELS, st.sampled_from(AGENT_KINDS))
def test_what_is_built_is_parsed(base: str, name: str, other: str, model: str, kind: str) -> None:
    topics = Topics(base)
    assert topics.parse(topics.agent(name, kind)) == AgentTopic(name, kind)
    assert topics.parse(topics.assignment(name, model)) == AssignmentTopic(name, model)
    assert topics.parse(topics.report(name, "ready")) == ReportTopic(name, "ready")
    assert topics.parse(topics.inbox(name, other)) == InboxTopic(name, other)
    assert topics.parse(topics.inbox(name, "orchestrator")) == InboxTopic(name, "orchestrator")
    assert topics.parse(topics.inbox("orchestrator", name)) == InboxTopic("orchestrator", name)
    assert topics.parse(topics.orchestrator_state()) == OrchestratorTopic("state")
    assert topics.parse(topics.orchestrator_metrics()) == OrchestratorTopic("metrics")
    assert topics.parse(topics.model(model)) == ModelTopic(model)
    assert topics.parse(topics.plan(model)) == PlanTopic(model)
    assert topics.parse(topics.infer(model)) == InferTopic(model)
    assert topics.parse(topics.result(model)) == ResultTopic(model)
    assert topics.parse(topics.bridge_request(name)) == BridgeTopic(name)
    assert check_agent_name(name) == check_participant_name(name) == name
    assert check_model_name(model) == model


def test_the_topics_of_the_protocol() -> None:
    """docs/protocol.md, spelt out."""
    topics = Topics("legion")
    assert topics.agent("pi", "state") == "legion/agents/pi/state"
    assert topics.report("pi", "ready") == "legion/agents/pi/report/ready"
    assert topics.assignment("pi", "vgg16") == "legion/agents/pi/assignment/vgg16"
    assert topics.inbox("pi", "bee") == "legion/agents/pi/inbox/bee"
    assert topics.inbox("orchestrator", "pi") == "legion/orchestrator/inbox/pi"
    assert topics.inbox("orchestrator", "orchestrator") == "legion/orchestrator/inbox/orchestrator"
    assert topics.probe("pi") == "legion/agents/pi/probe"
    assert topics.probe("orchestrator") == "legion/orchestrator/probe"
    assert topics.orchestrator_state() == "legion/orchestrator/state"
    assert topics.orchestrator_metrics() == "legion/orchestrator/metrics"
    assert topics.model("vgg16") == "legion/models/vgg16"
    assert topics.plan("vgg16") == "legion/models/vgg16/plan"
    assert topics.infer("vgg16") == "legion/infer/vgg16"
    assert topics.result("vgg16") == "legion/infer/vgg16/result"
    assert topics.result_image("vgg16") == "legion/infer/vgg16/result/image"
    assert topics.answer("phone", "7") == "legion/answers/phone/7"
    assert topics.answer_image("phone", "7") == "legion/answers/phone/7/image"


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for topic in (text, f"legion/{text}", f"legion/agents/{text}/state", f"legion/infer/{text}"):
        try:
            parsed = Topics().parse(topic)
        except ProtocolError:
            continue
        names = [getattr(parsed, field) for field in parsed.__dataclass_fields__]
        assert all(name.isascii() and not set(name) & set("/+#\0\n ") for name in names)


@pytest.mark.parametrize("name", SMUGGLERS)
def test_names_that_smuggle_are_refused(name: str) -> None:
    for topic in (
        f"legion/agents/{name}/state",
        f"legion/agents/{name}/report/ready",
        f"legion/agents/pi/report/{name}",
        f"legion/agents/{name}/inbox/pi",
        f"legion/agents/pi/inbox/{name}",
        f"legion/orchestrator/inbox/{name}",
        f"legion/models/{name}",
        f"legion/models/{name}/plan",
        f"legion/infer/{name}",
        f"legion/infer/{name}/result",
    ):
        with pytest.raises(ProtocolError):
            Topics().parse(topic)
    with pytest.raises(UsageError):
        check_agent_name(name)
    with pytest.raises(UsageError):
        check_model_name(name)
    with pytest.raises(ProtocolError):
        check_participant_name(name)


@pytest.mark.parametrize(
    "topic",
    [
        "legion/agents/orchestrator/state",
        "legion/agents/orchestrator/report/ready",
        "legion/agents/orchestrator/inbox/pi",
    ],
)
def test_nobody_passes_for_the_orchestrator(topic: str) -> None:
    with pytest.raises(ProtocolError):
        Topics().parse(topic)
    with pytest.raises(UsageError):
        check_agent_name("orchestrator")


@pytest.mark.parametrize(
    "topic", ["other/agents/pi/state", "legion2/agents/pi/state", "legion", "agents/pi/state", "legion/agents/pi/mood"]
)
def test_foreign_topics_are_refused(topic: str) -> None:
    with pytest.raises(ProtocolError):
        Topics().parse(topic)


@pytest.mark.parametrize("base", ["", "/", "a/", "/a", "a//b", "a/+", "#", "a b", "a\n", "ä"])
def test_bases_that_cannot_be_are_refused(base: str) -> None:
    with pytest.raises(UsageError):
        Topics(base)
