"""Whole labs, as a user starts, sees and ends them; and what is left of one whose keeper is killed: nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from legion_iot.errors import UsageError
from legion_iot.lab.cgroups import find_hierarchies
from legion_iot.lab.namespaces import missing_tools
from tests.cli.schemas import check
from tests.system.conftest import Program, Stage, wait_until

SPEC = """
broker = "embedded"

[[device]]
name = "weak"
count = 2
board = "rk3399"

[[device]]
name = "far"
board = "pi-zero-2"
"""


def kernel_can() -> bool:
    """Whether the way that needs root can be taken here."""
    try:
        find_hierarchies()
    except UsageError:
        return False
    if os.geteuid() or missing_tools():
        return False
    name = f"legion-test-{os.getpid()}"
    ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin") or "ip"
    can = subprocess.run([ip, "netns", "add", name], capture_output=True, check=False).returncode == 0
    subprocess.run([ip, "netns", "del", name], capture_output=True, check=False)
    return can


needs_kernel = pytest.mark.skipif(not kernel_can(), reason="needs root, iproute2 and cgroups")
WAYS = [pytest.param("--rootless", id="rootless"), pytest.param("", id="kernel", marks=needs_kernel)]


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "shelf.toml"
    path.write_text(SPEC)
    return path


def up(stage: Stage, spec: Path, way: str) -> dict[str, Any]:
    done = stage.run("lab", "up", str(spec), *([way] if way else []))
    assert done.returncode == 0, done.stderr
    assert "shelf is up: 3 devices" in done.stdout
    return status(stage)


def status(stage: Stage) -> dict[str, Any]:
    done = stage.run("lab", "status", "--json")
    assert done.returncode == 0, done.stderr
    return check("lab status", done.stdout)


def traces(stage: Stage) -> list[str]:
    """Everything on this machine that belongs to labs of this stage, by their ids."""
    found = [f"process {pid}: {command}" for pid, command in stage.alive().items()]
    for name in (path.name for path in (stage.temporary / "legion-lab").glob("??????")):
        found += [name, *made_in_the_kernel(name)]
    return found


def made_in_the_kernel(lab: str) -> list[str]:
    patterns = {"/run/netns": f"legion-{lab}-*", "/sys/class/net": f"lg{lab}", "/sys/fs/cgroup": f"**/legion-lab-{lab}"}
    return [str(path) for top, pattern in patterns.items() if Path(top).is_dir() for path in Path(top).glob(pattern)]


@pytest.mark.parametrize("way", WAYS)
def test_up_status_down(stage: Stage, spec: Path, way: str) -> None:
    assert status(stage) == {"schema": 1, "up": False, "lab": None, "self_test": None, "killed": []}
    report = up(stage, spec, way)
    lab = report["lab"]
    (identity,) = [path.name for path in (stage.temporary / "legion-lab").iterdir()]
    assert (lab["name"], lab["phase"], lab["base_topic"]) == ("shelf", "running", "legion")
    assert [device["name"] for device in lab["devices"]] == ["weak1", "weak2", "far"]
    assert all(device["alive"] for device in lab["devices"])
    assert {device["pid"] for device in lab["devices"]} <= stage.alive().keys()
    assert {device["cpu_by"] for device in lab["devices"]} == ({"throttle"} if way else {find_hierarchies().name})
    assert [device["link_by"].startswith("proxy" if way else "tc") for device in lab["devices"]] == [True] * 3
    assert bool(lab["reasons"]) == bool(way)
    assert len(made_in_the_kernel(identity)) == (0 if way else 3 + 1 + 1 + 2)
    assert report["self_test"] is None

    second = stage.run("lab", "up", "--preset", "legion-1f")
    assert (second.returncode, second.stdout) == (2, "")
    assert "a lab is up already (shelf)" in second.stderr
    shown = stage.run("lab", "status")
    assert "weak1" in shown.stdout
    assert "not tested yet" in shown.stdout

    done = stage.run("lab", "down")
    assert done.stdout == "ended: shelf\n"
    stage.wait_for_the_end()
    assert made_in_the_kernel(identity) == []
    assert stage.left_behind() == []
    assert "no lab is up" in stage.run("lab", "down").stdout


@needs_kernel
@pytest.mark.skipif(not Path("/sys/fs/cgroup/cpu/cpu.shares").exists(), reason="needs cgroups of version 1")
def test_quotas_limits_and_places(stage: Stage, spec: Path) -> None:
    devices = {device["name"]: device for device in up(stage, spec, "")["lab"]["devices"]}
    (identity,) = [path.name for path in (stage.temporary / "legion-lab").iterdir()]
    group = Path(f"/sys/fs/cgroup/cpu/legion-lab-{identity}/weak1")
    assert (group / "cpu.cfs_period_us").read_text() == "20000\n"
    assert (group / "cpu.cfs_quota_us").read_text() == "3600\n"
    assert (group / "cgroup.procs").read_text().split() == [str(devices["weak1"]["pid"])]
    memory = Path(f"/sys/fs/cgroup/memory/legion-lab-{identity}/far/memory.limit_in_bytes")
    assert abs(int(memory.read_text()) - 512_000_000) < 1 << 20
    own = os.readlink("/proc/self/ns/net")
    assert len({os.readlink(f"/proc/{device['pid']}/ns/net") for device in devices.values()} - {own}) == 3


@pytest.mark.parametrize("way", WAYS)
def test_killed_and_cleaned(stage: Stage, spec: Path, way: str) -> None:
    lab = up(stage, spec, way)["lab"]
    (identity,) = [path.name for path in (stage.temporary / "legion-lab").iterdir()]
    os.kill(lab["pid"], signal.SIGKILL)
    wait_until(lambda: lab["pid"] not in stage.alive())
    assert status(stage)["up"] is False
    assert status(stage)["killed"] == ["shelf"]
    done = stage.run("lab", "down")
    assert done.stdout == "ended: shelf\n", done.stderr
    assert traces(stage) == []
    assert made_in_the_kernel(identity) == []
    assert stage.left_behind() == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("delay", [0.0, 0.3, 0.6, 0.9])
def test_killed_while_it_starts(stage: Stage, spec: Path, way: str, delay: float) -> None:
    program, identity = _starting(stage, spec, way)
    time.sleep(delay)
    for pid, command in stage.alive().items():
        if pid == program.process.pid or "lab.keeper" in command:
            with contextlib.suppress(ProcessLookupError):  # it has ended because of the other one
                os.kill(pid, signal.SIGKILL)
    program.wait(10)
    stage.run("lab", "down")
    assert traces(stage) == []
    assert made_in_the_kernel(identity) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_while_it_starts(stage: Stage, spec: Path, number: signal.Signals) -> None:
    program, identity = _starting(stage, spec, "")  # its agents take longer to start than we to say so
    program.process.send_signal(number)
    assert program.wait(60) == 130
    stage.wait_for_the_end()
    assert made_in_the_kernel(identity) == []
    assert stage.left_behind() == []


def _starting(stage: Stage, spec: Path, way: str) -> tuple[Program, str]:
    program = stage.start("legion", "lab", "up", str(spec), *([way] if way else []))
    directory = stage.temporary / "legion-lab"
    wait_until(lambda: list(directory.glob("??????/state.json")))
    (identity,) = [path.name for path in directory.iterdir()]
    return program, identity


def test_the_keeper_told_to_end(stage: Stage, spec: Path) -> None:
    lab = up(stage, spec, "--rootless")["lab"]
    os.kill(lab["pid"], signal.SIGTERM)
    stage.wait_for_the_end()
    assert traces(stage) == []


def test_an_agent_that_ends_is_shown(stage: Stage, spec: Path) -> None:
    lab = up(stage, spec, "--rootless")["lab"]
    os.kill(lab["devices"][1]["pid"], signal.SIGKILL)
    wait_until(lambda: [device["alive"] for device in status(stage)["lab"]["devices"]] == [True, False, True])
    assert "ended" in stage.run("lab", "status").stdout


REFUSED: dict[str, tuple[int, str, Callable[[Path], list[str]]]] = {
    "no lab named": (2, "give either a TOML file or --preset", lambda spec: []),
    "two labs named": (2, "give either", lambda spec: [str(spec), "--preset", "legion-1f"]),
    "a preset misspelt": (2, "did you mean 'legion-3f3o'", lambda spec: ["--preset", "legion-3f3"]),
    "no such file": (3, "cannot be read", lambda spec: ["none.toml"]),
    "unknown key": (3, "did you mean 'cpu_share'", lambda spec: [_changed(spec, "cpushare = 0.1")]),
    "more than the machine": (2, "this machine has", lambda spec: [_changed(spec, "cpu_share = 64\nthreads = 64")]),
}


def _changed(spec: Path, line: str) -> str:
    spec.write_text(SPEC + line)
    return str(spec)


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_and_a_code(stage: Stage, spec: Path, name: str) -> None:
    code, cause, arguments = REFUSED[name]
    done = stage.run("lab", "up", *arguments(spec))
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("legion: ")
    assert done.stderr.count("\n") == 1
    assert cause in done.stderr
    stage.wait_for_the_end()
    assert stage.left_behind() == []


def test_a_runtime_directory_of_somebody_else(stage: Stage, spec: Path) -> None:
    (stage.temporary / "legion-lab").mkdir()
    (stage.temporary / "legion-lab").chmod(0o777)
    done = stage.run("lab", "up", str(spec))
    assert done.returncode == 2
    assert "belongs to somebody else" in done.stderr


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"id": 1}', b"\xff"])
def test_damaged_notes_are_cleared(stage: Stage, damage: bytes) -> None:
    directory = stage.temporary / "legion-lab" / "abcdef"
    directory.mkdir(parents=True)
    (directory / "state.json").write_bytes(damage)
    os.utime(directory, (0, 0))
    assert status(stage)["up"] is False
    assert stage.run("lab", "down").stdout == "ended: abcdef\n"
    assert stage.left_behind() == []
