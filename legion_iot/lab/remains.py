"""Removes what a lab has left whose keeper was killed: processes, control groups, networks and files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from legion_iot.errors import InputError
from legion_iot.lab.cgroups import remove_groups
from legion_iot.lab.namespaces import remove_network
from legion_iot.lab.state import directories, read_state

END_TIMEOUT = 10.0  # seconds for killed processes to be gone
YOUNG = 2.0  # seconds in which a directory without a state may be one that has just been made


def clear_dead() -> list[str]:
    """Remove what is left of all labs without a keeper; their names."""
    cleared = []
    for directory in directories():
        try:
            state = read_state(directory)
        except InputError:
            with contextlib.suppress(OSError):
                if time.time() - directory.stat().st_mtime < YOUNG:
                    continue
            name = directory.name
        else:
            if state.alive:
                continue
            name = state.name
        clear(directory)
        cleared.append(name)
    return cleared


def clear(directory: Path) -> None:
    """Remove what is left of the one lab of that directory; its keeper has to be gone."""
    deadline = time.monotonic() + END_TIMEOUT
    while pids := list(_processes(directory)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if os.geteuid() == 0:
        remove_groups(directory.name)
        remove_network(directory.name)
    shutil.rmtree(directory, ignore_errors=True)


def _processes(directory: Path) -> Iterator[int]:
    """Those a lab has started: programs of ours with its directory, which no other lab has, among their arguments."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            ours = any(each.startswith("legion_iot") or each.endswith("mosquitto") for each in command)
            if ours and int(entry.name) != os.getpid() and any(str(directory) in each for each in command):
                yield int(entry.name)
