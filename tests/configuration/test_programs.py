"""The settings of agent and orchestrator: the bundle's part in them; commands and documents agree with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from legion_iot.configuration.programs import (
    AGENT,
    BASE_TOPIC,
    BROKER,
    NAME,
    ORCHESTRATOR,
    PROGRAMS,
    WIRE,
    address,
    configured,
    unknown_variables,
)
from legion_iot.configuration.report import documentation
from legion_iot.errors import InputError, UsageError
from legion_iot.planning.problem import Objective
from legion_iot.wire.dtypes import WIRES
from tests.cli.schemas import check
from tests.cli.test_commands import run

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"
BUNDLE = "name: ant\nrole: agent\nbroker: mqtts://hub\nbase-topic: shelf\npassword: hunter2\n"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "ant.pem"
    path.write_text(BUNDLE, encoding="utf-8")
    path.chmod(0o600)
    return path


def configuration(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_bundle_says_what_nobody_else_says(bundle: Path, tmp_path: Path) -> None:
    file = configuration(tmp_path, 'credentials = "ant.pem"\nbase_topic = "own"\n')
    settings, read = configured("agent", {}, {}, file)
    assert read is not None
    assert (settings[NAME], settings[BROKER], settings[BASE_TOPIC]) == ("ant", "mqtts://hub", "own")
    assert settings.given(NAME).source == f"bundle {bundle}"
    assert str(address(settings, read)) == "mqtts://ant@hub:8883"
    settings, read = configured("agent", {"broker": "mqtts://10.0.0.1:9"}, {}, file)
    assert address(settings, read).endpoint == "10.0.0.1:9"


def test_a_bundle_of_another_name_or_role_is_refused(bundle: Path, tmp_path: Path) -> None:
    file = configuration(tmp_path, 'credentials = "ant.pem"\nname = "bee"\n')
    with pytest.raises(UsageError, match="leave one of the two out"):
        configured("agent", {}, {}, file)
    with pytest.raises(UsageError, match="role orchestrator"):
        configured("orchestrator", {}, {}, configuration(tmp_path, 'credentials = "ant.pem"\n'))
    bundle.unlink()
    with pytest.raises(InputError, match=r"ant\.pem: cannot be read"):
        configured("agent", {"name": ""}, {}, file)


def test_a_bundle_without_a_broker_asks_for_one(bundle: Path, tmp_path: Path) -> None:
    bundle.write_text("name: ant\npassword: hunter2\n", encoding="utf-8")
    settings, read = configured("agent", {"credentials": str(bundle)}, {}, Path("/dev/null"))
    with pytest.raises(UsageError, match="--broker"):
        address(settings, read)


def test_show_and_check_hide_secrets(bundle: Path, tmp_path: Path) -> None:
    file = configuration(tmp_path, 'credentials = "ant.pem"\nthreads = 2\n')
    for program in (["legion", "config", "show", "agent"], ["legion-agent", "config", "show"]):
        done = run(program[0], *program[1:], "--config", str(file), COLUMNS="200")
        assert (done.returncode, done.stderr) == (0, "")
        assert "hunter2" not in done.stdout
        lines = {row.replace("│", " ").split()[0]: row for row in done.stdout.splitlines() if row.strip("┏┡└ ")}
        assert '"mqtts://hub"' in lines["broker"]
        assert f"bundle {bundle}" in lines["broker"]
        assert str(file) in lines["threads"]
    done = run("legion", "config", "show", "agent", "--json", "--config", str(file))
    assert check("config show", done.stdout)["agent"]["threads"] == {"value": "2", "source": str(file)}
    agents = run("legion-agent", "config", "show", "--json", "--config", str(file))
    assert check("config show", agents.stdout) == check("config show", done.stdout)
    for program in (["legion", "config", "check", "agent"], ["legion-agent", "config", "check"]):
        right = run(program[0], *program[1:], "--json", "--config", str(file))
        assert check("config check", right.stdout)["agent"]["files"] == [str(file)]
    done = run("legion-agent", "config", "check", "--config", str(file), LEGION_THREAD="2")
    assert (done.returncode, done.stdout) == (0, f"the settings are right ({file})\n")
    assert done.stderr == "legion-agent: LEGION_THREAD: no setting; did you mean 'LEGION_THREADS'?\n"


@pytest.mark.parametrize(
    ("command", "text", "code", "says"),
    [
        ("check", "threads = 'x'", 3, "threads is 'x'"),
        ("show", "thread = 1", 3, "did you mean 'threads'?"),
        ("check", 'credentials = "gone.pem"', 3, "gone.pem: cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line(command: str, text: str, code: int, says: str, tmp_path: Path) -> None:
    file = configuration(tmp_path, text)
    for program in (["legion", "config", command, "agent"], ["legion-agent", "config", command]):
        done = run(program[0], *program[1:], "--config", str(file))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
        assert says in done.stderr


def test_the_orchestrators_planner_is_checked(tmp_path: Path) -> None:
    file = configuration(tmp_path, 'planner = "hallo"')
    done = run("legion", "config", "check", "orchestrator", "--config", str(file))
    assert done.returncode == 2
    assert "'hallo'" in done.stderr


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    done = run("legion", "orchestrator", "run", "a/cats.tflite", "b/cats.tflite", "--config", os.devnull)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cats" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_not_passed_over(tmp_path: Path) -> None:
    configuration(tmp_path, "threads = 2").chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        configured("agent", {}, {}, tmp_path / "agent.toml")


def test_choices_are_those_of_the_code() -> None:
    assert WIRE.kind.noun == " or ".join(WIRES)
    objective = next(s for s in ORCHESTRATOR if s.key == "objective")
    assert objective.kind.noun == " or ".join(get_args(Objective))


@pytest.mark.parametrize("program", [("legion", "orchestrator", "run"), ("legion-agent",)])
def test_each_setting_is_a_flag(program: tuple[str, ...]) -> None:
    done = run(*program, "--help")
    for setting in AGENT if program == ("legion-agent",) else ORCHESTRATOR:
        flag = "--no-xnnpack" if setting.key == "xnnpack" else setting.flag
        assert (flag if setting.key != "models" else "MODEL") in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_document_has_the_tables_of_the_code(program: str) -> None:
    assert documentation(PROGRAMS[program]) in DOCUMENT.read_text(encoding="utf-8")


def test_variables_that_nobody_reads_are_named() -> None:
    assert unknown_variables({"LEGION_BROKER": "", "LEGION_BROKER_DIR": "", "PATH": ""}) == []
    assert unknown_variables({"LEGION_BROKR": ""}) == ["LEGION_BROKR: no setting; did you mean 'LEGION_BROKER'?"]


def test_the_agents_configuration_needs_no_terminal_library() -> None:
    code = (
        "import sys, os; from legion_iot.configuration.programs import configured; configured('agent', {}, {});"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not set(done.stdout.split()) & {"typer", "rich", "numpy", "paho"}
