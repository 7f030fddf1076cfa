"""What was measured on devices, as it is shown: out of what is retained, whoever wrote it."""

from __future__ import annotations

import json
from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from legion_iot.orchestrator.profile_view import AloneOn, profiles
from legion_iot.planning.links import Link
from legion_iot.planning.samples import Sample
from legion_iot.transport.connection import Message
from legion_iot.wire import codec
from legion_iot.wire.group import AgentMetrics, AloneTime, GroupMetrics, PlanInfo
from legion_iot.wire.messages import AgentInfo, AgentState, OrchestratorState, Profile
from legion_iot.wire.topics import Topics
from tests.cli.schemas import check

TOPICS = Topics("kitchen")
PI = AgentInfo("pi4", 4, 1, 1 << 30, "runtime", "1", "xnnpack", "1", ())
LINK = Link(0.001, 1e6, 2e6)


def sample(rows: float, board: str = PI.board_class, seconds: float = 0.25) -> Sample:
    return Sample(board, ("0123456789abcdef",), (rows,), seconds)


def retained(topic: str, message: object) -> Message:
    return Message(topic, codec.to_json(message), retain=True)


def group() -> list[Message]:
    """Two boards of one class, of which one has gone, and one that has said nothing of itself but its state."""
    plan = PlanInfo("cats", 5, "auto", "latency", "float32", ("ant",), (), "ant", alone=(AloneTime("ant", 12.5),))
    metrics = GroupMetrics("s", 1.0, 0, (AgentMetrics("ant", "online", problem="left out: no memory"),), ())
    return [
        retained(TOPICS.agent("ant", "info"), PI),
        retained(TOPICS.agent("ant", "state"), AgentState("online", "s")),
        retained(
            TOPICS.agent("ant", "profile"), Profile(PI.board_class, LINK, (sample(1.0), sample(2.0)), 1_700_000_000)
        ),
        retained(TOPICS.agent("bee", "info"), PI),
        retained(TOPICS.agent("bee", "state"), AgentState("offline", "s")),
        retained(
            TOPICS.agent("bee", "profile"), Profile(PI.board_class, None, (sample(2.0, seconds=0.3), sample(3.0)))
        ),
        retained(TOPICS.agent("cat", "state"), AgentState("online", "s")),
        retained(TOPICS.plan("cats"), plan),
        retained(TOPICS.orchestrator_state(), OrchestratorState("serving", "s")),
        retained(TOPICS.orchestrator_metrics(), metrics),
    ]


def test_what_is_shown_is_what_was_said() -> None:
    ant, bee = profiles(TOPICS, group())
    assert (ant.agent, ant.state, ant.link, ant.measured) == ("ant", "online", LINK, 1_700_000_000)
    assert (ant.samples, ant.of_class, ant.alone) == (2, 3, (AloneOn("cats", 12.5),))
    assert ant.doubt == "left out: no memory"
    assert (bee.agent, bee.state, bee.link, bee.measured, bee.samples, bee.of_class) == (
        "bee",
        "offline",
        None,
        None,
        2,
        3,
    )
    check("profile", json.dumps({"schema": 1, "devices": [asdict(ant), asdict(bee)]}) + "\n")


def test_samples_of_another_board_than_the_device_says_it_is_do_not_count() -> None:
    said = Profile("pi5, 1 thread, runtime 1 xnnpack", LINK, (sample(1.0, "pi5, 1 thread, runtime 1 xnnpack"),))
    messages = [retained(TOPICS.agent("ant", "info"), PI), retained(TOPICS.agent("ant", "profile"), said)]
    (ant,) = profiles(TOPICS, messages)
    assert (ant.samples, ant.of_class, ant.state) == (0, 0, "unknown")


@given(st.lists(st.sampled_from(range(len(group())))), st.binary(max_size=30))
def test_what_makes_no_sense_is_left_out(broken: list[int], payload: bytes) -> None:
    messages = group()
    for index in broken:
        messages[index] = Message(messages[index].topic, payload, retain=True)
    assert {each.agent for each in profiles(TOPICS, messages)} <= {"ant", "bee"}
