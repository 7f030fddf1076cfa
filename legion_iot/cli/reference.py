"""docs/reference/commands.md, made of what the commands say of themselves.

python -m legion_iot.cli.reference > docs/reference/commands.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from legion_iot.cli.commands import COMMANDS
from legion_iot.cli.group import EXIT_CODES, load

_HEAD = """# Commands

This page is made of what the commands say of themselves: `legion COMMAND --help` shows the same. What each prints with
`--json` is in [docs/schemas](../schemas/README.md); settings that can also be variables or stand in files are in
[configuration.md](../configuration.md).
"""


def document() -> str:
    """The page: every command of `legion`, in the order of its help, then `legion-agent`."""
    parts = [_HEAD, _exit_codes()]
    for name in COMMANDS:
        parts += _below(f"legion {name}", load(name))
    return "\n".join([*parts, *_agent()])


def _exit_codes() -> str:
    codes = " ".join(EXIT_CODES.split()).removeprefix("Exit codes: ").split(" · ")
    rows = [each.split(" ", 1) for each in codes]
    return "## Exit codes\n\n| code | what |\n|---|---|\n" + "".join(f"| {code} | {what} |\n" for code, what in rows)


def _below(words: str, command: Any) -> Iterator[str]:
    """A command, or all that are below it."""
    commands = getattr(command, "commands", None)
    if commands is None:
        yield _section(words, command.help, [(_flags(p), p.help or "", _default(p)) for p in command.params])
        return
    for name, each in commands.items():
        yield from _below(f"{words} {name}", each)


def _section(words: str, help_text: str, rows: list[tuple[str, str, str]]) -> str:
    told, _, example = help_text.partition("Example: ")
    paragraphs = [_escaped(" ".join(each.split())) for each in told.split("\n\n") if each.strip()]
    text = f"## {words}\n\n" + "\n\n".join(paragraphs) + "\n"
    if example:
        text += f"\n```sh\n{example.strip()}\n```\n"
    return text + _table(rows)


def _table(rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    lines = []
    for flags, what, default in rows:
        text = " ".join(_escaped(f"{what} [default: {default}]" if default else what).split())
        lines.append(f"| {flags} | {text} |\n")
    return "\n| | |\n|---|---|\n" + "".join(lines)


def _escaped(text: str) -> str:
    """With what would be read as HTML made plain, but for what stands between backticks."""
    parts = text.split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


def _flags(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{flag}`" for flag in parameter.opts)


def _default(parameter: Any) -> str:
    """What holds without it, where the help text does not say it."""
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    value = parameter.default
    unsaid = value in (None, "", (), []) or isinstance(value, bool) or callable(value)
    return "" if unsaid or "[default:" in (parameter.help or "") else f"`{value}`"


def _agent() -> Iterator[str]:
    from legion_iot_agent.arguments import parser  # noqa: PLC0415 — the other program

    yield from _argparse("legion-agent", parser())


def _argparse(words: str, made: argparse.ArgumentParser) -> Iterator[str]:
    rows: list[tuple[str, str, str]] = []
    below: list[tuple[str, str, argparse.ArgumentParser]] = []
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {each.dest: each.help or "" for each in action._choices_actions}
            below = [(f"{words} {name}", told[name], each) for name, each in action.choices.items()]
        elif not isinstance(action, argparse._HelpAction):
            flags = ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{action.dest.upper()}`"
            rows.append((flags, action.help or "", ""))
    text = made.description or ""
    yield _section(words, text, rows)
    for name, what, each in below:
        each.description = f"{what[:1].upper()}{what[1:]}."
        yield from _argparse(name, each)


if __name__ == "__main__":
    print(document(), end="")
