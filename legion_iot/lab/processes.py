"""Agent processes on this machine, that end with whoever started them."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from legion_iot.configuration.programs import AGENT
from legion_iot.errors import AgentError
from legion_iot.interruption import temporary_directory, uninterrupted

STOP_TIMEOUT = 5.0  # seconds to say goodbye before a process is killed


class Agent(Protocol):
    """An agent that runs on this machine, whoever started it."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int: ...

    def check(self) -> None:
        """Raises AgentError when its process has ended, with the last thing it said."""


@dataclass(frozen=True, slots=True)
class AgentProcess:
    """One running agent, and where its error output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raises AgentError when the process has ended, with the last thing it said."""
        code = self.process.poll()
        if code is not None:
            raise AgentError(f"{self.name} ended with code {code}: {last_words(self.log)}")


def last_words(log: Path) -> str:
    """The last line an agent has said."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].removeprefix("legion-agent: ") if lines else "it said nothing"


@dataclass(frozen=True, slots=True)
class AgentStart:
    """An agent to be started: where its broker is, its further arguments, and the command that starts the command."""

    name: str
    broker: str
    arguments: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()


@contextlib.contextmanager
def agent_processes(starts: Sequence[AgentStart], base_topic: str) -> Iterator[list[AgentProcess]]:
    """Run these agent processes inside `with`; afterwards all are gone, and so are their files.

    All read from one pipe, which closes with this process, however it ends: then they end too. All hold the other end
    of a second pipe, which is at its end when the last of them is gone, their own children included.
    """
    agents: list[AgentProcess] = []
    with (
        temporary_directory("legion-agents-") as directory,
        _Pipe() as lifeline,
        _Pipe() as held,
        uninterrupted() as interruptible,
    ):
        try:
            for start in starts:
                agents.append(_start(start, base_topic, directory, (lifeline.read, held.write)))
            with interruptible():
                yield agents
        finally:
            lifeline.close_write()
            held.close_write()
            _wait([agent.process for agent in agents], held.read)


class _Pipe:
    """A pipe that is closed at the end of `with`; its `write` end may be closed before."""

    def __enter__(self) -> _Pipe:
        self.read, self.write = os.pipe()
        self._open = True
        return self

    def close_write(self) -> None:
        if self._open:
            self._open = False
            os.close(self.write)

    def __exit__(self, *_: object) -> None:
        self.close_write()
        os.close(self.read)


def _start(start: AgentStart, base_topic: str, directory: Path, ends: tuple[int, int]) -> AgentProcess:
    log = directory / f"{start.name}.log"
    command = [
        *start.prefix, sys.executable, "-m", "legion_iot_agent.main", "--name", start.name, "--base-topic", base_topic,
        "--state-dir", str(directory / start.name), "--config", os.devnull, "--until-stdin-closes", *start.arguments,
    ]  # fmt: skip
    # What the user's own agent would take from files and the environment is not for these. Modules come from the
    # installation, not from the directory the user happens to be in.
    told = {setting.variable for setting in AGENT}
    environment = {name: value for name, value in os.environ.items() if name not in told}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=ends[0],
            stdout=ends[1],
            stderr=errors,
            env={**environment, "LEGION_BROKER": start.broker, "PYTHONSAFEPATH": "1"},
            start_new_session=True,  # Ctrl-C in the terminal is for us; we end the agents in order
        )
    return AgentProcess(start.name, process, log)


def _wait(processes: Sequence[subprocess.Popen[bytes]], held: int) -> None:
    """Until all have ended, by force after a while."""
    deadline = time.monotonic() + STOP_TIMEOUT
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    while select.select([held], [], [], max(0.0, deadline - time.monotonic()))[0] and os.read(held, 4096):
        pass
