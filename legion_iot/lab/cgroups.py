"""A processor quota and a memory limit for each device, by the kernel's control groups, version 1 or 2.

The quota counts in periods of 20 ms: with the usual 100 ms a device of 10 % computes 10 ms and is away for 90. Beside
the rest of the machine the lab comes first, up to its quotas: what else runs here shall not slow the devices.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from legion_iot.errors import UsageError

PERIOD_US = 20_000
LEAST_QUOTA_US = 1_000
MOUNTS = Path("/proc/self/mounts")
REMOVE_TIMEOUT = 5.0
_PREFIX = "legion-lab-"
_FIRST = {1: ("cpu.shares", "262144"), 2: ("cpu.weight", "10000")}


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where the controllers are mounted; in version 2 both are at one place."""

    version: int
    cpu: Path
    memory: Path

    @property
    def name(self) -> str:
        return f"cgroup v{self.version}"

    def tops(self, lab: str) -> list[Path]:
        """A lab's own groups, one in each hierarchy."""
        return [root / f"{_PREFIX}{lab}" for root in dict.fromkeys((self.cpu, self.memory))]


def find_hierarchies(mounts: Path = MOUNTS) -> Hierarchies:
    """Where processor and memory can be limited; raises UsageError where they cannot."""
    version1: dict[str, Path] = {}
    version2 = None
    with contextlib.suppress(OSError):
        for line in mounts.read_text(encoding="utf-8").splitlines():
            _, place, kind, options, *_ = line.split()
            if kind == "cgroup":
                version1.update((name, Path(place)) for name in options.split(","))
            elif kind == "cgroup2":
                version2 = Path(place)
    if "cpu" in version1 and "memory" in version1:
        return Hierarchies(1, version1["cpu"], version1["memory"])
    if version2 is not None:
        with contextlib.suppress(OSError):
            if {"cpu", "memory"} <= set((version2 / "cgroup.controllers").read_text(encoding="utf-8").split()):
                return Hierarchies(2, version2, version2)
    raise UsageError("no cgroups with the controllers cpu and memory are mounted")


def make_groups(found: Hierarchies, lab: str) -> None:
    """Make the lab's own groups; raises UsageError."""
    try:
        for top in found.tops(lab):
            if found.version == 2:
                _write(found.cpu / "cgroup.subtree_control", "+cpu +memory")
            top.mkdir()
            if found.version == 2:
                _write(top / "cgroup.subtree_control", "+cpu +memory")
        file, most = _FIRST[found.version]
        _write(found.tops(lab)[0] / file, most)
    except OSError as error:
        raise UsageError(f"cgroups cannot be made ({error.strerror})") from None


def make_device_group(found: Hierarchies, lab: str, device: str, memory_mb: int | None) -> tuple[str, ...]:
    """The directories of one device's group, with its memory limit in force; raises UsageError."""
    try:
        groups = [top / device for top in found.tops(lab)]
        for group in groups:
            group.mkdir()
        if memory_mb is not None:
            file = "memory.max" if found.version == 2 else "memory.limit_in_bytes"
            _write(groups[-1] / file, str(memory_mb * 1_000_000))
        return tuple(str(group) for group in groups)
    except OSError as error:
        raise UsageError(f"a cgroup for {device} cannot be made ({error.strerror})") from None


def limit_processor(groups: Sequence[str], share: float) -> None:
    """Hold the group to `share` cores; raises UsageError."""
    quota = max(LEAST_QUOTA_US, round(share * PERIOD_US))
    group = Path(groups[0])
    try:
        if (group / "cpu.max").exists():
            _write(group / "cpu.max", f"{quota} {PERIOD_US}")
        else:
            _write(group / "cpu.cfs_period_us", str(PERIOD_US))
            _write(group / "cpu.cfs_quota_us", str(quota))
    except OSError as error:
        raise UsageError(f"{group}: the quota is refused ({error.strerror})") from None


def place(groups: Sequence[str], pid: int) -> None:
    """Move a process with all its threads into a device's groups; raises UsageError."""
    for group in groups:
        try:
            _write(Path(group) / "cgroup.procs", str(pid))
        except OSError as error:
            raise UsageError(f"process {pid} cannot be put into {group} ({error.strerror})") from None


def remove_groups(lab: str, mounts: Path = MOUNTS) -> None:
    """Remove a lab's groups, and end what still runs in them; nothing happens where there are none."""
    try:
        found = find_hierarchies(mounts)
    except UsageError:
        return
    deadline = time.monotonic() + REMOVE_TIMEOUT
    while tops := [top for top in found.tops(lab) if top.is_dir()]:
        for top in tops:
            _end_processes(top)
            with contextlib.suppress(OSError):  # a process needs a moment to end
                for group in [path for path in top.iterdir() if path.is_dir()]:
                    group.rmdir()
                top.rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _end_processes(top: Path) -> None:
    for pid in _members(top):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _members(top: Path) -> Iterator[int]:
    for file in top.glob("**/cgroup.procs"):
        with contextlib.suppress(OSError):
            yield from (int(line) for line in file.read_text(encoding="utf-8").split())


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
