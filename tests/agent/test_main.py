"""`legion-agent`: what a user can get wrong is one line and an exit code, never a traceback."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from legion_iot import __version__


def agent(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "legion_iot_agent.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**{k: v for k, v in os.environ.items() if k != "LEGION_BROKER"}, **(environment or {})},
    )


def closed_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_help_names_every_flag_and_an_example() -> None:
    ended = agent("--help")
    assert ended.returncode == 0
    for flag in ("--broker", "--name", "--base-topic", "--state-dir", "--threads", "--no-xnnpack", "--verbose"):
        assert flag in ended.stdout
    assert "example: legion-agent --broker" in ended.stdout
    assert ended.stderr == ""


def test_help_does_not_wait_for_numpy_and_the_runtime() -> None:
    code = (
        "import sys; from legion_iot_agent.main import parser; parser().format_help();"
        "sys.exit(any(m in sys.modules for m in ('numpy', 'ai_edge_litert', 'paho')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_version() -> None:
    assert agent("--version").stdout == f"legion-agent {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--threads", "0"], 2, "--threads"),
        (["--threads", "many"], 2, "--threads"),
        (["--config", "/dev/null/agent.toml"], 3, "agent.toml"),
        (["--broker", "http://example"], 2, "mqtt://"),
        (["--broker", "mqtt://u:secret@"], 2, "host"),
        (["--name", "Kitchen/Pi"], 2, "--name"),
        (["--name", "orchestrator"], 2, "orchestrator"),
        (["--base-topic", "a/#"], 2, "base topic"),
        (["--state-dir", "/dev/null/x"], 3, "--state-dir"),
    ],
)
def test_what_cannot_be_right_is_one_line(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    ended = agent("--state-dir", str(tmp_path), "--name", "ant", *arguments)
    assert ended.returncode == code
    assert ended.stdout == ""
    assert re.fullmatch(r"legion-agent: [^\n]+\n", ended.stderr), ended.stderr
    assert says in ended.stderr
    assert "secret" not in ended.stderr


@pytest.mark.parametrize("arguments", [["--unknown"], ["stray"]])
def test_flags_that_do_not_parse_end_with_usage(arguments: list[str]) -> None:
    ended = agent(*arguments)
    assert ended.returncode == 2
    assert "usage: legion-agent" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_broker_that_is_not_there_is_one_line_and_code_5(by_environment: bool, tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{closed_port()}"
    given: list[str] = [] if by_environment else ["--broker", url]
    ended = agent(
        "--state-dir", str(tmp_path), "--name", "ant", *given,
        environment={"LEGION_BROKER": url} if by_environment else None,
    )  # fmt: skip
    assert ended.returncode == 5
    assert re.fullmatch(r"legion-agent: [^\n]+\n", ended.stderr), ended.stderr
    assert url.removeprefix("mqtt://") in ended.stderr
