"""What is written down about a lab while it runs, so that anyone can see it and clean up after it.

Each lab has a directory of its own below `runtime_directory()`, named by its id; in it `state.json`, written whole or
not at all. Everything a lab makes outside has the id in its name: what is made is found by that, even if its keeper was
killed before it could write a line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from legion_iot.errors import InputError, UsageError
from legion_iot.lab.spec import Device, Link

STATE = "state.json"
_ID = re.compile(r"[0-9a-f]{6}")
_NAME = "legion-lab"


@dataclass(frozen=True, slots=True)
class Process:
    """A process by its id and the time of its start, which together are never used again."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _start_time(pid))

    @property
    def alive(self) -> bool:
        return self.started != 0 and _start_time(self.pid) == self.started


def _start_time(pid: int) -> int:
    """In clock ticks after the machine's start (proc(5), field 22); 0 for a process that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One device as it runs. `broker` and `meter` are as seen from inside; `held_by` says what holds each promise."""

    device: Device
    broker: str
    meter: str
    cpu_by: str
    link_by: str
    memory_by: str
    namespace: str = ""
    cgroups: tuple[str, ...] = ()
    process: Process | None = None
    log: str = ""


@dataclass(frozen=True, slots=True)
class LabState:
    """One lab. `kind` is "up" for the one of `legion lab up`; `phase` is "starting", "running" or "failed"."""

    id: str
    kind: str
    name: str
    base_topic: str
    keeper: Process | None
    phase: str = "starting"
    detail: str = ""
    exit_code: int = 0
    broker: str = ""  # as seen from this machine
    broker_kind: str = ""
    hub: str = ""  # the namespace of bridge and broker, if there is one
    meter: str = ""  # where a meter server may listen, inside the hub
    reasons: tuple[str, ...] = ()  # why something is not held by the kernel
    devices: tuple[DeviceState, ...] = ()

    @property
    def alive(self) -> bool:
        return self.keeper is not None and self.keeper.alive


def runtime_directory() -> Path:
    """Where labs are written down; made if need be. Raises UsageError where there is no such place."""
    wanted = [os.environ.get("XDG_RUNTIME_DIR"), "/run" if os.geteuid() == 0 else None]
    for place in wanted:
        # Root's broker becomes another user, who must be able to pass.
        if place and os.access(place, os.W_OK | os.X_OK) and (os.geteuid() or _passable(Path(place))):
            return _private(Path(place) / _NAME)
    return _private(Path(tempfile.gettempdir()) / f"{_NAME}-{os.geteuid()}")


def _passable(directory: Path) -> bool:
    return all(each.stat().st_mode & stat.S_IXOTH for each in (directory, *directory.resolve().parents))


def _private(directory: Path) -> Path:
    """The directory itself, ours alone to write. Raises UsageError."""
    try:
        directory.mkdir(mode=0o711, exist_ok=True)
        about = directory.lstat()
    except OSError as error:
        raise UsageError(f"{directory}: cannot be made ({error.strerror}); set XDG_RUNTIME_DIR") from None
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
        raise UsageError(f"{directory}: belongs to somebody else; set XDG_RUNTIME_DIR to a directory of your own")
    return directory


def directories() -> list[Path]:
    """Those of all labs there are traces of."""
    return sorted(path for path in runtime_directory().iterdir() if path.is_dir() and _ID.fullmatch(path.name))


def write_state(directory: Path, state: LabState) -> None:
    """Raises OSError."""
    temporary = directory / f"{STATE}.part"
    temporary.write_text(json.dumps(dataclasses.asdict(state)), encoding="utf-8")
    os.replace(temporary, directory / STATE)


def read_state(directory: Path) -> LabState:
    """Raises InputError where it is missing or damaged."""
    try:
        return _lab(json.loads((directory / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{directory / STATE}: missing or damaged; legion lab down removes what is left") from None


def _lab(table: dict[str, Any]) -> LabState:
    devices = tuple(_device(each) for each in table.pop("devices"))
    reasons = tuple(table.pop("reasons"))
    return LabState(**{**table, "keeper": _process(table["keeper"])}, devices=devices, reasons=reasons)


def _device(table: dict[str, Any]) -> DeviceState:
    device = table["device"]
    made = Device(**{**device, "link": Link(**device["link"])})
    return DeviceState(
        **{**table, "device": made, "cgroups": tuple(table["cgroups"]), "process": _process(table["process"])}
    )


def _process(table: dict[str, Any] | None) -> Process | None:
    return None if table is None else Process(**table)
