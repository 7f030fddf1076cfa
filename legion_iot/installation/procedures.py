"""Installing a service, taking it away, and how it is.

Theory. All that can be refused is refused before anything is written: rights, settings, credentials, and whether the
broker takes them. Then the files take their places together or not at all (`files.replace_files`). What comes after,
reloading, enabling and starting, is the same however often it is done, so that a second run repairs what a power cut
left of the first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from legion_iot.configuration.programs import BASE_TOPIC, CREDENTIALS, NAME
from legion_iot.configuration.settings import Settings
from legion_iot.errors import AgentError, InputError, LegionError
from legion_iot.files import NewFile, replace_files
from legion_iot.installation.meeting import OrchestratorWatch, watch
from legion_iot.installation.places import Service, check_rights
from legion_iot.installation.settings_file import tried, with_values
from legion_iot.installation.systemctl import Systemctl
from legion_iot.installation.units import credentials_text, program_name, scripts_directory, unit_text
from legion_iot.toml_tables import parse
from legion_iot.transport.credentials import read_bundle

SEEN_SECONDS = 30.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to install: a bundle, unless the service has one or needs none, and settings that the file shall have."""

    service: Service
    bundle: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    start: bool = True


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service that runs, in systemd's words; `status` are its own."""

    unit: str
    active: str
    sub: str
    since: str
    enabled: str
    restarts: int
    status: str

    @property
    def lines(self) -> list[str]:
        """The same for people."""
        state = f"{self.unit}: {self.active} ({self.sub}) since {self.since}, {self.enabled}, {self.restarts} restarts"
        return [state, *([self.status] if self.status else [])]


def install(wanted: Wanted, say: Say) -> None:
    """Put the service into its places, start it, and wait until it is seen.

    Raises UsageError, InputError or BrokerError with nothing changed; AgentError where it was installed and does not
    start.
    """
    service, systemctl = wanted.service, Systemctl(wanted.service)
    start = wanted.start and service.is_here
    check_rights(service)
    systemctl.check(booted=start)
    scripts = scripts_directory(service)
    present = _present_settings(service)
    bundle = _bundle(wanted, present)
    # The unit's user could not read it anywhere else.
    credentials = {} if bundle is None else {CREDENTIALS.key: service.bundle.name}
    text = with_values(present, {**wanted.values, **credentials}, str(service.settings))
    if not service.is_here and not (service.root / scripts.lstrip("/") / program_name(service)).exists():
        say(f"note: {scripts}/{program_name(service)} is not there yet: install legion-iot on that system")
    files = {service.settings: text, service.unit: unit_text(service, scripts, systemctl.version())}
    if bundle is not None:
        files |= {service.bundle: bundle[1], service.drop_in: credentials_text(service)}
    with tried(service, text, bundle, start) as (settings, address), contextlib.ExitStack() as stack:
        watched = None
        if start and address is not None:
            watched = stack.enter_context(watch(address, settings[BASE_TOPIC], _name(settings)))
            say(f"{address.endpoint} lets {_name(settings)} in")
        _write(
            [NewFile(path, text.encode(), 0o600 if path == service.bundle else 0o644) for path, text in files.items()]
        )
        if bundle is None:
            _remove(service.drop_in)  # of a bundle that is gone
        say(f"written: {', '.join(map(str, files))}")
        if service.is_here and wanted.start:
            systemctl.reload()
        systemctl.enable()
        if watched is not None:
            systemctl.forget_failures()
            systemctl.restart()
            _tell_seen(service, settings, watched, say)


def uninstall(service: Service, keep: bool, say: Say, before_removing: Callable[[], None] = lambda: None) -> None:
    """Stop the service and remove what installing and running it has made; `keep` leaves settings and what it wrote.

    `before_removing` is called once it has stopped, unless all is kept, while its files are still there. Raises
    UsageError, InputError or AgentError; a second run goes on.
    """
    check_rights(service)
    systemctl = Systemctl(service)
    if service.unit.exists():
        systemctl.check(booted=False)
        systemctl.disable(running=service.is_here and _is_booted(systemctl))
    if not keep:
        before_removing()
    doomed = [service.unit, service.drop_in]
    if not keep:
        doomed += [service.settings, service.bundle, *service.kept]
    removed = [path for path in doomed if _remove(path)]
    for directory in (service.drop_in.parent, *(() if keep else (service.settings_directory,))):
        with contextlib.suppress(OSError):  # there is more in it, of somebody else's
            directory.rmdir()
        if directory.exists():
            say(f"left, since it holds more: {directory}")
    if removed and service.is_here and _is_booted(systemctl):
        systemctl.reload()
        systemctl.forget_failures()
    say(f"removed: {', '.join(map(str, removed))}" if removed else f"{service.unit_name} is not installed")


def status(service: Service) -> ServiceStatus:
    """How the service is; raises AgentError with one line where it does not run."""
    Systemctl(service).check(booted=True)
    if not service.unit.exists():
        raise AgentError(f"{service.unit_name} is not installed; see: {program_name(service)} --help")
    names = ("ActiveState", "SubState", "StatusText", "ActiveEnterTimestamp", "NRestarts", "Result", "UnitFileState")
    shown = Systemctl(service).shown(*names)
    state = f"{shown.get('ActiveState')} ({shown.get('SubState')})"
    said = shown.get("StatusText", "")
    if shown.get("ActiveState") != "active":
        result = "" if shown.get("Result") == "success" else f", {shown.get('Result')}"
        why = f"; it said: {said}" if said else ""
        raise AgentError(f"{service.unit_name} is {state}{result}{why}; see: journalctl -u {service.unit_name}")
    return ServiceStatus(
        service.unit_name,
        shown["ActiveState"],
        shown.get("SubState", ""),
        shown.get("ActiveEnterTimestamp", ""),
        shown.get("UnitFileState", ""),
        int(shown.get("NRestarts") or 0),
        said,
    )


# --- the steps ---


def _present_settings(service: Service) -> str:
    """What the service's file says now, or how a new one begins."""
    try:
        return service.settings.read_text(encoding="utf-8")
    except FileNotFoundError:
        command = "legion-agent config show" if service.program == "agent" else "legion config show orchestrator"
        return f"# Settings of {service.unit_name}; `{command}` tells what holds.\n"
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{service.settings}: cannot be read ({error}); correct it, or move it away") from None


def _bundle(wanted: Wanted, present: str) -> tuple[Path, str] | None:
    """The bundle that the service will have: the one given, the one it has, or the one that its settings name.

    None where it has none. Raises InputError for one that cannot be read.
    """
    service = wanted.service
    try:
        named = parse(present).get(CREDENTIALS.key)
    except InputError as error:
        raise InputError(f"{service.settings}: {error}; correct it, or move it away") from None
    if wanted.bundle is not None or service.bundle.exists():
        path = wanted.bundle or service.bundle
    elif isinstance(named, str):
        path = service.settings_directory / named
    else:
        return None
    read_bundle(path)
    return path, path.read_text(encoding="utf-8")


def _name(settings: Settings) -> str:
    return settings[NAME] if NAME in settings.schema else "orchestrator"


def _write(files: list[NewFile]) -> None:
    with _new_directories(files) as made:
        try:
            replace_files(files)
        except OSError as error:
            places = " or ".join(dict.fromkeys(str(file.path.parent) for file in files))
            raise InputError(f"{places}: cannot be written to ({error.strerror}); nothing was changed") from None
        made.clear()


@contextlib.contextmanager
def _new_directories(files: list[NewFile]) -> Iterator[list[Path]]:
    """The files' directories; those that are new and still in the list at the end are removed again."""
    made: list[Path] = []
    try:
        for file in files:
            for directory in reversed(file.path.parents):
                if not directory.exists():
                    directory.mkdir()
                    made.append(directory)
                    directory.chmod(0o755)  # whatever the umask: the service's user has to read its settings
        yield made
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be made ({error.strerror}); nothing was changed") from None
    finally:
        for directory in reversed(made):
            with contextlib.suppress(OSError):  # something came into it meanwhile
                directory.rmdir()


def _tell_seen(service: Service, settings: Settings, watched: OrchestratorWatch, say: Say) -> None:
    if service.program != "agent":
        say(f"{service.unit_name} runs: {Systemctl(service).shown('StatusText').get('StatusText', '')}")
        return
    name = settings[NAME]
    if not watched.is_online():
        say(f"{service.unit_name} runs; no orchestrator is online, which will see {name} as soon as it is")
    elif watched.has_seen(name, SEEN_SECONDS):
        say(f"{service.unit_name} runs, and the orchestrator has seen {name} ({watched.detail})")
    else:
        raise AgentError(
            f"{service.unit_name} runs, but the orchestrator has not seen {name} within {SEEN_SECONDS:g} s "
            f"({watched.detail}); see: journalctl -u {service.unit_name}"
        )


def _is_booted(systemctl: Systemctl) -> bool:
    try:
        systemctl.check(booted=True)
    except LegionError:
        return False
    return True


def _remove(path: Path) -> bool:
    """Remove a file, a link or a tree; whether it was there."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"{error.filename or path}: cannot be removed ({error.strerror})") from None
    return True
