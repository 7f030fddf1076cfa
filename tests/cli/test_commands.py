"""The command line: help, versions, exit codes, and output other programs can read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from legion_iot import __version__, errors, zoo
from tests.cli.schemas import check

SCRIPTS = Path(sys.executable).parent


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPTS / program), *arguments],
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("program", ["legion", "legion-agent"])
def test_version(program: str) -> None:
    done = run(program, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{program} {__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ["demo", "zoo", "orchestrator", "broker", "Exit codes"]),
        (("demo",), ["--model", "--agents", "--image", "--requests", "--broker", "--save", "--json", "Example"]),
        (("cost",), ["--devices", "--device", "--picture", "--json", "Example"]),
        (("zoo",), ["list", "get"]),
        (("zoo", "list"), ["--json"]),
        (("zoo", "get"), ["Example"]),
        (("orchestrator",), ["run"]),
        (("orchestrator", "run"), ["--broker", "--agents", "--base-topic", "Example"]),
        (("broker", "run"), ["--port", "Example"]),
        (("plan",), ["--devices", "--planner", "--objective", "--explain", "--picture", "--json", "Example"]),
    ],
)
def test_help(command: tuple[str, ...], words: list[str]) -> None:
    done = run("legion", *command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert [word for word in words if word not in done.stdout] == []


def test_help_of_the_agent_names_the_environment() -> None:
    done = run("legion-agent", "--help")
    assert done.returncode == 0
    assert "LEGION_BROKER" in done.stdout
    assert "--name" in done.stdout


@pytest.mark.parametrize("command", [(), ("zoo",), ("orchestrator",), ("broker",)])
def test_a_group_alone_shows_its_help(command: tuple[str, ...]) -> None:
    done = run("legion", *command)
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("dance",), ("--loud",), ("zoo", "get"), ("zoo", "get", "lenet"), ("broker", "run", "--port", "70000"),
     ("model", "add"), ("orchestrator", "run", "vgg16", "--agents", "0"),
     ("orchestrator", "run", "vgg16", "--broker", "kitchen")],
)  # fmt: skip
def test_wrong_arguments_are_one_line_and_code_2(arguments: tuple[str, ...]) -> None:
    done = run("legion", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("legion: ")
    assert done.stderr.count("\n") == 1


def test_every_error_has_an_exit_code_of_its_own() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LegionError)]
    codes = [c.exit_code for c in classes]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes


def test_zoo_list_for_programs() -> None:
    done = run("legion", "zoo", "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    listed = check("zoo list", done.stdout)["networks"]
    assert [entry["name"] for entry in listed] == [entry.name for entry in zoo.catalogue()]
    assert all(entry["gflop"] > 0 and entry["licence"] for entry in listed)


def test_presets_for_programs() -> None:
    done = run("legion", "lab", "presets", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    presets = {each["name"]: each for each in check("lab presets", done.stdout)["presets"]}
    boards = [device["board"] for device in presets["legion-3f3o"]["devices"]]
    assert sorted(boards.count(board) for board in set(boards)) == [3, 3]


def test_zoo_list_for_people() -> None:
    done = run("legion", "zoo", "list")
    assert done.returncode == 0
    assert all(entry.name in done.stdout for entry in zoo.catalogue())


def test_zoo_get_makes_a_network(tmp_path: Path) -> None:
    done = run("legion", "zoo", "get", "mobilenet-v2", "--json", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    answer = check("zoo get", done.stdout)
    assert Path(answer["path"]).stat().st_size > 1_000_000
    assert answer["answer"] == "classes"


def test_a_reader_that_has_enough() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [str(SCRIPTS / "legion"), "zoo", "list"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60,
            check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert done.returncode == 0
    assert done.stderr == ""
