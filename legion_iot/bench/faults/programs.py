"""The programs of a group on this machine: started, killed, stopped for a while, started again, and looked at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from legion_iot.configuration.programs import PROGRAMS
from legion_iot.errors import AgentError
from legion_iot.interruption import uninterrupted
from legion_iot.lab.processes import last_words
from legion_iot_broker.mosquitto import child_prefix

END_TIMEOUT = 25.0  # seconds in which a program that is told to end does so


@dataclass(frozen=True, slots=True)
class Figures:
    """What a process takes: bytes that no file is behind, open descriptors, threads."""

    pid: int
    memory: int
    descriptors: int
    threads: int


def figures(pid: int) -> Figures:
    """Of a process of ours that runs; raises AgentError where it does not."""
    place = Path("/proc") / str(pid)
    try:
        fields = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        descriptors = len(list((place / "fd").iterdir()))
        return Figures(pid, int(fields["RssAnon"].split()[0]) << 10, descriptors, int(fields["Threads"]))
    except (OSError, KeyError):
        raise AgentError(f"process {pid} has ended; run the bench again") from None


class Program:
    """One program of ours, which may be started again after its end; what it says is added to `log`.

    It reads from `lifeline`, and ends with this process.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path, lifeline: int) -> None:
        self.name = name
        self._arguments = arguments
        self._log = log
        self._lifeline = lifeline
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Raises AgentError where it does not run."""
        self.check()
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """Raises AgentError, with the last thing it said, where it does not run."""
        if not self.runs:
            code = self._process.returncode if self._process else "none"
            raise AgentError(f"{self.name} ended with code {code}: {last_words(self._log)}")

    def start(self) -> None:
        # What the user's own programs would take from files and the environment is not for these.
        told = {setting.variable for schema in PROGRAMS.values() for setting in schema}
        environment = {name: value for name, value in os.environ.items() if name not in told}
        with self._log.open("ab") as errors, uninterrupted():
            self._process = subprocess.Popen(
                [*child_prefix(None), sys.executable, "-m", *self._arguments],
                stdin=self._lifeline,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**environment, "PYTHONSAFEPATH": "1"},
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """Raises AgentError where it does not run."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by force, also where it is stopped or has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> bool:
        """Tell it to end; whether it did so in time, in order. Else it is ended by force."""
        if not self.runs or self._process is None:
            return True
        self._process.terminate()
        try:
            return self._process.wait(END_TIMEOUT) == 0
        except subprocess.TimeoutExpired:
            self.kill()
            return False
