"""The text of a service's unit, made out of the one that was installed with the package."""

from __future__ import annotations

import importlib.metadata
import os
import re
import stat
import sys
import sysconfig
from pathlib import Path

from legion_iot.errors import InputError, UsageError
from legion_iot.installation.places import Service

USUAL_SCRIPTS = "/opt/legion-iot/bin"
# What a unit with this sandbox sees nothing of (systemd.exec(5): ProtectHome=, PrivateTmp=, InaccessiblePaths=).
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp", "/media", "/mnt", "/boot")))
_PLAIN = re.compile(r"[\w./+@:-]+")
# From this version on, the time between two starts can grow.
BACK_OFF_SINCE = 254
_BACK_OFF = "RestartSteps=6\nRestartMaxDelaySec=5min\n"


def unit_text(service: Service, scripts: str, version: int = 0) -> str:
    """The unit with the programs in that directory, for that version of systemd."""
    text = _shipped(service).read_text(encoding="utf-8").replace(f"ExecStart={USUAL_SCRIPTS}/", f"ExecStart={scripts}/")
    if version >= BACK_OFF_SINCE:
        text = text.replace("RestartSec=15\n", f"RestartSec=15\n{_BACK_OFF}")
    return text


def credentials_text(service: Service) -> str:
    """The drop-in that hands the bundle to the unit, whose user could not read it."""
    bundle = Path("/") / service.bundle.relative_to(service.root)
    return f"# Written by the installation of {service.unit_name}.\n[Service]\nLoadCredential=bundle:{bundle}\n"


def scripts_directory(service: Service) -> str:
    """Where the service's programs are, as its system sees it; raises UsageError where its unit could not see them."""
    own = sysconfig.get_path("scripts")
    if not service.is_here:
        below = Path(own).is_relative_to(service.root.resolve())
        return str(Path("/") / Path(own).relative_to(service.root.resolve())) if below else USUAL_SCRIPTS
    check_visible(Path(own) / program_name(service))
    check_visible(Path(sys.executable).resolve())
    return own


def program_name(service: Service) -> str:
    """The file that the unit starts."""
    return "legion-agent" if service.program == "agent" else "legion"


def check_visible(program: Path) -> None:
    """Raises UsageError unless a service's user can see and run a program through the unit's sandbox."""
    cure = f"install legion-iot elsewhere, as in: python3 -m venv {Path(USUAL_SCRIPTS).parent}"
    if any(program.is_relative_to(hidden) for hidden in _HIDDEN):
        raise UsageError(f"{program}: a service sees nothing there; {cure}")
    if not _PLAIN.fullmatch(str(program)):
        raise UsageError(f"{program}: a unit cannot name this path; {cure}")
    try:
        program.stat()
        closed = next((each for each in program.parents if not each.stat().st_mode & stat.S_IXOTH), None)
    except OSError as error:
        raise InputError(f"{program}: is not there ({error.strerror}); {cure}") from None
    if closed is not None or not os.access(program, os.X_OK):
        raise UsageError(f"{closed or program}: is closed to a service's user; {cure}")


def _shipped(service: Service) -> Path:
    files = importlib.metadata.distribution("legion-iot").files or ()
    ending = f"share/legion-iot/systemd/{service.unit_name}"
    for file in files:
        if str(file).endswith(ending) and (path := Path(str(file.locate()))).is_file():
            return path
    raise InputError(f"{ending} is missing from this installation; run: pip install --force-reinstall legion-iot")
