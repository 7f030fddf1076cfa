"""systemd, by its own programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from legion_iot.errors import AgentError, UsageError
from legion_iot.installation.places import Service

SECONDS = 30.0
START_SECONDS = 660.0  # longer than any unit's own limit
_BOOTED = Path("/run/systemd/system")  # sd_booted(3)


class Systemctl:
    """The commands that installing takes; raises AgentError with systemd's own words."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def check(self, booted: bool) -> None:
        """Raises UsageError where systemd is not installed, or, when it has to be `booted`, does not run."""
        if shutil.which("systemctl") is None:
            raise UsageError("systemd is not installed on this machine: start the program by other means")
        if booted and not _BOOTED.is_dir():
            raise UsageError("systemd does not run on this machine (a container?): start the program by other means")

    def version(self) -> int:
        """The version of the systemd that will read the unit; 0 where it is another system's."""
        if not self._service.is_here:
            return 0
        found = re.match(r"systemd (\d+)", self._run(["--version"], SECONDS).stdout)
        return int(found[1]) if found else 0

    def reload(self) -> None:
        """Read changed units."""
        self._run(["daemon-reload"], SECONDS)

    def enable(self) -> None:
        """Start it whenever the system starts."""
        where = [] if self._service.is_here else [f"--root={self._service.root}"]
        self._run([*where, "--quiet", "enable", self._service.unit_name], SECONDS)

    def disable(self, running: bool) -> None:
        """The opposite, and, on a system that runs, stop it."""
        where = ["--now"] if running else [] if self._service.is_here else [f"--root={self._service.root}"]
        self._run([*where, "--quiet", "disable", self._service.unit_name], START_SECONDS)

    def forget_failures(self) -> None:
        """Let it be started again, however often it has failed."""
        self._run(["reset-failed", self._service.unit_name], SECONDS, must=False)

    def restart(self) -> None:
        """Start it, anew where it runs, and wait until it says that it is ready."""
        unit = self._service.unit_name
        if self._run(["restart", unit], START_SECONDS, must=False).returncode:
            raise AgentError(
                f"{unit} is installed, but did not start ({self._last_words()}); see: journalctl -u {unit}"
            )

    def shown(self, *names: str) -> dict[str, str]:
        """Properties of the unit."""
        done = self._run(["show", "--property", ",".join(names), self._service.unit_name], SECONDS)
        pairs = (line.partition("=") for line in done.stdout.splitlines())
        return {name: value for name, _, value in pairs}

    def _last_words(self) -> str:
        """What the program said last, or systemd of it."""
        done = subprocess.run(
            ["journalctl", "--unit", self._service.unit_name, "--lines", "40", "--output", "cat", "--no-pager"],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        said = [line for line in done.stdout.splitlines() if line.startswith(("legion: ", "legion-agent: "))]
        if said:
            return said[-1].partition(": ")[2]
        return self.shown("Result").get("Result", "for no reason that systemd knows")

    def _run(self, arguments: list[str], seconds: float, must: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["systemctl", "--no-pager", "--no-ask-password", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise AgentError(f"systemctl {arguments[0]} did not end within {seconds:g} s") from None
        if must and done.returncode:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise AgentError(f"systemctl {' '.join(arguments)} failed: {said[-1]}")
        return done
