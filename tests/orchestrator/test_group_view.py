"""What a group retains, how that looks, and what becomes of it when the link to the broker is lost and found."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.errors import BrokerError, ProtocolError
from legion_iot.orchestrator.following import GRACE, SETTLING, Following
from legion_iot.orchestrator.group_view import device_views, group_view
from legion_iot.orchestrator.observed import Observed
from legion_iot.planning.links import Link
from legion_iot.transport.connection import Connected, Disconnected, Message, Refused
from legion_iot.wire import codec
from legion_iot.wire.group import AgentMetrics, Failures, GroupMetrics, ModelMetrics, PlanInfo, Work
from legion_iot.wire.messages import AgentInfo, AgentState, ModelInfo, OrchestratorState, Profile
from legion_iot.wire.topics import Topics
from tests.wire.strategies import any_of

TOPICS = Topics("g")
INFO = AgentInfo("Raspberry Pi 4", 4, 3, 900 << 20, "litert", "2.3.0", "xnnpack", "0.1.0", ("a" * 64, "b" * 64))
SERVING = OrchestratorState("serving", "s")
CATS = ModelMetrics(
    "cats", "a" * 64, "serving", "ant, bee", 7, "halo", "latency", "float32",
    (Work("ant", 30.0, 0.75), Work("bee", 10.0, 0.25)), 50.0, 40.0, 90.0, "ant", 60.0, 75.0, 12,
    (Failures("busy", 2), Failures("deadline", 1)), 1, 2, 0.5, "busy: enough",
)  # fmt: skip
DOGS = dataclasses.replace(CATS, name="dogs", sha256="c" * 64, work=(Work("bee", 40.0, 1.0),), failed=(), waiting=0)
ANT = AgentMetrics(
    "ant", "online", "", "", "Raspberry Pi 4", 0.5, 51.0, False, 100, 1000, 9, 4.5, 7, 8,
    Link(0.0004, 1.25e6, 2.5e6, 0.0015, 8e-9),
    1.5,
)  # fmt: skip
SOONER = "answers come sooner than the bound allows: what was measured does not hold any more"
METRICS = GroupMetrics("s", 60.0, 3, (ANT, dataclasses.replace(ANT, agent="bee")), (CATS, DOGS))


def said(topic: str, message: Any) -> Message:
    return Message(topic, codec.to_json(message) if message is not None else b"", True)


def observed(*messages: Message) -> Observed:
    found = Observed(TOPICS)
    for message in messages:
        found.take(message)
    return found


def told(metrics: GroupMetrics) -> Observed:
    """What an orchestrator tells, and nobody else anything."""
    return observed(said(TOPICS.orchestrator_state(), SERVING), said(TOPICS.orchestrator_metrics(), metrics))


def whole() -> list[Message]:
    """A group of two agents and two models, as its broker retains it."""
    return [
        *(said(TOPICS.agent(name, "state"), AgentState("online", name)) for name in ("ant", "bee")),
        *(said(TOPICS.agent(name, "info"), INFO) for name in ("ant", "bee")),
        said(TOPICS.orchestrator_state(), SERVING),
        said(TOPICS.orchestrator_metrics(), METRICS),
        said(TOPICS.model("cats"), ModelInfo("cats", "a" * 64, 9, (1, 2, 2, 3), "uint8", 7, ("ant", "bee"))),
        said(TOPICS.plan("cats"), PlanInfo("cats", 7, "halo", "latency", "float32", ("ant", "bee"), (), "bee", 2)),
    ]


def test_a_group() -> None:
    view = group_view(observed(*whole()))
    assert (view.orchestrator.present, view.orchestrator.state, view.orchestrator.uptime_s) == (True, "serving", 60.0)
    assert view.requests is not None
    assert dataclasses.astuple(view.requests) == (1.0, 4, 1, 24, 3)
    ant, bee = view.agents
    assert (ant.share, bee.share) == (30 / 80, 50 / 80)
    assert (ant.problems, ant.cores, ant.temperature_c) == ((), 4, 51.0)
    assert (ant.resident_bytes, ant.memory_bytes) == (100, 1000)
    assert ant.link is not None
    assert dataclasses.astuple(ant.link) == (0.4, 10.0, 20.0, 1.5, 8.0)
    cats, dogs = view.models
    assert (cats.blocks, cats.replicas, cats.tail_agent, cats.agents) == (0, 2, "bee", ("ant", "bee"))
    assert [(each.agent, each.share) for each in cats.work] == [("ant", 0.75), ("bee", 0.25)]
    assert (dogs.blocks, dogs.agents, dogs.latency_ms, dogs.failed) == (None, (), 60.0, ())
    devices = device_views(observed(*whole()))
    assert [device.name for device in devices] == ["ant", "bee"]
    assert (devices[0].models, devices[0].silent_s, devices[0].threads) == (("b" * 64, "cats"), 1.5, 3)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"problem": "its tiles fail"}, "its tiles fail"),
        ({"throttled": True}, "its processor is held back"),
        ({"temperature": 85.4}, "it is 85 °C hot"),
        ({"memory_resident": 990}, "it uses 99 % of its memory"),
    ],
)
def test_what_is_odd_about_an_agent_is_named(changed: dict[str, Any], problem: str) -> None:
    metrics = dataclasses.replace(METRICS, agents=(dataclasses.replace(ANT, **changed),))
    view = group_view(observed(*whole(), said(TOPICS.orchestrator_metrics(), metrics)))
    assert view.agents[0].problems == (problem,)
    # What the agent says itself comes first, and is not said twice.
    degraded = AgentState("degraded", "ant", "it is too hot here")
    view = group_view(
        observed(*whole(), said(TOPICS.orchestrator_metrics(), metrics), said(TOPICS.agent("ant", "state"), degraded))
    )
    assert view.agents[0].problems == ("it is too hot here", *((problem,) if "problem" in changed else ()))


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({"latency_ms": 74.0}, ()),
        ({"latency_ms": 100.0}, ("answers take 2.0 × as long as predicted",)),
        ({"latency_ms": 100.0, "waiting": 3}, ()),  # they queue
        ({"latency_ms": 20.0}, (SOONER,)),
        ({"latency_ms": 100.0, "objective": "throughput"}, ()),  # what is predicted is something else
        ({"latency_ms": None}, ()),
        ({"phase": "gathering", "detail": "1 of 2 agents", "latency_ms": None}, ("1 of 2 agents",)),
    ],
)
def test_what_is_odd_about_a_model_is_named(changed: dict[str, Any], problems: tuple[str, ...]) -> None:
    metrics = dataclasses.replace(METRICS, models=(dataclasses.replace(DOGS, **changed),))
    view = group_view(observed(*whole(), said(TOPICS.orchestrator_metrics(), metrics)))
    assert view.models[-1].problems == problems


@pytest.mark.parametrize("state", [OrchestratorState("offline", "s"), OrchestratorState("serving", "another"), None])
def test_figures_of_an_orchestrator_that_is_gone_are_none(state: OrchestratorState | None) -> None:
    profile = said(TOPICS.agent("ant", "profile"), Profile("b", Link(0.001, 1.25e6, 1.25e6), ()))
    found = observed(*whole(), profile, said(TOPICS.orchestrator_state(), state))
    view = group_view(found)
    assert view.requests is None
    assert view.orchestrator.present is (state is not None and state.state == "serving")
    assert [(agent.name, agent.state, agent.load, agent.share) for agent in view.agents] == [
        ("ant", "online", None, None), ("bee", "online", None, None),
    ]  # fmt: skip
    assert [agent.link is not None for agent in view.agents] == [True, False]  # by what it has measured itself
    assert [(model.name, model.state) for model in view.models] == [
        ("cats", "unknown" if view.orchestrator.present else "not served")
    ]


def test_the_plan_of_an_older_epoch_is_not_shown() -> None:
    newer = dataclasses.replace(METRICS, models=(dataclasses.replace(CATS, epoch=8),))
    view = group_view(observed(*whole(), said(TOPICS.orchestrator_metrics(), newer)))
    assert (view.models[0].epoch, view.models[0].blocks, view.models[0].tail_agent) == (8, None, "")


def test_who_may_not_read_what_agents_say_sees_what_the_orchestrator_tells() -> None:
    metrics = dataclasses.replace(METRICS, agents=(dataclasses.replace(ANT, state="degraded", detail="hot"),))
    view = group_view(told(metrics))
    (ant,) = view.agents
    assert (ant.name, ant.state, ant.problems, ant.board, ant.load) == ("ant", "degraded", ("hot",), ANT.board, 0.5)


def test_nothing_is_retained() -> None:
    view = group_view(Observed(TOPICS))
    assert (view.agents, view.models, view.requests) == ((), (), None)
    assert (view.orchestrator.present, view.orchestrator.state) == (False, "offline")
    assert device_views(Observed(TOPICS)) == ()


NAMES = st.sampled_from(["ant", "bee", "cow"])
MESSAGES = st.one_of(
    st.tuples(NAMES.map(lambda name: TOPICS.agent(name, "state")), any_of(AgentState)),
    st.tuples(NAMES.map(lambda name: TOPICS.agent(name, "info")), any_of(AgentInfo)),
    st.tuples(NAMES.map(lambda name: TOPICS.agent(name, "profile")), any_of(Profile)),
    st.tuples(st.just(TOPICS.orchestrator_state()), any_of(OrchestratorState)),
    st.tuples(st.just(TOPICS.orchestrator_metrics()), any_of(GroupMetrics)),
    st.tuples(NAMES.map(TOPICS.model), any_of(ModelInfo)),
    st.tuples(NAMES.map(TOPICS.plan), any_of(PlanInfo)),
)


@st.composite
def groups(draw: st.DrawFn) -> Observed:
    """Any that can be said, and the orchestrator's figures are often those of the one that is there."""
    found = observed(*(said(topic, message) for topic, message in draw(st.lists(MESSAGES, max_size=12))))
    if (metrics := found.by_orchestrator.get("metrics")) is not None and draw(st.booleans()):
        found.take(said(TOPICS.orchestrator_state(), OrchestratorState("serving", metrics.session)))
    return found


@settings(deadline=None, max_examples=60)
@given(groups())
def test_whatever_is_said_can_be_shown(found: Observed) -> None:
    view, devices = group_view(found), device_views(found)
    json.dumps([dataclasses.asdict(view), [dataclasses.asdict(device) for device in devices]], allow_nan=False)
    assert [agent.name for agent in view.agents] == [device.name for device in devices]
    assert [agent.name for agent in view.agents] == sorted({agent.name for agent in view.agents})
    assert {*found.states, *found.infos} <= {agent.name for agent in view.agents}
    assert {*found.models} <= {model.name for model in view.models}


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(NAMES, st.floats(0, 1e6)), max_size=3, unique_by=lambda work: work[0]), max_size=3))
def test_shares_sum_to_one(works: list[list[tuple[str, float]]]) -> None:
    models = tuple(
        dataclasses.replace(CATS, name=f"m{number}", work=tuple(Work(name, ms, 0.0) for name, ms in work))
        for number, work in enumerate(works)
    )
    agents = tuple(dataclasses.replace(ANT, agent=name) for name in ("ant", "bee", "cow"))
    metrics = dataclasses.replace(METRICS, agents=agents, models=models)
    view = group_view(told(metrics))
    shares = [agent.share for agent in view.agents if agent.share is not None]
    assert not shares or math.isclose(sum(shares), 1.0)
    assert bool(shares) == any(ms for work in works for _, ms in work)
    for model in view.models:
        computed = sum(each.computing_ms for each in model.work)
        assert math.isclose(sum(each.share for each in model.work), 1.0 if computed else 0.0)


def test_what_nobody_retains_of_himself_is_refused() -> None:
    for topic in ("g/agents/ant/command", "g/infer/cats", "h/agents/ant/state", "g/models/a b"):
        with pytest.raises(ProtocolError):
            Observed(TOPICS).take(Message(topic, b"{}"))
    with pytest.raises(ProtocolError):
        Observed(TOPICS).take(Message(TOPICS.agent("ant", "state"), b"no JSON"))


# --- links that are lost ---


def states(following: Following) -> dict[str, str]:
    return {agent.name: agent.state for agent in group_view(following.observed).agents}


def test_one_agent_dies() -> None:
    following = Following(observed(*whole()))
    following.take(said(TOPICS.agent("ant", "state"), AgentState("offline", "ant")), 10.0)
    assert following.waits == GRACE
    following.tick(10.0 + GRACE / 2)
    assert states(following) == {"ant": "online", "bee": "online"}
    following.tick(10.0 + GRACE)
    assert states(following) == {"ant": "offline", "bee": "online"}
    assert following.waits is None


def test_an_agent_that_is_back_at_once_was_never_away() -> None:
    following = Following(observed(*whole()))
    following.take(said(TOPICS.agent("ant", "state"), AgentState("offline", "ant")), 10.0)
    following.take(said(TOPICS.agent("ant", "state"), AgentState("online", "newer")), 10.1)
    following.tick(20.0)
    assert states(following)["ant"] == "online"


def test_a_broker_that_ends_takes_nobody_with_it() -> None:
    following = Following(observed(*whole()))
    following.take(said(TOPICS.agent("ant", "state"), AgentState("offline", "ant")), 10.0)
    following.take(said(TOPICS.orchestrator_state(), OrchestratorState("offline", "s")), 10.0)
    following.take(Disconnected("gone"), 10.01)
    following.take(Disconnected("still gone"), 12.0)
    following.tick(30.0)
    assert following.away_since == 10.01
    assert states(following) == {"ant": "online", "bee": "online"}
    assert group_view(following.observed).orchestrator.present


def test_what_is_not_said_again_does_not_hold() -> None:
    following = Following(observed(*whole()))
    following.take(Connected(), 1.0)
    assert (following.away_since, following.waits) == (None, None)
    following.take(Disconnected("gone"), 10.0)
    following.take(Connected(), 20.0)
    following.take(said(TOPICS.agent("ant", "state"), AgentState("online", "ant")), 21.0)
    following.tick(21.0)
    assert (following.away_since, following.waits) == (None, 1.0)
    assert states(following) == {"ant": "online", "bee": "online"}
    following.tick(20.0 + SETTLING)
    assert following.waits is None
    view = group_view(following.observed)
    assert [(agent.name, agent.board) for agent in view.agents] == [("ant", "")]
    assert (view.models, view.orchestrator.present) == ((), False)


def test_once_all_is_said_again_there_is_nothing_to_wait_for() -> None:
    following = Following(observed(*whole()))
    before = group_view(following.observed)
    following.take(Disconnected("gone"), 10.0)
    following.take(Connected(), 11.0)
    for message in whole():
        following.take(message, 12.0)
    following.tick(12.0)
    assert following.waits is None
    assert group_view(following.observed) == before


def test_a_broker_that_wants_us_no_more_ends_it() -> None:
    with pytest.raises(BrokerError, match="no more"):
        Following(Observed(TOPICS)).take(Refused(BrokerError("no more")), 1.0)


def test_what_makes_no_sense_changes_nothing() -> None:
    following = Following(observed(*whole()))
    following.take(Message(TOPICS.agent("ant", "state"), b'{"schema": 99}'), 1.0)
    following.take(Message("elsewhere", b"x"), 1.0)
    assert states(following) == {"ant": "online", "bee": "online"}
