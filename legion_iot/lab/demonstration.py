"""The main job from end to end on one machine: a picture in, an answer out, computed by several agent processes.

Everything is real: the agents are processes of their own, the picture goes in by an MQTT publish like any client's, and
what comes out is compared with the whole model, run by the same runtime in this process.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from legion_iot_agent.interpreter import Interpreter
from legion_iot_broker.launch import local_broker

from legion_iot.errors import AgentError, InputError, LegionError, RequestError, UsageError
from legion_iot.lab.processes import AgentProcess, agent_processes
from legion_iot.model import tflite
from legion_iot.model.description import ModelDescription, describe
from legion_iot.model.graph import Graph
from legion_iot.orchestrator.answers import picture
from legion_iot.orchestrator.inputs import read_input
from legion_iot.orchestrator.service import EndedRequest, OrchestratorOptions, OrchestratorService
from legion_iot.transport.connection import BrokerAddress, Connected, Disconnected, Message
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import Answer, Result
from legion_iot.wire.topics import Topics

Array = npt.NDArray[Any]

MOST_AGENTS = 32
MOST_REQUESTS = 10_000
LEAST_BLOCKS = 3  # so that halo rows travel between agents
GROUP_TIMEOUT = 240.0  # seconds from the agents' start to a plan in force
REQUEST_TIMEOUT = 150.0
TIMING_TIMEOUT = 3.0  # seconds to wait for the last timing reports, which come after the answer
SINGLE_RUNS = 5


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to demonstrate; `broker` is a URL, empty for a broker of our own."""

    model: Path
    model_name: str
    image: Path
    agents: int = 3
    requests: int = 5
    broker: str = ""


@dataclass(frozen=True, slots=True)
class TileReport:
    """One tile as it was run: medians over the requests. `rows` are those of the block's output."""

    agent: str
    rows: tuple[int, int]
    milliseconds: float
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class BlockReport:
    """One block of the plan; `units` are its first and last unit."""

    units: tuple[int, int]
    output_shape: tuple[int, ...]
    tiles: tuple[TileReport, ...]


@dataclass(frozen=True, slots=True)
class AgentReport:
    """One agent that took part."""

    name: str
    pid: int
    runtime: str
    whole_model_ms: float
    tiles: int


@dataclass(frozen=True, slots=True, eq=False)
class DemoReport:
    """What happened. Latencies are milliseconds from publish to answer, as the client saw them.

    `exact` says that every output of every request equals the whole model's to the bit.
    """

    model: str
    image: str
    broker: str
    agents: tuple[AgentReport, ...]
    planner: str
    blocks: tuple[BlockReport, ...]
    tail: TileReport | None
    answer: tuple[Answer, ...]
    exact: bool
    max_abs_error: float
    max_rel_error: float
    latencies_ms: tuple[float, ...]
    single_device_ms: float
    picture: bytes | None


Progress = Callable[[str], None]


def run_demo(options: DemoOptions, progress: Progress = lambda text: None) -> DemoReport:
    """Start a broker, agents and the orchestrator, send the picture, and compare; everything is stopped at the end.

    Raises UsageError, InputError, ModelError, BrokerError, AgentError or RequestError.
    """
    if not 1 <= options.agents <= MOST_AGENTS:
        raise UsageError(f"--agents is {options.agents}; give a number from 1 to {MOST_AGENTS}")
    if not 1 <= options.requests <= MOST_REQUESTS:
        raise UsageError(f"--requests is {options.requests}; give a number from 1 to {MOST_REQUESTS}")
    payload = _read(options.image)
    graph = tflite.open_file(options.model)
    description = describe(graph)
    read_input(payload, graph, description)  # what cannot work fails here, before anything is started
    names = [f"agent-{number}" for number in range(1, options.agents + 1)]
    topics = Topics(f"legion-demo-{secrets.token_hex(4)}")  # a broker may be shared with others
    with contextlib.ExitStack() as stack:
        if options.broker:
            address, url, kind = BrokerAddress.parse(options.broker), options.broker, options.broker.rpartition("@")[2]
        else:
            progress("starting a broker")
            running = stack.enter_context(local_broker())
            address, url, kind = running.address, str(running.address), f"{running.kind} {running.version}"
        _check_reachable(address, topics)
        progress(f"starting {options.agents} agent{'s' if options.agents > 1 else ''}")
        agents = stack.enter_context(agent_processes(names, url, topics.base))
        group = stack.enter_context(_serving(options, address, topics, agents, progress))
        progress(f"sending {options.image.name} {options.requests} time{'s' if options.requests > 1 else ''}")
        results, ended, latencies = _send(options, address, topics, payload, group, agents)
        _wait_for_timings(group, len(results))
        progress("comparing with the whole model")
        reference, single_ms = _whole_model(options.model, ended[0].input)
        return _report(options, kind, agents, group, (results, ended, latencies), (reference, single_ms))


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise InputError(f"{image}: cannot be read ({error.strerror}); give a JPEG or PNG picture") from None


def _check_reachable(address: BrokerAddress, topics: Topics) -> None:
    """Raises BrokerError where the broker cannot be used, before agents are started only to find out the same."""
    connection = PahoConnection(address, f"{topics.base}-check", lambda event: None)
    connection.open(10.0)
    connection.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """The orchestrator in its thread, and what it tells."""

    service: OrchestratorService
    ended: queue.SimpleQueue[EndedRequest]


@contextlib.contextmanager
def _serving(
    options: DemoOptions, address: BrokerAddress, topics: Topics, agents: list[AgentProcess], progress: Progress
) -> Iterator[_Group]:
    """Run the orchestrator inside `with`, once its plan is in force."""
    phases: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    ended: queue.SimpleQueue[EndedRequest] = queue.SimpleQueue()
    service = OrchestratorService(
        OrchestratorOptions(address, options.model, options.model_name, topics.base, len(agents), LEAST_BLOCKS),
        on_phase=lambda phase, detail: phases.put((phase, detail)),
        on_ended=ended.put,
    )
    failure: list[LegionError] = []
    thread = threading.Thread(target=_run_service, args=(service, failure), name="orchestrator", daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + GROUP_TIMEOUT
        phase, detail = "", ""
        while phase != "serving":
            _check(agents, failure)
            if time.monotonic() > deadline:
                raise AgentError(f"the group was not ready within {GROUP_TIMEOUT:g} s: {phase} {detail}")
            if "left out" in detail:
                raise AgentError(f"an agent cannot take part: {detail}")
            with contextlib.suppress(queue.Empty):
                phase, detail = phases.get(timeout=0.2)
                progress(_PHASES.get(phase, phase).format(detail=detail))
        yield _Group(service, ended)
    finally:
        service.stop()
        thread.join(10.0)


_PHASES = {
    "gathering": "waiting for the agents: {detail}",
    "profiling": "measuring the agents' speed: {detail}",
    "assigning": "handing out the plan: {detail}",
    "serving": "the plan is in force on {detail}",
}


def _run_service(service: OrchestratorService, failure: list[LegionError]) -> None:
    try:
        service.run()
    except LegionError as error:
        failure.append(error)


def _check(agents: list[AgentProcess], failure: list[LegionError]) -> None:
    if failure:
        raise failure[0]
    for agent in agents:
        agent.check()


def _send(
    options: DemoOptions,
    address: BrokerAddress,
    topics: Topics,
    payload: bytes,
    group: _Group,
    agents: list[AgentProcess],
) -> tuple[list[Result], list[EndedRequest], list[float]]:
    """Publish the picture, one request after the other, as any MQTT client would."""
    answers: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def on_event(event: Connected | Disconnected | Message) -> None:
        if isinstance(event, Message):
            answers.put((time.perf_counter(), event.payload))

    client = PahoConnection(address, f"{topics.base}-client", on_event)
    client.open(15.0)
    results: list[Result] = []
    latencies: list[float] = []
    try:
        client.subscribe([(topics.result(options.model_name), 1)])
        for _ in range(options.requests):
            start = time.perf_counter()
            client.publish(topics.infer(options.model_name), payload)
            stop, content = _await_answer(answers, agents)
            result = codec.from_json(Result, content)
            if not result.ok:
                raise RequestError(f"the request ended with {result.error}: {result.reason}")
            results.append(result)
            latencies.append((stop - start) * 1e3)
    finally:
        client.close()
    return results, [group.ended.get(timeout=5.0) for _ in results], latencies


def _await_answer(answers: queue.SimpleQueue[tuple[float, bytes]], agents: list[AgentProcess]) -> tuple[float, bytes]:
    deadline = time.monotonic() + REQUEST_TIMEOUT
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            return answers.get(timeout=0.5)
        _check(agents, [])
    raise RequestError(f"no answer within {REQUEST_TIMEOUT:g} s; see the agents' load")


def _wait_for_timings(group: _Group, requests: int) -> None:
    """Timing reports travel beside the answer; give the last ones time to arrive."""
    state = group.service.state
    expected = {(work.step, work.agent) for work in state.routing.works[:-1]} if state.routing else set()
    deadline = time.monotonic() + TIMING_TIMEOUT
    while time.monotonic() < deadline:
        if all(len(state.timings.get(key, ())) >= requests for key in expected):
            return
        time.sleep(0.05)


def _whole_model(model: Path, value: Array | None) -> tuple[list[Array], float]:
    """The outputs of the whole model for the same input, and the median milliseconds of a run on one thread."""
    assert value is not None
    interpreter = Interpreter(model)
    outputs = interpreter.run([value])
    times = []
    for _ in range(SINGLE_RUNS):
        start = time.perf_counter()
        interpreter.run([value])
        times.append((time.perf_counter() - start) * 1e3)
    return outputs, statistics.median(times)


def _report(
    options: DemoOptions,
    broker: str,
    agents: list[AgentProcess],
    group: _Group,
    sent: tuple[list[Result], list[EndedRequest], list[float]],
    whole: tuple[list[Array], float],
) -> DemoReport:
    results, ended, latencies = sent
    reference, single_ms = whole
    service = group.service
    graph: Graph = service.network.graph
    description: ModelDescription = service.description
    exact, worst_abs, worst_rel = compare([request.outputs for request in ended], reference)
    blocks, tail = _plan_report(service)
    return DemoReport(
        model=options.model_name,
        image=str(options.image),
        broker=broker,
        agents=tuple(_agent_report(agent, service) for agent in agents),
        planner=service.state.plan.planner if service.state.plan else "",
        blocks=blocks,
        tail=tail,
        answer=results[-1].answer,
        exact=exact,
        max_abs_error=worst_abs,
        max_rel_error=worst_rel,
        latencies_ms=tuple(latencies),
        single_device_ms=single_ms,
        picture=picture(graph, description, ended[-1].outputs),
    )


def compare(runs: list[tuple[Array, ...]], reference: list[Array]) -> tuple[bool, float, float]:
    """Whether all outputs of all runs equal the reference to the bit; the largest absolute and relative difference.

    The relative difference is to the largest magnitude of the output it stands in.
    """
    exact, worst_abs, worst_rel = True, 0.0, 0.0
    for outputs in runs:
        for output, expected in zip(outputs, reference, strict=True):
            exact &= output.shape == expected.shape and output.tobytes() == expected.tobytes()
            difference = float(np.max(np.abs(output.astype(np.float64) - expected.astype(np.float64)), initial=0.0))
            magnitude = float(np.max(np.abs(expected.astype(np.float64)), initial=0.0))
            worst_abs = max(worst_abs, difference)
            worst_rel = max(worst_rel, difference / magnitude if magnitude else difference)
    return exact, worst_abs, worst_rel


def _plan_report(service: OrchestratorService) -> tuple[tuple[BlockReport, ...], TileReport | None]:
    state, graph = service.state, service.network.graph
    if state.plan is None:
        raise AgentError("an agent left the group after the last request; run the demo again")
    blocks = []
    for step, block in enumerate(state.plan.blocks):
        tiles = tuple(
            _tile_report(service, step, tile.agent, (tile.region.rows.start, tile.region.rows.stop))
            for tile in block.tiles
        )
        shape = graph.tensors[service.network.units[block.last].reference].shape
        blocks.append(BlockReport((block.first, block.last), shape, tiles))
    tail = None
    if service.network.tail:
        tail = _tile_report(service, len(state.plan.blocks), state.plan.tail_agent, (0, 0))
    return tuple(blocks), tail


def _tile_report(service: OrchestratorService, step: int, agent: str, rows: tuple[int, int]) -> TileReport:
    timings = service.state.timings.get((step, agent), ())
    return TileReport(
        agent,
        rows,
        statistics.median(t.seconds for t in timings) * 1e3 if timings else 0.0,
        int(statistics.median(t.bytes_sent for t in timings)) if timings else 0,
    )


def _agent_report(agent: AgentProcess, service: OrchestratorService) -> AgentReport:
    record = service.state.agents[agent.name]
    assert record.info is not None
    assert record.profile is not None
    info = record.info
    tiles = sum(tile.agent == agent.name for block in service.state.plan.blocks for tile in block.tiles) if (
        service.state.plan
    ) else 0  # fmt: skip
    return AgentReport(
        agent.name,
        agent.process.pid,
        f"{info.runtime} {info.runtime_version} ({info.kernel_path})",
        statistics.median(record.profile.runs) * 1e3,
        tiles,
    )
