"""What this device may use of the machine it runs on, and what it does use: memory, and a quota of the processors.

Control groups hold both, in version 1 a file system for each, in version 2 one for all (cgroups(7)). The least limit
between this process's own group and the topmost one is in force.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
OWN_GROUPS = Path("/proc/self/cgroup")
OWN_STATUS = Path("/proc/self/status")
MACHINE_MEMORY = Path("/proc/meminfo")
NO_LIMIT = 1 << 60  # bytes; version 1 says "unlimited" by a number of this order
SPARE = 0.1  # of the memory that is left to models, for what comes and goes beside them


def memory_bytes(mounts: Path = MOUNTS, own: Path = OWN_GROUPS) -> int:
    """The machine's memory, or what this process is limited to."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups("memory", mounts, own):
        for file in ("memory.limit_in_bytes", "memory.max", "memory.high"):  # above the last one it only crawls
            with contextlib.suppress(OSError, ValueError):
                limits.append(int((group / file).read_text(encoding="ascii")))
    return min(limit for limit in limits if 0 < limit < NO_LIMIT)


class Memory:
    """What this process may use of the memory, `most` bytes, and what of it is left.

    Pages of files do not count: the kernel takes them back when it needs them.
    """

    def __init__(self, most: int | None = None, status: Path = OWN_STATUS, machine: Path = MACHINE_MEMORY) -> None:
        """Without `most`, as much as `memory_bytes` says; never more than that."""
        allowed = memory_bytes()
        self.most = allowed if most is None else min(most, allowed)
        self._status, self._machine = status, machine
        self.for_models = max(0, int((1 - SPARE) * (self.most - self._own())))  # to begin with

    def left(self) -> int:
        """Bytes that may be taken now, before this process exceeds its limit or the machine runs out of memory."""
        return max(0, min(self.most - self._own(), _entry(self._machine, "MemAvailable", self.most)))

    def _own(self) -> int:
        return _entry(self._status, "RssAnon", 0)


def _entry(file: Path, name: str, default: int) -> int:
    """Bytes that a file of /proc gives under a name, in its kB."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in file.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return default


def give_back_memory() -> None:
    """Return what was freed to the kernel: the C library keeps much of it for itself, in pieces between others."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def processor_quota(mounts: Path = MOUNTS, own: Path = OWN_GROUPS) -> float | None:
    """Cores' worth of processor time per time, where a quota says so; None without one."""
    quotas = []
    for group in _groups("cpu", mounts, own):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            quotas.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError):
            quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii")
            quotas.append(int(quota) / int((group / "cpu.cfs_period_us").read_text(encoding="ascii")))
    return min((quota for quota in quotas if quota > 0), default=None)


def _groups(controller: str, mounts: Path, own: Path) -> Iterator[Path]:
    """The directories of this process's group and of those above it, as far as they can be seen."""
    roots = _roots(controller, mounts)
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text(encoding="utf-8").splitlines():
            number, controllers, path = line.split(":", 2)
            root = roots.get("" if number == "0" else controller)
            if root is None or (number != "0" and controller not in controllers.split(",")):
                continue
            group = root / path.lstrip("/")
            yield from (each for each in (group, *group.parents) if each.is_relative_to(root))


def _roots(controller: str, mounts: Path) -> dict[str, Path]:
    """Where a controller's groups are, by controller; version 2 under the empty name."""
    roots = {}
    with contextlib.suppress(OSError, ValueError):
        for line in mounts.read_text(encoding="utf-8").splitlines():
            _, place, kind, options, *_ = line.split()
            if kind == "cgroup2":
                roots[""] = Path(place)
            elif kind == "cgroup" and controller in options.split(","):
                roots[controller] = Path(place)
    return roots
