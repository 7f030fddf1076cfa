"""Agent processes on this machine, that end with whoever started them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from legion_iot.errors import AgentError

STOP_TIMEOUT = 5.0  # seconds to say goodbye before a process is killed


@dataclass(frozen=True, slots=True)
class AgentProcess:
    """One running agent, and where its error output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises AgentError when the process has ended, with the last thing it said."""
        code = self.process.poll()
        if code is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = lines[-1].removeprefix("legion-agent: ") if lines else "it said nothing"
            raise AgentError(f"{self.name} ended with code {code}: {said}")


@contextlib.contextmanager
def agent_processes(
    names: Sequence[str], broker: str, base_topic: str, threads: int = 1
) -> Iterator[list[AgentProcess]]:
    """Run one agent process per name inside `with`; afterwards all are gone, and so are their files.

    Each agent ends by itself when this process does, however it does, since its standard input then closes.
    """
    agents: list[AgentProcess] = []
    with tempfile.TemporaryDirectory(prefix="legion-agents-") as directory:
        try:
            for name in names:
                agents.append(_start(name, broker, base_topic, threads, Path(directory)))
            yield agents
        finally:
            _stop([agent.process for agent in agents])


def _start(name: str, broker: str, base_topic: str, threads: int, directory: Path) -> AgentProcess:
    log = directory / f"{name}.log"
    command = [
        sys.executable, "-m", "legion_iot_agent.main", "--name", name, "--base-topic", base_topic,
        "--state-dir", str(directory / name), "--threads", str(threads), "--until-stdin-closes",
    ]  # fmt: skip
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            # The address may hold a password, which other users could read among a process's arguments. Modules
            # come from the installation, not from the directory the user happens to be in.
            env={**os.environ, "LEGION_BROKER": broker, "PYTHONSAFEPATH": "1"},
            start_new_session=True,  # Ctrl-C in the terminal is for us; we end the agents in order
        )
    return AgentProcess(name, process, log)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
    deadline = time.monotonic() + STOP_TIMEOUT
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
