"""What may be wrong with a group, by what it retains at its broker."""

from __future__ import annotations

import contextlib
import queue
import secrets
import time
from collections.abc import Iterable, Iterator

from legion_iot import __version__
from legion_iot.doctor.findings import Finding, Level
from legion_iot.errors import BrokerError, ProtocolError
from legion_iot.orchestrator.observed import Observed
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.retained import read_retained
from legion_iot.wire import codec
from legion_iot.wire.group import GroupMetrics
from legion_iot.wire.messages import AgentInfo
from legion_iot.wire.topics import Topics

LISTENING = 4.5  # seconds in which an orchestrator tells its figures twice
MOST_NAMED = 5
OPEN_TIMEOUT = 10.0


def examine(address: BrokerAddress, topics: Topics) -> Iterator[Finding]:
    """Everything about the group; what this member may not read is said."""
    try:
        observed = read(address, topics)
        sessions = orchestrators(address, topics) if observed.orchestrator.state != "offline" else set()
    except BrokerError as error:
        cure = "give the bundle of an observer or an operator (--credentials)"
        yield _finding("group", "warning", f"what it says cannot be read ({error})", cure)
        return
    yield orchestrator(observed, sessions, topics.base)
    yield from agents(observed)
    yield from versions(observed)
    yield from runtimes(observed)
    yield from models(observed)


def read(address: BrokerAddress, topics: Topics) -> Observed:
    """What the group retains; raises BrokerError."""
    filters = [topics.agent("+", "state"), topics.agent("+", "info"), topics.orchestrator_state(),
               topics.orchestrator_metrics(), topics.model("+")]  # fmt: skip
    return Observed.of(topics, read_retained(address, f"legion-doctor-{secrets.token_hex(4)}", filters))


def orchestrators(address: BrokerAddress, topics: Topics) -> set[str]:
    """The sessions of those that tell their figures now; raises BrokerError."""
    events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
    connection = PahoConnection(address, f"legion-doctor-{secrets.token_hex(4)}", events.put)
    connection.open(OPEN_TIMEOUT)
    sessions: set[str] = set()
    try:
        connection.subscribe([(topics.orchestrator_metrics(), 0)])
        deadline = time.monotonic() + LISTENING
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty, ProtocolError):
                event = events.get(timeout=left)
                if isinstance(event, Message) and not event.retain and event.payload:
                    sessions.add(codec.from_json(GroupMetrics, event.payload).session)
    finally:
        connection.abort()
    return sessions


def orchestrator(observed: Observed, sessions: set[str], base: str) -> Finding:
    """Whether there is one, and one only."""
    said = observed.orchestrator
    if said.state == "offline":
        cure = "start one: legion orchestrator run"
        return _finding("orchestrator", "failure", f"none is online below {base!r}", cure)
    if len(sessions) > 1:
        cure = "end all but one, or give each a --base-topic of its own"
        return _finding("orchestrator", "failure", f"{len(sessions)} serve the same group", cure)
    if not sessions:
        cure = "look at what it logs, and whether its process still runs"
        return _finding("orchestrator", "warning", f"it says {said.state}, but tells nothing of late", cure)
    return _finding("orchestrator", "ok", f"{said.state}: {said.detail}" if said.detail else said.state)


def agents(observed: Observed) -> Iterator[Finding]:
    """How they say they are, and which of them get no work."""
    states = observed.states
    present = sorted(name for name, state in states.items() if state.is_present)
    if not present:
        yield _finding("agents", "failure", "none is online", "start some: legion-agent --broker URL")
    else:
        yield _finding("agents", "ok", f"{len(present)} online: {named(present)}")
    if offline := sorted(name for name, state in states.items() if not state.is_present):
        cure = "look at their power, their network, and: systemctl status legion-agent"
        yield _finding("agents", "warning", f"{len(offline)} offline: {named(offline)}", cure)
    for name in present:
        if states[name].state == "degraded":
            cure = "see the reason; it goes on working meanwhile"
            yield _finding("agents", "warning", f"{name} is degraded: {states[name].detail}", cure)
    for agent in () if observed.metrics is None else observed.metrics.agents:
        if agent.problem and agent.agent in present:
            cure = "see the reason, mend it, and start that agent anew"
            yield _finding("agents", "warning", f"{agent.agent}: {agent.problem}", cure)


def versions(observed: Observed) -> Iterator[Finding]:
    """Whether all have the same, which is ours."""
    by_version: dict[str, list[str]] = {}
    for name, info in _present(observed):
        by_version.setdefault(info.version, []).append(name)
    if not by_version:
        return
    if set(by_version) == {__version__}:
        yield _finding("versions", "ok", f"all agents have {__version__}, as this machine has")
        return
    for version, names in sorted(by_version.items()):
        if version != __version__:
            found = f"{named(names)} have {version}, and this machine has {__version__}"
            yield _finding("versions", "warning", found, "update the older side: pip install --upgrade legion-iot")


def runtimes(observed: Observed) -> Iterator[Finding]:
    """Whether like boards compute with like runtimes: else their numbers differ, and what was measured on one is not
    known of the other."""
    boards: dict[str, dict[str, list[str]]] = {}
    for name, info in _present(observed):
        runtime = f"{info.runtime} {info.runtime_version} {info.kernel_path}"
        boards.setdefault(info.board, {}).setdefault(runtime, []).append(name)
    for board, by_runtime in sorted(boards.items()):
        if len(by_runtime) > 1:
            found = "; ".join(f"{named(names)}: {runtime}" for runtime, names in sorted(by_runtime.items()))
            cure = "install the same one on all of them: pip install --upgrade 'legion-iot[agent]'"
            yield _finding("runtimes", "warning", f"boards of one kind ({board}) differ: {found}", cure)
    if boards and all(len(by_runtime) == 1 for by_runtime in boards.values()):
        yield _finding("runtimes", "ok", "boards of one kind have one runtime")


def models(observed: Observed) -> Iterator[Finding]:
    """Whether every model is served."""
    if observed.metrics is None:
        return
    if not observed.metrics.models:
        yield _finding("models", "warning", "none is served", "add one: legion model add")
    for model in observed.metrics.models:
        if model.phase == "serving":
            yield _finding("models", "ok", f"{model.name} is served")
        else:
            cure = "wait, and look again: legion status"
            yield _finding("models", "warning", f"{model.name} is {model.phase}: {model.detail}", cure)


def named(names: Iterable[str]) -> str:
    """The names, or the first of many."""
    every = list(names)
    more = f" and {len(every) - MOST_NAMED} more" if len(every) > MOST_NAMED else ""
    return ", ".join(every[:MOST_NAMED]) + more


def _present(observed: Observed) -> list[tuple[str, AgentInfo]]:
    states = observed.states
    return sorted((n, info) for n, info in observed.infos.items() if n in states and states[n].is_present)


def _finding(check: str, level: Level, found: str, cure: str = "") -> Finding:
    return Finding("group", check, level, found, cure)
