"""What may be wrong with this machine: its runtime, clock, memory and disk."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from legion_iot import __version__
from legion_iot.doctor.findings import Finding, Level
from legion_iot.errors import LegionError, RuntimeMissingError
from legion_iot.interruption import temporary_directory
from legion_iot.model import tflite
from legion_iot.model.builder import GraphBuilder
from legion_iot.transport import discovery
from legion_iot_agent.interpreter import Interpreter, runtime_info
from legion_iot_agent.limits import Memory

BUILT = 1_760_000_000  # seconds since 1970: a clock that shows less was never set
LITTLE_DISK, VERY_LITTLE_DISK = 1 << 30, 64 << 20  # bytes
LITTLE_MEMORY = 128 << 20
CLOCK_TIMEOUT = 5.0  # seconds

Installed = Callable[[str], str | None]


def examine(directory: Path) -> Iterator[Finding]:
    """Everything about this machine; `directory` is where programs of ours keep what outlives them."""
    python = f"Python {platform.python_version()} on {platform.machine()}"
    yield _finding("version", "ok", f"legion-iot {__version__}, {python}")
    yield runtime(installed)
    yield clock(time.time(), _synchronised())
    yield memory(Memory().left())
    yield disk(directory)
    yield mdns(discovery.is_available())


def installed(distribution: str) -> str | None:
    """The version of a distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def runtime(version_of: Installed) -> Finding:
    """Whether the TFLite runtime computes a small network right."""
    numpy = version_of("numpy") or ""
    if version_of("tflite-runtime") and not version_of("ai-edge-litert") and not numpy.startswith("1."):
        found = f"tflite-runtime {version_of('tflite-runtime')} was built for NumPy 1, and NumPy is {numpy}"
        return _finding("runtime", "failure", found, "pip install 'numpy<2'")
    try:
        info = runtime_info()
        right = _computes()
    except RuntimeMissingError as error:
        cure = "pip install 'legion-iot[agent]', where this machine is to compute"
        return _finding("runtime", "warning", str(error).partition(" (")[0].partition(";")[0], cure)
    except LegionError as error:
        return _finding("runtime", "failure", str(error), "pip install --force-reinstall 'legion-iot[agent]'")
    named = f"{info.name} {info.version} with {info.kernel_path}, NumPy {numpy}"
    if not right:
        found = f"{named} computes a convolution wrongly"
        return _finding("runtime", "failure", found, "pip install --force-reinstall 'legion-iot[agent]'")
    return _finding("runtime", "ok", f"{named}, computes")


def _computes() -> bool:
    """Whether a mean over a map of ones is one."""
    net = GraphBuilder("doctor", 0)
    graph = net.finish(net.average_pool(net.input((1, 8, 8, 4)), (8, 8)))
    with temporary_directory("legion-doctor-") as directory:
        path = directory / "doctor.tflite"
        tflite.write_file(graph, path)
        (output,) = Interpreter(path).run([np.ones((1, 8, 8, 4), np.float32)])
    return output.size == 4 and bool(np.allclose(output, 1.0))


def clock(now: float, synchronised: bool | None) -> Finding:
    """Whether this machine knows what time it is: certificates are of a time."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    cure = "timedatectl set-ntp true, or set it by hand"
    if now < BUILT:
        return _finding("clock", "failure", f"it shows {shown}, and was never set: no certificate will hold", cure)
    if synchronised is False:
        return _finding("clock", "warning", f"it shows {shown}, and nobody keeps it right", cure)
    return _finding("clock", "ok", f"{shown}, {'synchronised' if synchronised else 'nobody says whether synchronised'}")


def _synchronised() -> bool | None:
    """What systemd says; None where it does not."""
    if (program := shutil.which("timedatectl")) is None:
        return None
    command = [program, "show", "--property", "NTPSynchronized", "--value"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=CLOCK_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(run.stdout.strip())


def memory(left: int) -> Finding:
    """Whether there is memory for a part of a model."""
    if left < LITTLE_MEMORY:
        cure = "end what else runs here, or raise the limit (--memory-mb, MemoryMax)"
        return _finding("memory", "warning", f"{left >> 20} MB are left, which few models fit into", cure)
    return _finding("memory", "ok", f"{left >> 20} MB are left")


def disk(directory: Path) -> Finding:
    """Whether programs of ours can keep what they have to."""
    place = next(path for path in (directory, *directory.parents) if path.is_dir())
    if not os.access(place, os.W_OK):
        cure = "choose another place (--state-dir), or make it writable"
        return _finding("disk", "failure", f"{directory} cannot be written to", cure)
    free = shutil.disk_usage(place).free
    found, cure = f"{free / 1e9:.1f} GB are free at {directory}", "make room, or choose another place (--state-dir)"
    if free < VERY_LITTLE_DISK:
        return _finding("disk", "failure", found, cure)
    return _finding("disk", "warning", found, cure) if free < LITTLE_DISK else _finding("disk", "ok", found)


def mdns(available: bool) -> Finding:
    """Whether `--broker auto` can find one."""
    if available:
        return _finding("mdns", "ok", "zeroconf is there: --broker auto finds a broker that announces itself")
    return _finding("mdns", "ok", "not installed, so --broker auto finds none (pip install 'legion-iot[discovery]')")


def _finding(check: str, level: Level, found: str, cure: str = "") -> Finding:
    return Finding("machine", check, level, found, cure)
