"""Settings for people: what holds and who said so, and the tables of docs/configuration.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from legion_iot.configuration.settings import Schema, Setting, Settings


def rows(settings: Settings) -> list[tuple[str, str, str]]:
    """Key, value as it would stand in TOML, and source, of each setting; no setting is a secret."""
    shown = []
    for setting in settings.schema:
        given = settings.given(setting)
        unset = given.value is None or given.value in ("", ())
        shown.append((setting.key, setting.otherwise if unset else in_toml(given.value), given.source))
    return shown


def to_json(settings: Settings) -> dict[str, dict[str, str]]:
    """The same for programs, by key."""
    return {key: {"value": value, "source": source} for key, value, source in rows(settings)}


def checked(settings: Settings) -> dict[str, list[str]]:
    """What is said for programs of settings that are right."""
    return {"files": [str(file) for file in settings.files]}


def in_toml(value: Any) -> str:
    """A value as it stands in a TOML file."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(in_toml, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, Path)):
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def columns(table: list[tuple[str, str, str]]) -> str:
    """The rows as aligned text."""
    widths = [max(len(row[column]) for row in table) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {source}" for key, value, source in table)


def documentation(schema: Schema) -> str:
    """A Markdown table of the settings."""
    head = "| key | what | value | default |\n|---|---|---|---|\n"
    return head + "".join(
        f"| `{s.key}` | {s.what} | {s.kind.noun} | {_default_in_words(s)} |\n".replace("|  |", "| |") for s in schema
    )


def _default_in_words(setting: Setting[Any]) -> str:
    return setting.otherwise or f"`{in_toml(setting.default())}`"
