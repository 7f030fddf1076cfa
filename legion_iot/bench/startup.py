"""How soon the command line answers, beside a program that does no more than import the library it is made with.

Counted is processor time, of which other programs on the machine take nothing. Programs take turns, and of each the
least counts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from legion_iot import __version__
from legion_iot.bench.report import BenchReport, Check
from legion_iot.errors import AgentError
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.credentials import DEFAULT_BASE_TOPIC
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import OrchestratorState
from legion_iot.wire.topics import Topics
from legion_iot_broker.launch import local_broker

Say = Callable[[str, float | None], None]

BARE = "python -c 'import typer'"
# What people wait for most often; none of it computes or downloads.
COMMANDS = ("--help", "--version", "plan --help", "config show --json", "status --json")
MOST = 3.0  # times the bare import
QUICK, FULL = 7, 25  # rounds
_PATIENCE = 60.0  # seconds for one start


def run(quick: bool, say: Say) -> BenchReport:
    """Starts every command in each round, at a broker of its own. Raises AgentError where one of them fails."""
    with local_broker("embedded") as broker, _orchestrator(broker.address):
        return _measured(QUICK if quick else FULL, say, str(broker.address))


@contextlib.contextmanager
def _orchestrator(address: BrokerAddress) -> Iterator[None]:
    """What an orchestrator without agents and models retains."""
    topics = Topics(DEFAULT_BASE_TOPIC)
    connection = PahoConnection(address, "legion-bench", lambda event: None)
    connection.open(_PATIENCE)
    try:
        state = OrchestratorState("idle", "bench")
        connection.publish(topics.orchestrator_state(), codec.to_json(state), qos=1, retain=True)
        yield
    finally:
        connection.close()


def _measured(rounds: int, say: Say, broker: str) -> BenchReport:
    environment = {**os.environ, "LEGION_BROKER": broker}
    programs = {BARE: [sys.executable, "-c", "import typer"]}
    programs |= {f"legion {words}": [sys.executable, "-m", "legion_iot.cli", *words.split()] for words in COMMANDS}
    least = dict.fromkeys(programs, float("inf"))
    for number in range(rounds):
        say(f"starting {len(programs)} programs, round {number + 1} of {rounds}", number / rounds)
        for name, program in programs.items():
            least[name] = min(least[name], processor_seconds(program, environment))
    rows: list[dict[str, Any]] = [
        {"what": name, "seconds": seconds, "ratio": seconds / least[BARE]} for name, seconds in least.items()
    ]
    checks = [
        Check.at_most(f"{row['what']}: processor time / {BARE}", row["ratio"], "×", MOST)
        for row in rows
        if row["what"] != BARE
    ]
    return BenchReport("cli", {"version": __version__, "rounds": rounds}, rows, checks)


def processor_seconds(program: list[str], environment: Mapping[str, str] | None = None) -> float:
    """What one run takes of all processors. Raises AgentError where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        program, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise AgentError(f"{' '.join(program[1:])} failed with {done.returncode}: {last:.200}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def lines(report: BenchReport) -> list[str]:
    """The rows, for people."""
    return [
        f"{row['what']:<32} {1e3 * row['seconds']:5.0f} ms of processor time  {row['ratio']:.2f} ×"
        for row in report.rows
    ]
