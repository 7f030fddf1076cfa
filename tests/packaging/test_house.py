"""Rules that hold over files of several kinds: imports, the unit file, the README's commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_imports_point_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_an_agent_loads_no_terminal_library_and_no_planner() -> None:
    code = "import sys, legion_iot_agent.service; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"typer", "rich", "PIL", "h5py", "legion_iot.planning.planners", "legion_iot.zoo"}


def test_ci_runs_the_command_of_the_readme() -> None:
    readme, ci = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python3 -m venv .*pytest$", readme, re.MULTILINE)
    lines = ci.splitlines()
    assert [line for line in lines if line in command.split(" && ")] == command.split(" && ")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_file_is_understood(tmp_path: Path) -> None:
    text = (ROOT / "systemd" / "legion-agent.service").read_text(encoding="utf-8")
    program = Path(sys.executable).with_name("legion-agent")
    unit = tmp_path / "legion-agent.service"
    (addition,) = re.findall(r"```ini\n(.*?)```", (ROOT / "docs" / "broker.md").read_text(encoding="utf-8"), re.DOTALL)
    text = text.replace("/opt/legion-iot/bin/legion-agent", str(program)).replace("[Install]", f"{addition}\n[Install]")
    unit.write_text(text, encoding="utf-8")
    done = subprocess.run(
        # Without this flag unknown keys pass.
        ["systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    assert "legion-agent.service" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
