"""systemd, really booted on a copy of this machine's files: join, inference in the sandbox, watchdog, reboot, end.

It takes root, systemd-nspawn and Mosquitto; where one of them is missing, the test says so and is skipped.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder

from legion_iot.errors import AgentError, CertificateRevokedError
from legion_iot.lab.whole_model import run_whole_model
from legion_iot.model import tflite
from legion_iot_broker.mosquitto import find_mosquitto
from tests.cli.schemas import check
from tests.model.random_networks import RandomNetwork

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CGROUPS = Path("/sys/fs/cgroup")
LONGEST = 150.0  # seconds; about 25 on a quiet machine


def why_not() -> str:
    """What this machine lacks; empty where it can boot another one."""
    if os.geteuid() != 0:
        return "booting a container takes root"
    programs = ("systemd-nspawn", "unshare", "script", "mount", "chroot")
    if missing := [program for program in programs if shutil.which(program) is None]:
        return f"{', '.join(missing)} not installed (apt install systemd-container)"
    if find_mosquitto() is None:
        return "mosquitto is not installed"
    if Path("/run/systemd/system").is_dir():
        return "systemd runs this machine, whose control groups are not ours to use"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        tried = (
            "d=$(mktemp -d) && mount -t tmpfs tmpfs $d && mkdir $d/u $d/w $d/m && "
            "mount -t overlay overlay -o lowerdir=/,upperdir=$d/u,workdir=$d/w $d/m"
        )
        if (
            subprocess.run(
                ["unshare", "-m", "sh", "-c", tried], capture_output=True, timeout=20, check=False
            ).returncode
            == 0
        ):
            return ""
    return "overlay file systems cannot be mounted here"


@contextlib.contextmanager
def control_groups() -> Iterator[list[Path]]:
    """A group in each of systemd's hierarchies, removed with all that was made below it."""
    above = [CGROUPS / name for name in ("systemd", "unified") if (CGROUPS / name).is_dir()] or [CGROUPS]
    groups = [each / f"legion-boot-test-{os.getpid()}" for each in above]
    try:
        for group in groups:
            group.mkdir()
        yield groups
    finally:
        deadline = time.monotonic() + 10
        for group in groups:
            while group.exists():  # processes that were ended may take a moment
                for below in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                    with contextlib.suppress(OSError):
                        below.rmdir()
                try:
                    group.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)


def boot(scratch: Path, found: Path) -> None:
    command = [
        "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
        "bash", str(HERE / "boot.sh"), str(scratch), str(found), sys.base_prefix, sysconfig.get_path("purelib"),
        str(HERE / "inside.py"),
    ]  # fmt: skip
    with control_groups() as groups:
        enter = "".join(f"echo 0 > {group}/cgroup.procs && " for group in groups)
        process = subprocess.Popen(
            ["sh", "-c", f'{enter}exec "$@"', "sh", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate(timeout=10)
    steps = found / "steps"
    console = (found / "console").read_text(errors="replace")[-3000:] if (found / "console").exists() else ""
    assert steps.exists(), f"{said}\n{console}"


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the booted machine said of each step."""
    if reason := why_not():
        pytest.skip(reason)
    place = tmp_path_factory.mktemp("boot")
    found, scratch = place / "found", place / "scratch"
    found.mkdir()
    scratch.mkdir()
    (_,) = WheelBuilder(str(ROOT)).build(directory=str(found), versions=["standard"])
    graph = RandomNetwork(1).graph()
    assert len(graph.inputs) == 1
    tensor = graph.tensors[graph.inputs[0]]
    tflite.write_file(graph, found / "small.tflite")
    value = np.random.default_rng(1).normal(size=tensor.shape).astype(tensor.dtype)
    packed = io.BytesIO()
    np.save(packed, value)
    (found / "input.npy").write_bytes(packed.getvalue())
    boot(scratch, found)
    said = [json.loads(line) for line in (found / "steps").read_text(encoding="utf-8").splitlines()]
    outputs, _ = run_whole_model(found / "small.tflite", value, 1)
    expected = [hashlib.sha256(np.ascontiguousarray(output).data).hexdigest() for output in outputs]
    failed = [step for step in said if step["step"] == "failed"]
    assert not failed, "\n".join([failed[0]["reason"], *failed[0]["journal"]])
    return {**{step["step"]: step for step in said}, "expected": {"outputs": expected}}


pytestmark = pytest.mark.timeout(240)


def test_a_join_ends_when_the_orchestrator_has_seen_the_agent(steps: dict[str, dict[str, Any]]) -> None:
    for step in ("joined", "joined again"):
        assert "the orchestrator has seen ant" in steps[step]["text"]
    assert steps["joined"]["ActiveState"] == steps["orchestrator"]["ActiveState"] == "active"
    assert steps["joined"]["StatusText"].startswith("ant is online at localhost:")
    assert "legion-agent.service: active (running)" in steps["status"]["text"]
    for program in ("agent", "orchestrator"):
        status = check(f"{program} status", steps["status"][program])
        assert (status["unit"], status["active"]) == (f"legion-{program}.service", "active")


def test_a_removed_device_changes_nothing(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["removed device"]["code"] == CertificateRevokedError.exit_code
    assert steps["removed device"]["text"].count("\n") == 1
    assert "/srv/bundles/bee.pem" in steps["removed device"]["text"]
    assert steps["removed device"]["there"] == []


def test_a_unit_that_does_not_start_is_one_line_and_the_next_join_repairs_it(steps: dict[str, dict[str, Any]]) -> None:
    broken = steps["broken unit"]
    assert broken["code"] == broken["status"] == AgentError.exit_code
    assert "legion-agent.service is installed, but did not start" in broken["text"].splitlines()[-1]
    assert broken["told"].startswith("legion-agent: legion-agent.service is failed")
    assert steps["joined"]["ActiveState"] == "active"


@pytest.mark.parametrize("step", ["inference", "inference after the watchdog", "inference after the reboot"])
def test_inference_in_the_sandbox_is_the_whole_models(steps: dict[str, dict[str, Any]], step: str) -> None:
    assert steps[step]["ok"], steps[step]["reason"]
    assert steps[step]["outputs"] == steps["expected"]["outputs"]


def test_a_hung_agent_is_ended_and_started_anew(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["watchdog"]["said"]
    assert steps["watchdog"]["stack"]  # where it hung
    assert int(steps["watchdog"]["restarts"]) == 1


def test_after_a_reboot_both_are_there(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["active"]["agent"] == {"ActiveState": "active", "NRestarts": "0"}
    assert steps["active"]["orchestrator"] == {"ActiveState": "active"}
    assert steps["stopped"]["Result"] == "success"


def test_uninstalling_leaves_nothing(steps: dict[str, dict[str, Any]]) -> None:
    assert [steps["uninstalled"][kind] for kind in ("left", "units", "users")] == [[], [], []]


def test_uninstalling_takes_back_what_home_assistant_was_told(steps: dict[str, dict[str, Any]]) -> None:
    step = steps["home assistant"]
    assert (step["before"], step["after"]) == (["agent-ant", "group"], [])
    assert "Home Assistant forgets 2 devices" in step["told"]
