"""How `legion` finds its commands: each is loaded when it is called, and the help lists them without loading any.

Theory. Typer resolves a name in `resolve_command`, for calls and for the shell's completion alike, and lists names
with their lines by `list_commands` and `get_command`. So what is listed can stand for the command until it is resolved.
"""

from __future__ import annotations

import importlib
from collections.abc import MutableMapping
from typing import Any

import typer
from typer.core import TyperGroup

from legion_iot.cli.commands import COMMANDS

EXIT_CODES = """
Exit codes: 0 done · 1 a result is not as it should be · 2 wrong flag or argument · 3 unreadable file or picture ·
4 no usable model · 5 broker · 6 download · 7 agent · 8 request failed · 9 no TFLite runtime ·
11 certificate revoked · 12 certificate expired · 13 foreign certificate · 14 password refused ·
15 name taken · 130 interrupted
"""
# Help as plain text: what typer does with rich takes longer to load than all the rest.
PLAIN: Any = {"rich_markup_mode": None, "pretty_exceptions_enable": False}


class Group(TyperGroup):
    """Commands below a word, such as those of `legion zoo`."""

    commands: MutableMapping[str, Any]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name in self.commands:
            self.load(name)
        elif not name.startswith("-") and not ctx.resilient_parsing:
            from legion_iot.toml_tables import suggestion  # noqa: PLC0415 — only for who has made a mistake

            ctx.fail(f"there is no command {name!r:.60}; {suggestion(name, self.commands)}")
        return super().resolve_command(ctx, args)

    def load(self, name: str) -> None:
        """Put the command itself in the place of what stands for it."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each name with its line, in full, below the heading of its section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            heading = COMMANDS[name].section if ctx.parent is None else "Commands"
            sections.setdefault(heading, []).append((name, command.get_short_help_str(limit=1000)))
        for heading, lines in sections.items():
            with formatter.section(heading):
                formatter.write_dl(lines)


class AllCommands(Group):
    """The commands of `legion` itself."""

    def load(self, name: str) -> None:
        self.commands[name] = load(name)


def load(name: str) -> Any:
    """A command out of its module, as typer's own object; whatever is below it names the exit codes, too."""
    described = COMMANDS[name]
    found = getattr(importlib.import_module(f"legion_iot.cli.{described.module}"), described.attribute)
    if isinstance(found, typer.Typer):
        found.info.cls = Group
        found.rich_markup_mode = None
        command: Any = typer.main.get_group(found)
        command.name = name
    else:
        alone = typer.Typer(add_completion=False, **PLAIN)
        alone.command(name)(found)
        command = typer.main.get_command(alone)
    _name_exit_codes(command)
    return command


def _name_exit_codes(command: Any) -> None:
    command.epilog = EXIT_CODES
    for below in getattr(command, "commands", {}).values():
        _name_exit_codes(below)
