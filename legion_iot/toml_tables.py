"""Values out of TOML tables: each is of the right kind and within bounds, or refused in one line that names its key."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from legion_iot.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 1 << 20  # of a file


def read_text(path: Path, what: str) -> str:
    """A file that a person wrote; `what` says what it should be. Raises InputError with the file's name."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give {what} in TOML") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: is larger than 1 MiB; give {what} in TOML")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; give {what} in TOML") from None


def parse(text: str) -> dict[str, Any]:
    """The table of a whole file; raises InputError."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"no TOML: {error}") from None


def device_tables(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The `[[device]]` tables of a file; raises InputError without one."""
    tables = table.get("device")
    if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        raise InputError("no devices; give at least one [[device]]")
    return tables


def suggestion(wrong: str, known: Collection[str]) -> str:
    """What may have been meant, or what there is."""
    import difflib  # noqa: PLC0415 — only for who has made a mistake

    close = difflib.get_close_matches(wrong, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"


def numbered(name: str, count: int) -> list[str]:
    """The name itself, or, of several devices, with their numbers."""
    return [name] if count == 1 else [f"{name}{number}" for number in range(1, count + 1)]


def check_keys(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raises InputError for a key that is not known."""
    for key in table:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r:.60}; {suggestion(key, known)}")


def text(table: Mapping[str, Any], key: str, where: str, default: str | None) -> str:
    """A text on one line; without a default it has to be there."""
    value = table.get(key, default)
    if value is None:
        raise InputError(f'{where}: {key} is missing; give one such as {key} = "rk3399"')
    if not isinstance(value, str) or not value or not value.isprintable():
        raise InputError(f"{where}: {key} is {value!r:.60}; give a text on one line")
    return value


def flag(table: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
    """True or false."""
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"{where}: {key} is {value!r:.60}; give true or false")
    return value


def number(table: Mapping[str, Any], key: str, where: str, default: Any, least: float, most: float) -> Any:
    """A number within bounds, or the default, which may be None."""
    if key not in table:
        return default
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: {key} is {value!r:.60}; give a number from {least:g} to {most:g}")
    if not least <= value <= most:
        raise InputError(f"{where}: {key} is {value:g}; give a number from {least:g} to {most:g}")
    return float(value)


def whole(table: Mapping[str, Any], key: str, where: str, default: Any, least: int, most: int) -> Any:
    """A whole number within bounds, or the default, which may be None."""
    if key not in table:
        return default
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{where}: {key} is {value!r:.60}; give a whole number from {least} to {most}")
    return value
