"""What an agent costs a device: disk, the time its command takes to answer, and memory while it has nothing to do.

Memory is what is resident, of an agent that is online and of a process that has imported the same runtime and run one
small model with it: what the agent adds to what nobody could do without.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import queue
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from legion_iot import __version__
from legion_iot.bench.report import BenchReport, Check
from legion_iot.bench.startup import processor_seconds
from legion_iot.errors import AgentError
from legion_iot.interruption import temporary_directory
from legion_iot.lab.processes import AgentStart, agent_processes
from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder
from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import AgentState
from legion_iot.wire.topics import Topics
from legion_iot_agent.interpreter import RUNTIMES, runtime_info
from legion_iot_broker.launch import local_broker

Say = Callable[[str, float | None], None]

DISTRIBUTION, EXTRA = "legion-iot", "agent"
PACKAGES = ("legion_iot", "legion_iot_agent", "legion_iot_broker")
MOST_HELP_SECONDS = 0.15  # of processor time, over what Python itself takes
MOST_MEMORY = 1.5  # times a bare runtime's
START_SECONDS = 60.0
IDLE_SECONDS = 3.0  # after which an agent that came online has nothing left to do
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def run(quick: bool, say: Say) -> BenchReport:
    """The footprint on this machine. Raises AgentError, BrokerError or RuntimeMissingError where no agent can run."""
    rounds = 5 if quick else 20
    runtime = runtime_info()
    say("looking at what is installed", None)
    rows: list[dict[str, Any]] = [{"what": f"on disk: {name}", "bytes": size} for name, size in disk_sizes().items()]
    rows.append({"what": "on disk: all", "bytes": sum(row["bytes"] for row in rows)})
    say("starting commands", None)
    bare = _processor_seconds([sys.executable, "-c", "pass"], rounds)
    show_help = _processor_seconds([sys.executable, "-m", "legion_iot_agent.main", "--help"], rounds) - bare
    imports = _processor_seconds([sys.executable, "-c", "import legion_iot_agent.service"], rounds) - bare
    rows += [{"what": "legion-agent --help", "seconds": show_help}, {"what": "import of the agent", "seconds": imports}]
    say("watching an agent that has nothing to do", None)
    with temporary_directory("legion-bench-") as directory:
        runtime_bytes = min(_bare_bytes(directory) for _ in range(2 if quick else 5))
    agent_bytes = min(_agent_bytes() for _ in range(1 if quick else 3))
    rows += [{"what": "bare runtime", "resident": runtime_bytes}, {"what": "idle agent", "resident": agent_bytes}]
    checks = [
        Check.at_most("legion-agent --help, processor time over Python's own", show_help, "s", MOST_HELP_SECONDS),
        Check.at_most("resident memory: idle agent / bare runtime", agent_bytes / runtime_bytes, "×", MOST_MEMORY),
    ]
    setting = {"runtime": f"{runtime.name} {runtime.version}", "version": __version__, "rounds": rounds}
    return BenchReport("footprint", setting, rows, checks)


def lines(report: BenchReport) -> list[str]:
    """The rows, for people."""
    shown = []
    for row in report.rows:
        if "seconds" in row:
            figure = f"{row['seconds']:.3f} s of processor time"
        else:
            figure = f"{row.get('bytes', row.get('resident', 0)) / 1e6:.1f} MB" + (" resident" * ("resident" in row))
        shown.append(f"{row['what']:<32} {figure}")
    return shown


# --- disk ---


def disk_sizes() -> dict[str, int]:
    """Bytes of each distribution that `pip install legion-iot[agent]` brings and that is installed here."""
    sizes = {DISTRIBUTION: sum(_package_bytes(package) for package in PACKAGES)}
    wanted = [_NAME.match(line) for line in importlib.metadata.requires(DISTRIBUTION) or () if _belongs(line)]
    names = [match[0] for match in wanted if match]
    while names:
        name = names.pop(0)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another processor or version of Python
        if found.name in sizes:
            continue
        files = (Path(str(file.locate())) for file in found.files or () if "__pycache__" not in str(file))
        sizes[found.name] = sum(file.stat().st_size for file in files if file.is_file())
        needed = (_NAME.match(line) for line in found.requires or () if "extra ==" not in line)
        names += [match[0] for match in needed if match]
    return sizes


def _belongs(requirement: str) -> bool:
    """Whether a requirement of ours is of the base or of the extra."""
    extra = re.search(r"""extra == ['"]([^'"]+)['"]""", requirement)
    return extra is None or extra[1] == EXTRA


def _package_bytes(package: str) -> int:
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    files = (file for place in places or () for file in Path(place).rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files if "__pycache__" not in file.parts)


# --- time ---


def _processor_seconds(command: list[str], rounds: int) -> float:
    """The least that the command takes of all processors."""
    return min(processor_seconds(command) for _ in range(rounds))


# --- memory ---


def _bare_bytes(directory: Path) -> int:
    """What is resident of a process that has run a small model and does nothing more."""
    net = GraphBuilder("small")
    path = directory / "small.tflite"
    tflite.write_file(net.finish(net.conv2d(net.input((1, 32, 32, 3)), 8, 3)), path)
    package = next(package for package, distribution in RUNTIMES if distribution == runtime_info().name)
    code = (
        "import sys, numpy\n"
        f"from {package}.interpreter import Interpreter\n"
        "made = Interpreter(model_path=sys.argv[1], num_threads=1)\n"
        "made.allocate_tensors()\n"
        "made.set_tensor(made.get_input_details()[0]['index'], numpy.zeros((1, 32, 32, 3), 'float32'))\n"
        "made.invoke()\n"
        "print(open('/proc/self/status').read())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=START_SECONDS, check=True
    )
    return _resident(done.stdout)


def _agent_bytes() -> int:
    """What is resident of an agent that is online and has not been given anything yet."""
    with (
        local_broker("embedded") as broker,
        agent_processes([AgentStart("ant", str(broker.address))], "bench") as agents,
    ):
        _wait_until_online(broker.address, "ant")
        time.sleep(IDLE_SECONDS)
        return _resident(Path(f"/proc/{agents[0].process.pid}/status").read_text(encoding="utf-8"))


def _wait_until_online(address: BrokerAddress, name: str) -> None:
    states: queue.SimpleQueue[AgentState] = queue.SimpleQueue()

    def on_event(event: TransportEvent) -> None:
        if isinstance(event, Message):
            states.put(codec.from_json(AgentState, event.payload))

    connection = PahoConnection(address, "legion-bench", on_event)
    connection.open(START_SECONDS)
    try:
        connection.subscribe([(Topics("bench").agent(name, "state"), 1)])
        deadline = time.monotonic() + START_SECONDS
        while states.get(timeout=max(0.0, deadline - time.monotonic())).state != "online":
            pass
    except queue.Empty:
        raise AgentError(f"the agent did not come online within {START_SECONDS:g} s; is the machine busy?") from None
    finally:
        connection.close()


def _resident(status: str) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise AgentError("this system does not say how much memory a process has (VmRSS in /proc)")
    return int(found[1]) * 1024
