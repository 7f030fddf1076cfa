"""What holds for the help of every command, and that asking for it loads nothing that takes long."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from legion_iot import errors
from legion_iot.cli.commands import COMMANDS
from legion_iot.cli.group import EXIT_CODES, load
from legion_iot.cli.reference import document
from legion_iot_broker.launch import local_broker
from tests.cli.command_tree import commands, example, parse
from tests.cli.schemas import schema_file

ALL = dict(commands())
HEAVY = ("numpy", "rich", "PIL", "paho", "msgpack", "matplotlib", "ai_edge_litert", "tflite_runtime", "cryptography",
         "tflite", "flatbuffers", "h5py", "zeroconf")  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """Names of modules that are loaded after a program has run."""
    program = f"{code}\nimport sys\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stderr.split())


def heavy(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules} & set(HEAVY)


def test_help_loads_no_command_and_nothing_heavy() -> None:
    modules = loaded_by("""
import sys
from legion_iot.cli.__main__ import main
sys.argv = ["legion", "--help"]
try:
    main()
except SystemExit:
    pass
""")
    assert "legion_iot.cli.main" in modules
    assert heavy(modules) == set()
    assert {f"legion_iot.cli.{each.module}" for each in COMMANDS.values()} & modules == set()


def test_no_command_loads_anything_heavy_before_it_runs() -> None:
    modules = loaded_by("""
from legion_iot.cli.commands import COMMANDS
from legion_iot.cli.group import load
for name in COMMANDS:
    load(name)
""")
    assert {f"legion_iot.cli.{each.module}" for each in COMMANDS.values()} <= modules
    assert heavy(modules) == set()


def test_status_runs_without_anything_heavy_but_what_connects() -> None:
    with local_broker("embedded") as broker:
        modules = loaded_by(f"""
import sys
from legion_iot.cli.__main__ import main
sys.argv = ["legion", "status", "--json", "--broker", "{broker.address}"]
try:
    main()
except SystemExit:
    pass
""")
    assert "legion_iot.orchestrator.group_view" in modules
    assert heavy(modules) == {"paho", "msgpack"}


WITH_JSON = [words for words, command in ALL.items() if any("--json" in each.opts for each in command.params)]


@pytest.mark.parametrize("words", WITH_JSON)
def test_what_can_be_printed_for_programs_has_a_schema(words: str) -> None:
    assert schema_file(words).is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_itself(name: str) -> None:
    said = " ".join(load(name).help.split("\n\n")[0].split())
    assert COMMANDS[name].line == said


@pytest.mark.parametrize("words", ALL)
def test_every_command_says_what_it_does_with_an_example_that_can_be_typed(words: str) -> None:
    command: Any = ALL[words]
    assert command.help.split("\n\n")[0].rstrip().endswith(".")
    assert parse(example(command)) == words
    assert command.epilog == EXIT_CODES
    assert [each.name for each in command.params if each.name != "help" and not getattr(each, "help", None)] == []


def test_the_reference_is_what_the_commands_say() -> None:
    written = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
    same = written.read_text(encoding="utf-8") == document()
    assert same, "make it anew: python -m legion_iot.cli.reference > docs/reference/commands.md"


def test_the_exit_codes_are_those_of_the_errors() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LegionError)]
    codes = {c.exit_code for c in classes} - {errors.ProtocolError.exit_code}  # never leaves a program
    listed = {int(each.split()[0]) for each in EXIT_CODES.replace("\n", " ").split(":")[1].split("·")}
    assert listed == codes | {0, 130}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [("zo", "did you mean 'zoo'? See: legion --help"), ("zoo lst", "did you mean 'list'? See: legion zoo --help"),
     ("zoo get", "see: legion zoo get --help"), ("frobnicate", "see: legion --help")],
)  # fmt: skip
def test_who_is_mistaken_is_told_where_to_look(arguments: str, said: str) -> None:
    line = [sys.executable, "-m", "legion_iot.cli", *arguments.split()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"{said}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "offered"),
    [("legion si", ["simulate"]), ("legion zoo ", ["list", "get"]), ("legion zoo get --j", ["--json"])],
)
def test_a_shell_completes(words: str, offered: list[str]) -> None:
    asked = {"_LEGION_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    line = [str(Path(sys.executable).parent / "legion")]
    done = subprocess.run(line, env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.split(), done.stderr) == (offered, "")
