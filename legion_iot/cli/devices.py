"""Device files, as commands read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from legion_iot.errors import InputError

if TYPE_CHECKING:
    from legion_iot.planning.device_file import DeviceFile


def read_device_file(path: Path) -> DeviceFile:
    """The devices a TOML file describes; raises InputError with the file's name, the key, and what is allowed."""
    from legion_iot.planning.device_file import parse_device_file  # noqa: PLC0415 — loads numpy
    from legion_iot.toml_tables import read_text  # noqa: PLC0415

    text = read_text(path, "a description of devices")
    try:
        return parse_device_file(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
