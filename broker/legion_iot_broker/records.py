"""What a broker's directory knows: its settings, and who was let in or removed. JSON, read with suspicion."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from legion_iot.errors import InputError

SCHEMA = 1
DEFAULT_PORT = 8883
DEFAULT_LOCAL_PORT = 1883


@dataclass(frozen=True, slots=True)
class Settings:
    """What `legion broker init` was told, or found: the first host is the one that members are told."""

    hosts: tuple[str, ...]
    base_topic: str = "legion"
    port: int = DEFAULT_PORT
    local_port: int = DEFAULT_LOCAL_PORT
    websockets_port: int = 0  # 0 is none


@dataclass(frozen=True, slots=True)
class Member:
    """One identity that was issued; times are ISO 8601 in UTC, `serial` is its certificate's, in hexadecimal digits."""

    name: str
    role: str
    serial: str
    issued: str
    expires: str
    password_hash: str = ""
    removed: str = ""  # when

    @property
    def serial_number(self) -> int:
        return int(self.serial, 16)


@dataclass(frozen=True, slots=True)
class Roll:
    """All who were ever let in, in order; the certificates of those removed stay revoked."""

    members: tuple[Member, ...] = ()

    @property
    def present(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if not member.removed)

    @property
    def removed(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.removed)

    def find(self, name: str) -> Member | None:
        """The member of that name who is let in."""
        return next((member for member in self.present if member.name == name), None)


def now_utc() -> datetime:
    """The time as records and certificates have it: UTC, whole seconds."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def timestamp(when: datetime) -> str:
    """A time as the records have it."""
    return when.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime:
    """The time of a timestamp; raises ValueError."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


def settings_text(settings: Settings) -> str:
    """Settings as JSON."""
    return json.dumps({"schema": SCHEMA, **asdict(settings)}, indent=1) + "\n"


def roll_text(roll: Roll) -> str:
    """A roll as JSON."""
    return json.dumps({"schema": SCHEMA, "members": [asdict(member) for member in roll.members]}, indent=1) + "\n"


def read_settings(path: Path) -> Settings:
    """Settings out of a file; raises InputError."""
    content = _load(path)
    try:
        content["hosts"] = tuple(content["hosts"])
        settings = _build(Settings, content)
        if not settings.hosts or not all(isinstance(host, str) for host in settings.hosts):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path) from error
    return settings


def read_roll(path: Path) -> Roll:
    """A roll out of a file; raises InputError."""
    content = _load(path)
    try:
        members = tuple(_build(Member, each) for each in content["members"])
        for member in members:
            moment(member.expires), int(member.serial, 16)
            if member.removed:
                moment(member.removed)
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path) from error
    return Roll(members)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); run it as who ran `legion broker init`"
        ) from error
    except ValueError as error:
        raise _broken(path) from error
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        raise InputError(f"{path}: of another version of legion-iot; use that one")
    return content


_Record = TypeVar("_Record", Settings, Member)


def _build(kind: type[_Record], content: dict[str, Any]) -> _Record:
    """The record with these fields, each of the type of its default, or text; raises TypeError or ValueError."""
    made = kind(**content)
    for each in fields(made):
        wanted = {"int": int, "tuple[str, ...]": tuple}.get(str(each.type), str)
        if type(getattr(made, each.name)) is not wanted:
            raise ValueError(each.name)
    return made


def _broken(path: Path) -> InputError:
    return InputError(f"{path}: damaged; restore it from a backup")
