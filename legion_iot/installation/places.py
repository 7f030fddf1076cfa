"""Where a service's files are, and who has to own the directories they are in."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from legion_iot.errors import InputError, UsageError

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Service:
    """A program of `configuration.programs` as a service; `root` is another system's, such as a mounted SD card."""

    program: str
    root: Path = ROOT

    @property
    def is_here(self) -> bool:
        """Whether it is a service of the system that runs."""
        return self.root == ROOT

    @property
    def unit_name(self) -> str:
        return f"legion-{self.program}.service"

    @property
    def settings_directory(self) -> Path:
        return self.root / "etc" / "legion-iot"

    @property
    def settings(self) -> Path:
        return self.settings_directory / f"{self.program}.toml"

    @property
    def bundle(self) -> Path:
        return self.settings_directory / f"{self.program}.pem"

    @property
    def unit(self) -> Path:
        return self.root / "etc" / "systemd" / "system" / self.unit_name

    @property
    def drop_in(self) -> Path:
        """What the unit says of this device's credentials."""
        return self.unit.with_name(f"{self.unit_name}.d") / "credentials.conf"

    @property
    def kept(self) -> tuple[Path, ...]:
        """What the service itself has written: states and caches, each the link and the directory it leads to."""
        name = f"legion-{self.program}"
        return tuple(
            self.root / "var" / kind / each for kind in ("lib", "cache") for each in (name, Path("private") / name)
        )


def check_rights(service: Service) -> None:
    """Raises UsageError without the right to install services, InputError where somebody else could change them."""
    if not service.root.is_dir():
        raise InputError(f"{service.root}: no such directory; give the root of a system (--root)")
    if service.is_here and os.geteuid() != 0:
        raise UsageError("only root can do this: run it again with sudo")
    for directory in (service.settings_directory, service.unit.parent, service.drop_in.parent):
        try:
            status = directory.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"{directory}: cannot be looked at ({error.strerror})") from None
        if not stat.S_ISDIR(status.st_mode):
            raise InputError(f"{directory}: is no directory; move it away")
        if status.st_uid not in (0, os.geteuid()):
            raise InputError(f"{directory}: belongs to {_name(status.st_uid)}; run: chown root {directory}")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise InputError(f"{directory}: others than its owner can write there; run: chmod go-w {directory}")


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
