"""Metrics for Prometheus over HTTP, where they are wanted; the only module that imports prometheus_client.

Theory. What is a state of the group is made anew at each scrape from the last `GroupMetrics`, so that series of agents
and models that are gone end with them. What Prometheus shall see every one of, requests and their durations, is counted
as it happens. Names and units are those of https://prometheus.io/docs/practices/naming: seconds, bytes, `_total`.
Labels are names of agents and of models that are served, and error codes: there are no more series than these.
"""

from __future__ import annotations

import errno
import importlib.metadata
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from socketserver import TCPServer
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from legion_iot.errors import UsageError
from legion_iot.orchestrator.serving import EndedRequest
from legion_iot.planning.links import Link
from legion_iot.transport.connection import is_loopback
from legion_iot.transport.listening import ListenAddress
from legion_iot.wire.group import AgentMetrics, GroupMetrics, ModelMetrics, PlanInfo, Work

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

# Seconds; from one small network on one board to a large one on many slow ones.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
ANSWERED = "answered"  # the outcome of a request that has no error
CLIENT_SECONDS = 5.0  # that a client may be silent
CLOSE_SECONDS = 2 * CLIENT_SECONDS


class PrometheusMetrics(Collector):
    """A `Watcher` that answers scrapes; `say` is told in one line where."""

    def __init__(self, listen: ListenAddress, say: Callable[[str], None]) -> None:
        self._listen, self._say = listen, say
        self._latest: GroupMetrics | None = None
        self._plans: dict[str, PlanInfo] = {}
        self._running: tuple[WSGIServer, threading.Thread] | None = None
        self._counted: set[tuple[str, str]] = set()  # models and outcomes that there are series of
        disable_created_metrics()  # type: ignore[no-untyped-call]  # series that nobody asks for
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "legion_requests", "Requests that have ended.", ["model", "outcome"], registry=self.registry
        )
        self._durations = Histogram(
            "legion_request_duration_seconds", "From input to answer, of requests that were answered.", ["model"],
            buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.registry.register(self)

    def start(self) -> None:
        """Listen; raises UsageError where that cannot be."""
        try:
            server = _Server(self._listen, make_wsgi_app(self.registry))
        except (OSError, UnicodeError) as error:
            raise UsageError(f"--prometheus {self._listen}: {_reason(error)}") from None
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        self._running = server, thread
        note = "" if is_loopback(self._listen.host) else "; whoever reaches this address can read them"
        self._say(f"metrics: http://{replace(self._listen, port=server.server_port)}/metrics{note}")

    def metrics(self, metrics: GroupMetrics) -> None:
        """What the next scrapes show; models that are served no more are forgotten."""
        served = {model.name for model in metrics.models}
        self._plans = {name: plan for name, plan in self._plans.items() if name in served}
        self._latest = metrics
        for model, outcome in [each for each in self._counted if each[0] not in served]:
            self._counted.discard((model, outcome))
            self._requests.remove(model, outcome)
            if outcome == ANSWERED:
                self._durations.remove(model)
        for name in served:  # at 0 before the first one, which would be no increase otherwise
            self._count(name, ANSWERED, 0)
            self._durations.labels(name)

    def planned(self, plan: PlanInfo) -> None:
        """Which plan is in force."""
        self._plans = {**self._plans, plan.model: plan}

    def ended(self, ended: EndedRequest) -> None:
        """Count a request."""
        result = ended.result
        self._count(result.model, ANSWERED if result.ok else result.error, 1)
        if result.ok:
            self._durations.labels(result.model).observe(result.latency_ms / 1e3)

    def close(self) -> None:
        """Listen no more."""
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            server.server_close()
            thread.join(CLOSE_SECONDS)

    def _count(self, model: str, outcome: str, requests: int) -> None:
        self._counted.add((model, outcome))
        self._requests.labels(model, outcome).inc(requests)

    def collect(self) -> Iterator[Metric]:
        """At each scrape, on its thread: the group as it was last told."""
        latest, plans = self._latest, self._plans
        if latest is not None:
            yield from families(latest, plans)


class _Server(WSGIServer):
    """Answers one scrape after the other: whoever connects takes no more of the orchestrator than one thread."""

    def __init__(self, listen: ListenAddress, app: WSGIApplication) -> None:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__((listen.host, listen.port), _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        """As its parents do, without asking the name service what this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up, or is silent for too long."""


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_message(self, format: str, *arguments: object) -> None:
        """Scrapes are no news."""


def families(group: GroupMetrics, plans: Mapping[str, PlanInfo]) -> Iterator[Metric]:
    """All that is a state of the group, in Prometheus's form; what is not known is left out."""
    version = importlib.metadata.version("legion-iot")
    yield _gauge("legion_build_info", "Always 1.", ("version",), [((version,), 1.0)])
    yield _gauge("legion_uptime_seconds", "Since the orchestrator began.", (), [((), group.uptime)])
    yield _counter("legion_messages_dropped", "Messages that made no sense to it.", (), [((), group.dropped)])
    for name, text, of_agent in _AGENT_GAUGES:
        yield _gauge(name, text, ("agent",), [((agent.agent,), of_agent(agent)) for agent in group.agents])
    for name, text, of_agent in _AGENT_COUNTERS:
        yield _counter(name, text, ("agent",), [((agent.agent,), of_agent(agent)) for agent in group.agents])
    for name, text, of_model in _MODEL_GAUGES:
        yield _gauge(name, text, ("model",), [((model.name,), of_model(model)) for model in group.models])
    phases = [((model.name, model.phase), 1.0) for model in group.models]
    yield _gauge("legion_model_phase", "1 for the phase that a model is in.", ("model", "phase"), phases)
    for name, text, of_work in _WORK_GAUGES:
        shares = [((model.name, work.agent), of_work(work)) for model in group.models for work in model.work]
        yield _gauge(name, text, ("model", "agent"), shares)
    for name, text, of_plan in _PLAN_GAUGES:
        yield _gauge(name, text, ("model",), [((model,), of_plan(plan)) for model, plan in plans.items()])


_Values = Iterable[tuple[tuple[str, ...], float | None]]


def _gauge(name: str, text: str, labels: tuple[str, ...], values: _Values) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), values)


def _counter(name: str, text: str, labels: tuple[str, ...], values: _Values) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: _Values) -> Metric:
    for labels, value in values:
        if value is not None:
            family.add_metric(labels, value)
    return family


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _is_there(agent: AgentMetrics) -> bool:
    return agent.state not in ("", "offline")


def _if_there(value: Callable[[AgentMetrics], float | None]) -> Callable[[AgentMetrics], float | None]:
    """Nothing is known of an agent that is not there, or has said nothing yet: it would be 0."""
    return lambda agent: value(agent) if _is_there(agent) and agent.memory_limit else None


def _of_link(value: Callable[[Link], float]) -> Callable[[AgentMetrics], float | None]:
    return _if_there(lambda agent: None if agent.link is None else value(agent.link))


_AGENT_GAUGES: tuple[tuple[str, str, Callable[[AgentMetrics], float | None]], ...] = (
    ("legion_agent_up", "Whether an agent is there.", lambda agent: float(_is_there(agent))),
    (
        "legion_agent_problem",
        "Whether it gets no work, or its figures are odd.",
        lambda agent: float(bool(agent.problem)),
    ),
    ("legion_agent_load1", "Its machine's load over a minute.", _if_there(lambda agent: agent.load)),
    ("legion_agent_temperature_celsius", "Its hottest sensor.", _if_there(lambda agent: agent.temperature)),
    ("legion_agent_throttled", "Whether its processor is slowed down.", _if_there(lambda agent: agent.throttled)),
    ("legion_agent_memory_resident_bytes", "What it takes.", _if_there(lambda agent: agent.memory_resident)),
    ("legion_agent_memory_limit_bytes", "What it may take.", _if_there(lambda agent: agent.memory_limit)),
    ("legion_agent_tile_seconds", "Mean computing of a tile, this session.", lambda agent: _seconds(agent.tile_ms)),
    (
        "legion_agent_link_latency_seconds",
        "A small message to the broker, measured.",
        _of_link(lambda link: link.latency),
    ),
    ("legion_agent_link_up_bytes_per_second", "Its link to the broker, measured.", _of_link(lambda link: link.up)),
    (
        "legion_agent_link_down_bytes_per_second",
        "Its link from the broker, measured.",
        _of_link(lambda link: link.down),
    ),
)
# Of an agent that is not there, 0 would look like a restart, and its return like a burst.
_AGENT_COUNTERS: tuple[tuple[str, str, Callable[[AgentMetrics], float | None]], ...] = (
    ("legion_agent_tiles", "Tiles computed in this session.", _if_there(lambda agent: agent.tiles)),
    ("legion_agent_sent_bytes", "Payloads sent in this session.", _if_there(lambda agent: agent.bytes_sent)),
    ("legion_agent_received_bytes", "Payloads received in it.", _if_there(lambda agent: agent.bytes_received)),
)
_WORK_GAUGES: tuple[tuple[str, str, Callable[[Work], float]], ...] = (
    ("legion_plan_computing_seconds", "What an agent computes for a request, measured.", lambda work: work.ms / 1e3),
    ("legion_plan_share_ratio", "An agent's share of all computing for a request.", lambda work: work.share),
)
_MODEL_GAUGES: tuple[tuple[str, str, Callable[[ModelMetrics], float | None]], ...] = (
    ("legion_requests_waiting", "Requests that wait for a place.", lambda model: model.waiting),
    ("legion_requests_under_way", "Requests that are being computed.", lambda model: model.under_way),
    (
        "legion_plan_predicted_seconds",
        "What a request is predicted to take.",
        lambda model: _seconds(model.predicted_ms),
    ),
    ("legion_plan_bound_seconds", "What no plan can be below.", lambda model: _seconds(model.bound_ms)),
    ("legion_plan_alone_seconds", "The fastest agent alone, predicted.", lambda model: _seconds(model.alone_ms)),
)
_PLAN_GAUGES: tuple[tuple[str, str, Callable[[PlanInfo], float | None]], ...] = (
    ("legion_plan_epoch", "The number of the plan in force.", lambda plan: plan.epoch),
    ("legion_plan_agents", "Agents with work in it.", lambda plan: len(plan.agents)),
    ("legion_plan_blocks", "Fused-layer blocks in it.", lambda plan: len(plan.blocks)),
    (
        "legion_plan_interval_seconds",
        "From one answer to the next, predicted.",
        lambda plan: _seconds(plan.interval_ms),
    ),
)


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "that port is taken; choose another, or 0 for any"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return "that port is for root only; choose one above 1023"
    return f"cannot listen there ({getattr(error, 'strerror', None) or error}); give an address of this machine"
