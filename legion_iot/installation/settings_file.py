"""Setting values in a file that a person may have written, and leaving the rest of it as it is."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from legion_iot import toml_tables
from legion_iot.configuration.programs import AUTO, BROKER, address, configured
from legion_iot.configuration.report import in_toml
from legion_iot.configuration.settings import Settings
from legion_iot.errors import InputError, LegionError
from legion_iot.installation.places import Service
from legion_iot.transport.connection import BrokerAddress


def with_values(text: str, values: Mapping[str, Any], where: str) -> str:
    """The file's text with these values; raises InputError where the text cannot be changed so."""
    for key, value in values.items():
        line = f"{key} = {in_toml(value)}"
        found = re.search(rf"^{re.escape(key)}\s*=.*$", text, re.MULTILINE)
        text = text[: found.start()] + line + text[found.end() :] if found else f"{_ended(text)}{line}\n"
    try:
        table = toml_tables.parse(text)
    except InputError as error:
        raise InputError(f"{where}: {error}; correct it, or move it away") from None
    for key, value in values.items():
        if table.get(key) != _plain(value):
            raise InputError(f"{where}: {key} cannot be set there; correct it, or move the file away")
    return text


def _ended(text: str) -> str:
    return text if text.endswith("\n") or not text else f"{text}\n"


def _plain(value: Any) -> Any:
    return [*value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


@contextlib.contextmanager
def tried(
    service: Service, text: str, bundle: tuple[Path, str] | None, here: bool
) -> Iterator[tuple[Settings, BrokerAddress | None]]:
    """What the program would read out of that text and bundle, which inside `with` are files for nobody else.

    Where it will not run `here`, no broker is looked for. Raises InputError or UsageError as the program would; errors
    inside `with` name the bundle's own file, and the settings' as it will be called.
    """
    with tempfile.TemporaryDirectory(prefix="legion-install-") as scratch:
        directory = Path(scratch)
        file = directory / service.settings.name
        file.write_text(text, encoding="utf-8")
        copy = directory / service.bundle.name
        if bundle is not None:
            copy.touch(mode=0o600)
            copy.write_text(bundle[1], encoding="utf-8")
        try:
            settings, read = configured(service.program, {}, {}, file)
            yield settings, None if settings[BROKER] == AUTO and not here else address(settings, read)
        except LegionError as error:
            said = str(error) if bundle is None else str(error).replace(str(copy), str(bundle[0]))
            raise type(error)(said.replace(scratch, str(service.settings_directory))) from None
