"""How much of this machine's processors a lab, its broker and this process have used, and how much others have."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Use:
    """Cores in use on average over some time: by the experiment itself, and by everything else here."""

    ours: float
    others: float


class ProcessorMeter:
    """Watches this process and all that descends from it, from its making on."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._since, self._ours, self._all = time.monotonic(), _family_seconds(os.getpid()), _machine_seconds()

    def read(self) -> Use:
        """Of the time since the last `restart`; processes that have ended since then count as others."""
        passed = max(time.monotonic() - self._since, 1e-6)
        ours = (_family_seconds(os.getpid()) - self._ours) / passed
        return Use(ours, max(0.0, (_machine_seconds() - self._all) / passed - ours))


def _family_seconds(root: int) -> float:
    """Processor seconds of a process and its descendants, as far as they live (proc(5), fields 4, 14 and 15)."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        parents[int(place.name)] = int(fields[1])
        seconds[int(place.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    family = {root}
    while found := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= found
    return sum(seconds.get(pid, 0.0) for pid in family)


def _machine_seconds() -> float:
    """Processor seconds that all cores were busy since the machine's start (proc(5), stat: not idle, not iowait)."""
    fields = [int(field) for field in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS
