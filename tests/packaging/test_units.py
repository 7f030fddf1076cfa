"""The units and drop-ins of `systemd/`, as systemd reads them."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = ("legion-agent.service", "legion-orchestrator.service")
PROGRAMS = {"/opt/legion-iot/bin/legion-agent": "legion-agent", "/opt/legion-iot/bin/legion ": "legion "}
AGENT_DROP_INS = ("gpu.conf", "usb-accelerator.conf", "limits.conf")
MOST_EXPOSED = 2.0  # of 10


@pytest.fixture(autouse=True)
def systemd_analyze() -> None:
    """Skip without it on a developer's machine; fail in CI, where it must be installed."""
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("systemd-analyze is missing, and CI may not skip its tests")
        pytest.skip("systemd-analyze is not installed")


def installed(unit: str, directory: Path, *drop_ins: Path) -> Path:
    """The unit with programs that exist, and drop-ins beside it."""
    text = (SYSTEMD / unit).read_text(encoding="utf-8")
    for there, here in PROGRAMS.items():
        text = text.replace(there, str(Path(sys.executable).with_name(here)))
    path = directory / unit
    path.write_text(text, encoding="utf-8")
    for drop_in in drop_ins:
        beside = directory / f"{unit}.d"
        beside.mkdir(exist_ok=True)
        shutil.copy(drop_in, beside / drop_in.name)
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip


def verify(unit: Path) -> None:
    # Without this flag unknown keys pass.
    done = analyze("verify", "--recursive-errors=yes", "--man=no", str(unit))
    assert unit.name not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def exposure(unit: Path) -> float:
    done = analyze("security", "--offline=true", "--no-pager", str(unit))
    (found,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    return float(found)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_understood_and_closed(unit: str, tmp_path: Path) -> None:
    path = installed(unit, tmp_path)
    verify(path)
    assert exposure(path) <= MOST_EXPOSED


def test_a_wrong_key_would_be_found(tmp_path: Path) -> None:
    path = installed(UNITS[0], tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("[Install]", "NoSuchKey=1\n[Install]"), encoding="utf-8")
    with pytest.raises(AssertionError, match="NoSuchKey"):
        verify(path)


@pytest.mark.parametrize("drop_in", AGENT_DROP_INS)
def test_a_drop_in_of_the_agent_is_understood(drop_in: str, tmp_path: Path) -> None:
    path = installed(UNITS[0], tmp_path, SYSTEMD / "drop-ins" / drop_in)
    verify(path)


def test_there_is_a_test_for_each_drop_in() -> None:
    assert {path.name for path in (SYSTEMD / "drop-ins").iterdir()} == {*AGENT_DROP_INS, "mosquitto.conf"}


@pytest.mark.parametrize("unit", UNITS)
def test_what_the_units_promise(unit: str) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(SYSTEMD / unit, encoding="utf-8")
    service = parser["Service"]
    assert (service["Type"], service["DynamicUser"], service["Restart"]) == ("notify", "yes", "on-failure")
    assert service["StateDirectory"] == unit.removesuffix(".service")
    assert int(service["WatchdogSec"]) > 0
    assert {"11", "13", "14"} <= set(service["RestartPreventExitStatus"].split())
