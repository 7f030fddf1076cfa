"""What Prometheus is told is what was counted, by its rules for names; the dashboard asks for nothing else."""

from __future__ import annotations

import re
import socket
import threading
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from legion_iot.errors import UsageError
from legion_iot.orchestrator.prometheus import PrometheusMetrics, families
from legion_iot.orchestrator.serving import EndedRequest
from legion_iot.planning.links import Link
from legion_iot.transport.listening import ListenAddress
from legion_iot.wire.group import AgentMetrics, GroupMetrics, ModelMetrics, PlanInfo, Work
from legion_iot.wire.messages import Result
from tests.orchestrator import dashboard
from tests.wire.strategies import any_of

LINK = Link(0.002, 1e6, 2e6)
ANT = AgentMetrics("ant", "online", "", "", "Pi", 0.5, 51.0, True, 10, 20, 4, 1.5, 7, 8, LINK)
CATS = ModelMetrics(
    "cats", "0" * 64, "serving", "", 3, "auto", "latency", "float32", (Work("ant", 12.5, 1.0),), 20.0, 15.0, 40.0,
    waiting=2, under_way=1,
)  # fmt: skip
GROUP = GroupMetrics("s", 61.5, 3, (ANT, AgentMetrics("bee", "offline", link=LINK)), (CATS,))
PLAN = PlanInfo("cats", 3, "auto", "latency", "float32", ("ant",), (), "ant", interval_ms=12.5)
UNITS = ("seconds", "bytes", "celsius", "ratio", "bytes_per_second")


def told(watcher: PrometheusMetrics) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels, these in alphabetical order."""
    read = text_string_to_metric_families(generate_latest(watcher.registry).decode())
    return {(each.name, *sorted(each.labels.values())): each.value for family in read for each in family.samples}


@pytest.fixture
def watcher() -> PrometheusMetrics:
    made = PrometheusMetrics(ListenAddress("127.0.0.1", 0), lambda line: None)
    made.metrics(GROUP)
    made.planned(PLAN)
    return made


def end(model: str, **more: Any) -> EndedRequest:
    return EndedRequest(replace(Result("r", True, model, 1, 0.0), **more), None, ())


def test_states_are_told_in_base_units(watcher: PrometheusMetrics) -> None:
    samples = told(watcher)
    expected = {
        ("legion_uptime_seconds",): 61.5,
        ("legion_messages_dropped_total",): 3,
        ("legion_agent_up", "ant"): 1,
        ("legion_agent_up", "bee"): 0,
        ("legion_agent_tile_seconds", "ant"): 0.0015,
        ("legion_agent_temperature_celsius", "ant"): 51,
        ("legion_agent_link_up_bytes_per_second", "ant"): 1e6,
        ("legion_agent_tiles_total", "ant"): 4,
        ("legion_model_phase", "cats", "serving"): 1,
        ("legion_plan_predicted_seconds", "cats"): 0.02,
        ("legion_plan_bound_seconds", "cats"): 0.015,
        ("legion_plan_interval_seconds", "cats"): 0.0125,
        ("legion_plan_computing_seconds", "ant", "cats"): 0.0125,
        ("legion_plan_share_ratio", "ant", "cats"): 1,
        ("legion_requests_waiting", "cats"): 2,
    }
    assert {key: samples[key] for key in expected} == expected
    # What is not known of an agent that is not there is no 0, which would look like a restart.
    assert {key[0] for key in samples if "bee" in key} == {"legion_agent_up", "legion_agent_problem"}


def test_requests_are_counted_by_outcome_and_forgotten_with_their_model(watcher: PrometheusMetrics) -> None:
    assert told(watcher)["legion_requests_total", "answered", "cats"] == 0
    for latency in (30.0, 60.0, 700.0):
        watcher.ended(end("cats", latency_ms=latency))
    for error in ("busy", "deadline", "busy"):
        watcher.ended(end("cats", ok=False, error=error))
    samples = told(watcher)
    outcomes = (("answered", "cats"), ("busy", "cats"), ("cats", "deadline"))
    assert [samples[("legion_requests_total", *labels)] for labels in outcomes] == [3, 2, 1]
    assert samples["legion_request_duration_seconds_count", "cats"] == 3
    assert samples["legion_request_duration_seconds_sum", "cats"] == pytest.approx(0.79)
    below = {key[1]: value for key, value in samples.items() if key[0] == "legion_request_duration_seconds_bucket"}
    assert (below["0.025"], below["0.05"], below["0.1"], below["0.5"], below["+Inf"]) == (0, 1, 2, 2, 3)
    watcher.metrics(replace(GROUP, models=()))
    assert not [key for key in told(watcher) if "cats" in key]
    watcher.metrics(GROUP)
    assert told(watcher)["legion_requests_total", "answered", "cats"] == 0


def test_names_are_those_that_prometheus_asks_for(watcher: PrometheusMetrics) -> None:
    """https://prometheus.io/docs/practices/naming: one prefix, base units in the plural, `_total` for what counts."""
    watcher.ended(end("cats"))
    for family in text_string_to_metric_families(generate_latest(watcher.registry).decode()):
        assert re.fullmatch("legion_[a-z0-9_]+", family.name)
        assert family.documentation.endswith(".")
        assert not re.search("(_ms|_mb|_milliseconds|_percent|_kilobytes)$", family.name)
        if re.search("(seconds|bytes|celsius|ratio)", family.name):
            assert family.name.endswith(UNITS), family.name
        assert family.type != "counter" or all(sample.name.endswith("_total") for sample in family.samples)
        assert family.type in ("counter", "gauge", "histogram")


def test_the_dashboard_asks_for_what_there_is(watcher: PrometheusMetrics) -> None:
    watcher.ended(end("cats"))
    watcher.ended(end("cats", ok=False, error="busy"))
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(watcher.registry).decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    asked = [each for query in dashboard.queries() for each in dashboard.series(query)]
    assert len(asked) > 30
    for each in asked:
        assert each.labels <= labels[each.metric], each
    for metric, label in dashboard.choices():
        assert label in labels[metric]
    for query, shown in dashboard.legends():
        assert all(shown <= labels[each.metric] for each in dashboard.series(query)), query


def test_the_document_names_every_metric(watcher: PrometheusMetrics) -> None:
    text = (dashboard.DASHBOARD.parent / "prometheus.md").read_text(encoding="utf-8")
    families = text_string_to_metric_families(generate_latest(watcher.registry).decode())
    names = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    assert set(re.findall(r"`(legion_[a-z0-9_]+)`", text)) == names


def test_the_dashboard_is_whole() -> None:
    panels = dashboard.content()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    for query in ("sum by (model", "rate(x)", "legion_agent_up{"):
        with pytest.raises(ValueError, match=r"\w"):
            dashboard.series(query)


@settings(deadline=None, max_examples=50)
@given(any_of(GroupMetrics), any_of(PlanInfo))
def test_whatever_a_group_says_can_be_scraped(group: GroupMetrics, plan: PlanInfo) -> None:
    class Once(Collector):
        def collect(self) -> Any:
            return families(group, {plan.model: plan})

    registry = CollectorRegistry()
    registry.register(Once())
    read = list(text_string_to_metric_families(generate_latest(registry).decode()))
    up = next(family for family in read if family.name == "legion_agent_up")
    assert len(up.samples) == len(group.agents)


def test_it_is_served_where_it_is_said() -> None:
    said: list[str] = []
    watcher = PrometheusMetrics(ListenAddress("127.0.0.1", 0), said.append)
    watcher.start()
    (line,) = said
    url = line.removeprefix("metrics: ")
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert b"legion_requests" in answer.read()
    port = int(url.split(":")[2].partition("/")[0])
    with pytest.raises(UsageError, match="that port is taken"):
        PrometheusMetrics(ListenAddress("127.0.0.1", port), said.append).start()
    watcher.close()
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port), timeout=10):
        pass


def test_who_is_silent_or_hangs_up_keeps_nobody_from_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("legion_iot.orchestrator.prometheus._Handler.timeout", 0.2)
    said: list[str] = []
    watcher = PrometheusMetrics(ListenAddress("127.0.0.1", 0), said.append)
    watcher.start()
    url = said[0].removeprefix("metrics: ")
    port = int(url.split(":")[2].partition("/")[0])
    silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3)]
    silent[0].sendall(b"GET /metr")
    silent[1].sendall(b"\x16\x03\x01\r\n\r\n")
    silent[1].close()
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.status == 200
    assert not [each.name for each in threading.enumerate() if "process_request" in each.name]
    for each in silent:
        each.close()
    watcher.close()


def test_who_is_not_alone_on_a_machine_is_told() -> None:
    said: list[str] = []
    watcher = PrometheusMetrics(ListenAddress("0.0.0.0", 0), said.append)
    watcher.start()
    watcher.close()
    assert "whoever reaches this address can read them" in said[0]
    with pytest.raises(UsageError, match="cannot listen there"):
        PrometheusMetrics(ListenAddress("203.0.113.1", 0), said.append).start()


def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    said: list[str] = []
    watcher = PrometheusMetrics(ListenAddress("::1", 0), said.append)
    watcher.start()
    assert said[0].startswith("metrics: http://[::1]:")
    with urllib.request.urlopen(said[0].removeprefix("metrics: "), timeout=10) as answer:
        assert answer.status == 200
    watcher.close()


@pytest.mark.parametrize(
    "text", ["", "9464", ":9464", "localhost", "127.0.0.1:", "127.0.0.1:x", "::1:9464", "[::1]", "[]:1"]
)
def test_addresses_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="is not address:port"):
        ListenAddress.parse(text)


def test_addresses() -> None:
    for text, expected in (
        ("127.0.0.1:9464", ListenAddress("127.0.0.1", 9464)),
        ("[::1]:0", ListenAddress("::1", 0)),
        ("hub.local:80", ListenAddress("hub.local", 80)),
    ):
        assert ListenAddress.parse(text) == expected
        assert str(expected) == text
    with pytest.raises(UsageError, match="no port 65536"):
        ListenAddress.parse("127.0.0.1:65536")
