"""One setting, the kinds of values, and where values come from; which settings there are is in `programs`.

Theory. Each setting is looked for in layers, the first of which says it: flags, `LEGION_*` variables, the files in
their order, the default. A TOML file has typed values; what stands in a flag or a variable is text and is read as the
TOML value it would be, so that every layer is held to the same rule and refused in the same words.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from legion_iot import toml_tables
from legion_iot.errors import InputError, LegionError, UsageError

SYSTEM_DIRECTORY = Path("/etc/legion-iot")
DEFAULT_SOURCE = "default"
_SECRETS = ("password", "token", "secret", "certificate", "key", "private_key")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """What values a setting may have: `read(table, key, where)` gives the table's, or raises LegionError."""

    noun: str
    read: Callable[[Mapping[str, Any], str, str], T_co]
    is_text: bool = False  # in TOML it stands in quotation marks


def whole(least: int, most: int) -> Kind[int]:
    """A whole number within bounds."""
    return Kind(
        f"a whole number from {least} to {most}",
        lambda table, key, where: cast(int, toml_tables.whole(table, key, where, None, least, most)),
    )


def number(least: float, most: float) -> Kind[float]:
    """A number within bounds."""
    return Kind(
        f"a number from {least:g} to {most:g}",
        lambda table, key, where: cast(float, toml_tables.number(table, key, where, None, least, most)),
    )


def flag() -> Kind[bool]:
    """True or false."""
    return Kind("true or false", lambda table, key, where: toml_tables.flag(table, key, where, False))


def text(noun: str = "a text", check: Callable[[str], object] = lambda value: None) -> Kind[str]:
    """A text on one line; `check` raises LegionError for one that cannot be."""

    def read(table: Mapping[str, Any], key: str, where: str) -> str:
        value = toml_tables.text(table, key, where, None)
        try:
            check(value)
        except LegionError as error:
            raise type(error)(f"{where}: {error}") from None
        return value

    return Kind(noun, read, is_text=True)


def texts(noun: str) -> Kind[tuple[str, ...]]:
    """Several texts, or a single one; as a flag or variable, with commas between them."""

    def read(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
        value = table[key]
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            raise InputError(f'{where}: {key} is {value!r:.60}; give texts, as in ["one", "two"]')
        return tuple(toml_tables.text({key: part}, key, where, None) for part in parts)

    return Kind(noun, read, is_text=True)


def choice(*names: str) -> Kind[str]:
    """One of these texts."""

    def check(value: str) -> None:
        if value not in names:
            raise UsageError(f"{value!r:.60} is none of {', '.join(names)}; {toml_tables.suggestion(value, names)}")

    return text(" or ".join(names), check)


def path(noun: str) -> Kind[Path]:
    """A path; in a file, relative to the directory of that file."""
    return Kind(noun, lambda table, key, where: Path(toml_tables.text(table, key, where, None)), is_text=True)


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One thing that a program can be told, as `key` in TOML, `--key` as a flag, `LEGION_KEY` as a variable."""

    key: str
    kind: Kind[T]
    default: Callable[[], T]
    what: str
    otherwise: str = ""  # the default in words, where the value is not the same everywhere

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return "LEGION_" + self.key.upper()


Schema = tuple[Setting[Any], ...]


@dataclass(frozen=True, slots=True)
class Given:
    """A value, and who said it."""

    value: Any
    source: str = DEFAULT_SOURCE


class Settings:
    """The value of each setting of a program, and its source."""

    def __init__(self, schema: Schema, given: Mapping[str, Given], files: tuple[Path, ...] = ()) -> None:
        self.schema = schema
        self.files = files  # that were read
        self._given = dict(given)

    def __getitem__(self, setting: Setting[T]) -> T:
        return cast(T, self.given(setting).value)

    def given(self, setting: Setting[Any]) -> Given:
        return self._given[setting.key]

    def is_default(self, setting: Setting[Any]) -> bool:
        return self.given(setting).source == DEFAULT_SOURCE

    def with_defaults(self, values: Mapping[Setting[Any], Any], source: str) -> Settings:
        """The same, with other values for what nobody has said."""
        found = {s.key: Given(value, source) for s, value in values.items() if self.is_default(s)}
        return Settings(self.schema, {**self._given, **found}, self.files)


def configuration_files(program: str, chosen: Path | None, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The program's files that exist, those that overrule others first; a chosen one takes the place of all."""
    if chosen is not None:
        return (chosen,)
    user = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME", "/"), ".config")
    places = (SYSTEM_DIRECTORY, Path(user) / "legion-iot")
    return tuple(file for place in places if _exists(file := place / f"{program}.toml"))


def _exists(file: Path) -> bool:
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # reading it will say what is wrong
        return True
    return True


def resolve(
    schema: Schema, flags: Mapping[str, Any], environment: Mapping[str, str], files: Sequence[Path]
) -> Settings:
    """Every setting's value. `flags` are texts, or values that were read already; None and "" say nothing.

    Raises UsageError for a flag or variable, InputError for a file, in one line that names which.
    """
    layers = [
        _spoken(schema, {s.key: (s.flag, flags.get(s.key)) for s in schema}, "flag"),
        _spoken(schema, {s.key: (s.variable, environment.get(s.variable)) for s in schema}, "environment"),
        _credential(schema, environment),
        *(_file(schema, file) for file in files),
        {s.key: Given(s.default()) for s in schema},
    ]
    found = {s.key: next(layer[s.key] for layer in layers if s.key in layer) for s in schema}
    return Settings(schema, found, tuple(files))


def _spoken(schema: Schema, said: Mapping[str, tuple[str, Any]], layer: str) -> dict[str, Given]:
    found = {}
    for setting in schema:
        name, value = said[setting.key]
        if value is None or value in ("", [], ()):
            continue
        if isinstance(value, str) and not setting.kind.is_text:
            value = _literal(value)
        elif isinstance(value, Path):
            value = str(value)
        try:
            read = setting.kind.read({setting.key: value}, setting.key, name)
        except LegionError as error:
            raise UsageError(str(error)) from None
        found[setting.key] = Given(_located(read, Path()), f"{layer} {name}")
    return found


def _literal(text: str) -> Any:
    """What stands for itself in TOML; anything else stays text, which will be refused."""
    match text.strip().lower():
        case "true" | "yes" | "on":
            return True
        case "false" | "no" | "off":
            return False
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _credential(schema: Schema, environment: Mapping[str, str]) -> dict[str, Given]:
    """systemd shows a unit's credentials as files in a directory of their own (systemd.exec(5), LoadCredential=)."""
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    file = Path(directory) / "bundle"
    if not directory or not _exists(file) or not any(setting.key == "credentials" for setting in schema):
        return {}
    return {"credentials": Given(file, "systemd credential bundle")}


def _file(schema: Schema, file: Path) -> dict[str, Given]:
    table = _table(file)
    for key in table:
        if key in _SECRETS:
            raise InputError(f"{file}: {key} is a secret, which belongs into the bundle: credentials = FILE")
    toml_tables.check_keys(table, [setting.key for setting in schema], str(file))
    found = {}
    for setting in schema:
        if setting.key in table:
            try:
                read = setting.kind.read(table, setting.key, str(file))
            except LegionError as error:
                raise InputError(str(error)) from None
            found[setting.key] = Given(_located(read, file.parent), str(file))
    return found


def _table(file: Path) -> dict[str, Any]:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give a configuration in TOML") from None
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):  # a device such as /dev/null stands for no file
        raise InputError(f"{file}: is no file; give a configuration in TOML")
    if stat.S_IMODE(mode) & stat.S_IWOTH and stat.S_ISREG(mode):
        raise InputError(f"{file}: everybody on this machine can change it; run: chmod o-w {file}")
    try:
        return toml_tables.parse(toml_tables.read_text(file, "a configuration"))
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(str(file)) else f"{file}: {error}") from None


def _located(value: Any, directory: Path) -> Any:
    """A path as seen from that directory."""
    return directory / os.path.expanduser(value) if isinstance(value, Path) else value
