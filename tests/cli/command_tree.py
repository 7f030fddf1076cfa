"""All commands of `legion`, as typer knows them, and a way to read a command line without running it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import typer

from legion_iot.cli.commands import COMMANDS
from legion_iot.cli.group import load
from legion_iot.cli.main import app

ROOT: Any = typer.main.get_command(app)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something: its words, such as `zoo list`, and typer's object."""
    for name in COMMANDS:
        yield from _below(name, load(name))


def _below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield words, command
        return
    for name, each in below.items():
        yield from _below(f"{words} {name}", each)


def parse(line: str) -> str:
    """The words of the command that a line calls; raises what typer raises for wrong names, flags and values."""
    program, *arguments = shlex.split(line)
    assert program == "legion"
    context = ROOT.make_context("legion", arguments)
    words = []
    while hasattr(context.command, "resolve_command"):
        arguments = [*(getattr(context, "_protected_args", None) or context.protected_args), *context.args]
        name, command, arguments = context.command.resolve_command(context, arguments)
        words.append(name)
        context = command.make_context(name, arguments, parent=context)
    return " ".join(words)


def example(command: Any) -> str:
    """The line that a command's help gives as its example, or nothing."""
    lines = [line for line in command.help.split("\n") if line.startswith("Example: ")]
    return lines[0].removeprefix("Example: ") if lines else ""
