"""What the orchestrator tells of its group is what has happened, and of its plan what the estimate says."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from legion_iot.orchestrator.background import Background
from legion_iot.orchestrator.reporting import PATIENCE, QUIET, Reporter
from legion_iot.orchestrator.serving import EndedRequest
from legion_iot.planning.estimate import estimate
from legion_iot.transport.connection import Message, TransportEvent
from legion_iot.transport.memory import MemoryConnection
from legion_iot.wire import codec
from legion_iot.wire.group import Failures, GroupMetrics, PlanInfo
from legion_iot.wire.messages import Metrics, Result
from tests.orchestrator.test_models import PATIENCE as DEADLINE
from tests.orchestrator.test_models import TOPICS, Served


class Watching:
    """A watcher that remembers what it was told, and fails once."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def start(self) -> None:
        self.told.append("started")

    def metrics(self, metrics: GroupMetrics) -> None:
        self.told.append(metrics)
        if len(self.told) == 2:
            raise RuntimeError("a mistake of its own")

    def planned(self, plan: PlanInfo) -> None:
        self.told.append(plan)

    def ended(self, ended: EndedRequest) -> None:
        self.told.append(ended)

    def close(self) -> None:
        self.told.append("closed")


class Group:
    """Two models on two agents, and what is retained of them."""

    def __init__(self, directory: Path) -> None:
        self.served = Served(directory)
        for loaded in self.served.loaded.values():
            self.served.models.add(loaded)
        self.background = Background(lambda: None)
        self.watching = Watching()
        around = self.served.around
        self.reporter = Reporter("s", around, self.served.models, self.background, (self.watching,), 100.0)
        self.retained: dict[str, bytes] = {}
        reader = MemoryConnection(self.served.broker, "looks on", self._take)
        reader.open(1.0)
        reader.subscribe([(TOPICS.plan("+"), 1), (TOPICS.orchestrator_metrics(), 0)])

    def _take(self, event: TransportEvent) -> None:
        if isinstance(event, Message):
            self.retained[event.topic] = event.payload

    @property
    def metrics(self) -> GroupMetrics:
        return codec.from_json(GroupMetrics, self.retained[TOPICS.orchestrator_metrics()])

    def plan(self, model: str) -> PlanInfo:
        return codec.from_json(PlanInfo, self.retained[TOPICS.plan(model)])

    def until(self) -> None:
        """The background has done all it was asked to, once it has done one thing more."""
        done: list[object] = []
        self.background.do(lambda: None, done.append)
        deadline = time.monotonic() + DEADLINE
        while not done:
            assert time.monotonic() < deadline
            self.background.deliver()
            time.sleep(0.005)


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(tmp_path)


def test_requests_are_counted_by_their_one_end(group: Group) -> None:
    group.served.online("ant", "bee")
    group.reporter.start()
    latencies = [31.0, 5.0, 12.0, 8.0]
    for number, latency in enumerate(latencies):
        result = Result(f"r-{number}", True, "cats", 1, latency)
        group.reporter.ended(EndedRequest(result, None, ()), 100.0 + number)
    for code in ("busy", "deadline", "busy"):
        refused = Result("r-9", False, "edges", 0, 0.0, error=code, reason="of its own")
        group.reporter.ended(EndedRequest(refused, None, ()), 103.5)
    group.reporter.heard("ant", Metrics("s", 9.0, 0.5, 51.0, False, 10, 20, 4, 0.006, 7, 8, 0), 103.5)
    group.reporter.heard("bee", Metrics("an older one", 9.0, 0.5, 51.0, False, 10, 20, 4, 0.006, 7, 8, 0), 103.5)
    group.reporter.tick(104.0)
    cats, edges = group.metrics.models
    assert (cats.name, cats.answered, cats.failed, cats.last_error) == ("cats", 4, (), "")
    assert cats.latency_ms == statistics.median(latencies)
    assert cats.latency_p95_ms == 31.0
    assert cats.per_second == 1.0
    assert (edges.answered, edges.failed) == (0, (Failures("busy", 2), Failures("deadline", 1)))
    assert (edges.last_error, edges.latency_ms) == ("busy: of its own", None)
    ant, bee = group.metrics.agents
    assert (ant.agent, ant.temperature, ant.tile_ms, ant.memory_limit) == ("ant", 51.0, 1.5, 20)
    assert (ant.silent, bee.silent) == (0.5, None)
    assert (bee.state, bee.temperature, bee.tile_ms) == ("online", None, None)
    assert group.metrics.uptime == 4.0
    group.reporter.tick(163.0)
    assert group.metrics.models[0].per_second == pytest.approx(1 / 60, abs=1e-3)  # the last of the four
    group.reporter.close()
    group.reporter.clear()
    assert group.retained[TOPICS.orchestrator_metrics()] == b""
    told = group.watching.told
    assert (told[0], told[-1]) == ("started", "closed")
    assert sum(isinstance(each, GroupMetrics) for each in told) == 2
    assert sum(isinstance(each, EndedRequest) for each in told) == 7


def test_a_plan_is_told_at_once_and_its_bound_when_the_group_is_quiet(group: Group) -> None:
    group.served.online("ant", "bee")
    group.served.until_assigned("cats", "edges")
    group.served.ready("cats")
    group.reporter.start()
    busy = EndedRequest(Result("r", True, "cats", 1, 1.0), None, ())
    group.reporter.ended(busy, 199.0)
    group.reporter.tick(200.0)
    group.until()
    info, state = group.plan("cats"), group.served["cats"].state
    assert state.plan is not None
    predictor = state.selection.predictor()
    expected = estimate(state.network, state.plan, predictor.group, predictor)
    assert info.predicted_ms == pytest.approx(1e3 * expected.latency, abs=1e-3)
    assert max(bar.end_ms for bar in info.bars) <= info.predicted_ms
    assert {tile.agent for block in info.blocks for tile in block.tiles} <= set(info.agents)
    assert (info.epoch, info.bound_ms) == (state.epoch, None)
    assert TOPICS.plan("edges") not in group.retained  # not in force
    for second in range(1, int(PATIENCE)):
        group.reporter.ended(busy, 200.0 + second)
        group.reporter.tick(200.0 + second)
    group.until()
    assert group.plan("cats").bound_ms is None
    group.reporter.tick(199.0 + PATIENCE + QUIET)
    group.until()
    bounded = group.plan("cats")
    assert bounded.bound_ms is not None
    assert 0 < bounded.bound_ms <= info.predicted_ms + 1e-3
    group.reporter.tick(300.0)
    assert group.metrics.models[0].bound_ms == bounded.bound_ms
    group.served.models.remove("cats")
    assert group.retained[TOPICS.plan("cats")] == b""


def test_a_plan_that_is_replaced_meanwhile_is_not_told(group: Group) -> None:
    group.served.online("ant", "bee")
    group.served.until_assigned("cats")
    group.served.ready("cats")
    group.reporter.start()
    group.reporter.tick(200.0)
    group.served.models.remove("cats")
    group.until()
    assert not group.retained.get(TOPICS.plan("cats"))
