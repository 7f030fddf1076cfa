"""The main job from end to end on one machine: a picture in, an answer out, computed by several agent processes.

Everything is real: the agents are processes of their own, the picture goes in by an MQTT publish like any client's, and
what comes out is compared with the whole model, run by the same runtime.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from legion_iot.errors import AgentError, InputError, LegionError, RequestError, UsageError
from legion_iot.interruption import temporary_directory
from legion_iot.lab.identities import Identities
from legion_iot.lab.meeting import Meeting, Progress, identified_agents, lab_devices, plain_agents
from legion_iot.lab.processes import Agent
from legion_iot.lab.report import DemoReport, agent_report, compare, plan_report, planning_report
from legion_iot.lab.spec import LabSpec
from legion_iot.lab.whole_model import run_whole_model
from legion_iot.model import tflite
from legion_iot.model.blocks import Network
from legion_iot.model.description import describe
from legion_iot.orchestrator.answers import picture, top_class
from legion_iot.orchestrator.inputs import MAX_PAYLOAD, read_input
from legion_iot.orchestrator.options import ModelFile, OrchestratorOptions
from legion_iot.orchestrator.service import OrchestratorService
from legion_iot.orchestrator.serving import EndedRequest, ServedModel
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners.balanced import MakePlan, after_whole_runs, balanced
from legion_iot.planning.problem import Planner
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.runtime.epochs import TIMINGS
from legion_iot.runtime.exchange import wire_between
from legion_iot.tracing.chrome import chrome_trace
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.dtypes import EXACT
from legion_iot.wire.messages import Result
from legion_iot.wire.topics import Topics
from legion_iot_agent.shapes import static_file

Array = npt.NDArray[Any]

MOST_AGENTS = 32
MOST_REQUESTS = 10_000
LEAST_BLOCKS = 3  # so that halo rows travel between agents
GROUP_TIMEOUT = 240.0  # seconds without any progress on the way to a plan in force
REQUEST_TIMEOUT = 150.0
TIMING_TIMEOUT = 3.0  # seconds to wait for the last timing reports, which come after the answer
SINGLE_RUNS = 5


def shown_plan(network: Network, speeds: Mapping[str, float]) -> Plan:
    """A plan in which something can be seen to travel."""
    return balanced(network, speeds, LEAST_BLOCKS)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to demonstrate; `broker` is a URL, or the kind of a broker of our own: "auto", "mosquitto" or "embedded"."""

    model: Path
    model_name: str
    image: Path
    agents: int = 3
    requests: int = 5
    broker: str = "auto"
    input_shape: str = ""
    lab: LabSpec | None = None  # its devices are the agents, and its broker the broker
    traced: bool = False
    wire: str = EXACT
    make_plan: MakePlan = shown_plan
    identities: Identities | None = None  # who connects, at a broker with access rules; they are the agents then
    planner: Planner | None = None  # None: `make_plan`


def run_demo(options: DemoOptions, progress: Progress = lambda text: None) -> DemoReport:
    """Start a broker, agents and the orchestrator, send the picture, and compare; everything is stopped at the end.

    Raises UsageError, InputError, ModelError, BrokerError, AgentError or RequestError.
    """
    if not 1 <= options.agents <= MOST_AGENTS:
        raise UsageError(f"--agents is {options.agents}; give a number from 1 to {MOST_AGENTS}")
    if not 1 <= options.requests <= MOST_REQUESTS:
        raise UsageError(f"--requests is {options.requests}; give a number from 1 to {MOST_REQUESTS}")
    with temporary_directory("legion-demo-") as directory:
        model = static_file(options.model, directory, options.input_shape)
        return _run_demo(dataclasses.replace(options, model=model), progress)


def _run_demo(options: DemoOptions, progress: Progress) -> DemoReport:
    payload = _read(options.image)
    graph = tflite.open_file(options.model)
    description = describe(graph)
    try:
        view = read_input(payload, graph, description).view  # what cannot work fails here, before anything is started
    except InputError as error:
        raise InputError(f"{options.image}: {error}") from None
    # A broker may be shared with others; one with access rules knows no other group than that of the bundles.
    base = options.identities.orchestrator.base_topic if options.identities else f"legion-demo-{secrets.token_hex(4)}"
    topics = Topics(base)
    with contextlib.ExitStack() as stack:
        meeting = _meet(options, topics, stack, progress)
        agents, lab = meeting.agents, meeting.lab
        group = stack.enter_context(_serving(options, meeting.orchestrator, topics, agents, progress))
        results, ended, latencies = _send(options, meeting.client, topics, payload, group, agents, progress)
        _wait_for_timings(group, ended)
        progress("comparing with the whole model")
        value = ended[0].input
        assert value is not None
        reference, single_ms = run_whole_model(options.model, value, SINGLE_RUNS)
        size = view.pixels if view else None
        report = _report(
            options, meeting.title, agents, group, (results, ended, latencies), (reference, single_ms), size
        )
        trace = _trace(group.model, ended, f"{options.model_name} over {meeting.title}") if options.traced else None
        if lab is not None:  # a single device of the lab is as slow as the others
            fastest = min(each.whole_model_ms for each in report.agents if each.whole_model_ms is not None)
            report = dataclasses.replace(report, single_device_ms=fastest)
        return dataclasses.replace(report, lab=lab, trace=trace)


def _meet(options: DemoOptions, topics: Topics, stack: contextlib.ExitStack, progress: Progress) -> Meeting:
    if options.lab is not None:
        return lab_devices(options.lab, topics, stack, progress)
    if options.identities is not None:
        url = "" if options.broker == "auto" else options.broker
        return identified_agents(options.identities, url, options.model_name, topics, stack, progress)
    return plain_agents(options.broker, options.agents, options.model_name, topics, stack, progress)


def _read(image: Path) -> bytes:
    try:
        with image.open("rb") as file:
            return file.read(MAX_PAYLOAD + 1)  # one more than allowed is enough to be refused
    except OSError as error:
        raise InputError(f"{image}: cannot be read ({error.strerror}); give a JPEG or PNG picture") from None


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """The orchestrator in its thread, and what it tells."""

    model: ServedModel
    ended: queue.SimpleQueue[EndedRequest]


@contextlib.contextmanager
def _serving(
    options: DemoOptions, address: BrokerAddress, topics: Topics, agents: Sequence[Agent], progress: Progress
) -> Iterator[_Group]:
    """Run the orchestrator inside `with`, once its plan is in force."""
    phases: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    ended: queue.SimpleQueue[EndedRequest] = queue.SimpleQueue()
    service = OrchestratorService(
        OrchestratorOptions(
            address,
            (ModelFile(options.model_name, options.model),),
            topics.base,
            len(agents),
            options.wire,
            options.make_plan,
            None if options.planner is None else after_whole_runs(options.planner),
        ),
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
                deadline = time.monotonic() + GROUP_TIMEOUT
                if phase:
                    progress(_PHASES.get(phase, phase).format(detail=detail))
        yield _Group(service.models.by_name[options.model_name], ended)
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


def _check(agents: Sequence[Agent], failure: list[LegionError]) -> None:
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
    agents: Sequence[Agent],
    progress: Progress,
) -> tuple[list[Result], list[EndedRequest], list[float]]:
    """Publish the picture, one request after the other, as any MQTT client would."""
    answers: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def on_event(event: TransportEvent) -> None:
        if isinstance(event, Message):
            answers.put((time.perf_counter(), event.payload))

    client = PahoConnection(address, f"{topics.base}-client", on_event)
    client.open(15.0)
    results: list[Result] = []
    latencies: list[float] = []
    try:
        client.subscribe([(topics.result(options.model_name), 1)])
        for number in range(1, options.requests + 1):
            progress(f"sending {options.image.name}: {number} of {options.requests}")
            start = time.perf_counter()
            client.publish(topics.infer(options.model_name), payload)
            stop, content = _await_answer(answers, agents)
            result = codec.from_json(Result, content)
            if not result.ok:
                raise RequestError(f"the request ended with {result.error}: {result.reason}")
            results.append(result)
            latencies.append((stop - start) * 1e3)
            _check(agents, [])  # the group goes on without an agent that has died; what is shown would not
    finally:
        client.close()
    return results, [group.ended.get(timeout=5.0) for _ in results], latencies


def _await_answer(answers: queue.SimpleQueue[tuple[float, bytes]], agents: Sequence[Agent]) -> tuple[float, bytes]:
    deadline = time.monotonic() + REQUEST_TIMEOUT
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            return answers.get(timeout=0.5)
        _check(agents, [])
    raise RequestError(f"no answer within {REQUEST_TIMEOUT:g} s; see the agents' load")


def _wait_for_timings(group: _Group, ended: Sequence[EndedRequest]) -> None:
    """Timing reports travel beside the answer; give the last ones time to arrive."""
    state = group.model.state
    went = Counter(request.replica for request in ended)
    works = [work for work in state.routing.works if work.agent != ORCHESTRATOR] if state.routing else []
    deadline = time.monotonic() + TIMING_TIMEOUT
    while time.monotonic() < deadline:
        if all(len(state.timings.get((w.step, w.agent), ())) >= min(went[w.replica], TIMINGS) for w in works):
            return
        time.sleep(0.05)


def _trace(model: ServedModel, ended: Sequence[EndedRequest], setting: str) -> dict[str, Any]:
    """The requests whose timings are all there, as a trace; timing reports may be lost, and only the last are kept."""
    made = [model.traces.of(request.result.request) for request in ended]
    traces = [make() for make in made if make is not None]
    whole = [trace for trace in traces if not trace.missing]
    return chrome_trace(whole, len(ended) - len(whole), setting)


def _wire_used(model: ServedModel, wire: str) -> bool:
    """Whether the plan has any maps that travel in another form than their own."""
    tensors, routing = model.network.graph.tensors, model.state.routing
    if routing is None:
        return False
    between = [t for t in routing.transfers if ORCHESTRATOR not in (t.source, t.target) and t.source != t.target]
    return any(wire_between(tensors[t.tensor].dtype, t.target, wire) for t in between)


def _report(
    options: DemoOptions,
    broker: str,
    agents: Sequence[Agent],
    group: _Group,
    sent: tuple[list[Result], list[EndedRequest], list[float]],
    whole: tuple[list[Array], float],
    size: tuple[int, int] | None,
) -> DemoReport:
    results, ended, latencies = sent
    reference, single_ms = whole
    model = group.model
    runs = [request.outputs for request in ended]
    exact, worst_abs, worst_rel = compare(runs, reference)
    answers = [top_class(model.network.graph, model.description, outputs) for outputs in (*runs, reference)]
    return DemoReport(
        model=options.model_name,
        image=str(options.image),
        broker=broker,
        agents=tuple(agent_report(agent, model) for agent in agents),
        planner=model.state.plan.planner if model.state.plan else "",
        planning=planning_report(model),
        turns=plan_report(model, Counter(request.replica for request in ended)),
        answer=results[-1].answer,
        exact=exact,
        max_abs_error=worst_abs,
        max_rel_error=worst_rel,
        latencies_ms=tuple(latencies),
        single_device_ms=single_ms,
        picture=picture(model.network.graph, model.description, ended[-1].outputs, size),
        trunk_ended_by=model.network.ended_by,
        wire=options.wire,
        wire_used=_wire_used(model, options.wire),
        packed=tuple((source, target) for source, targets in model.state.packs.items() for target in targets),
        top_class_stays=None if answers[-1] is None else len(set(answers)) == 1,
    )
