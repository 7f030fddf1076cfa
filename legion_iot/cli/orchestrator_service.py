"""`legion orchestrator install`: the orchestrator as a service of this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.console import err, out, setting
from legion_iot.configuration.programs import AGENTS, BROKER, HOME_ASSISTANT, MODELS, ORCHESTRATOR, PROMETHEUS
from legion_iot.errors import LegionError

if TYPE_CHECKING:
    from legion_iot.installation.places import Service

_root: Any = typer.Option(Path("/"), help="Another system's root, such as a mounted card.")


def install(
    context: typer.Context,
    bundle: Path | None = typer.Argument(None, help="The file of `legion broker add-device --role orchestrator`."),
    models: str | None = setting(MODELS),
    agents: str | None = setting(AGENTS),
    broker: str | None = setting(BROKER),
    home_assistant: bool | None = setting(HOME_ASSISTANT),
    prometheus: str | None = setting(PROMETHEUS),
    root: Path = _root,
    no_start: bool = typer.Option(False, "--no-start", help="Only at the next start of the system."),
) -> None:
    """Serve as a service of systemd: writes /etc/legion-iot/orchestrator.toml and the unit, and starts it.

    Example: legion orchestrator install hub.pem --models efficientnet-lite0 --agents 4
    """
    from legion_iot.configuration.settings import resolve  # noqa: PLC0415
    from legion_iot.installation.places import Service  # noqa: PLC0415
    from legion_iot.installation.procedures import Wanted, install  # noqa: PLC0415 — loads paho

    given = resolve(ORCHESTRATOR, context.params, {}, ())
    told = (MODELS, AGENTS, BROKER, HOME_ASSISTANT, PROMETHEUS)
    values = {s.key: given.given(s).value for s in told if not given.is_default(s)}
    install(Wanted(Service("orchestrator", root), bundle, values, not no_start), _say)


def uninstall(
    root: Path = _root,
    keep: bool = typer.Option(False, "--keep", help="Leave settings, bundle, measurements and networks."),
) -> None:
    """Stop the service, and remove all of it.

    Example: legion orchestrator uninstall --keep
    """
    from legion_iot.installation.places import Service  # noqa: PLC0415
    from legion_iot.installation.procedures import uninstall  # noqa: PLC0415

    service = Service("orchestrator", root)
    uninstall(service, keep, _say, lambda: _tell_home_assistant(service))


def _tell_home_assistant(service: Service) -> None:
    """Take the group's devices back; where that cannot be, the service goes all the same."""
    from legion_iot.configuration.programs import BASE_TOPIC, address, configured  # noqa: PLC0415
    from legion_iot.orchestrator.home_assistant import read_notes, settle  # noqa: PLC0415 — loads paho

    directory = service.kept[0]
    if not service.is_here or not read_notes(directory).places:
        return
    try:
        settings, bundle = configured("orchestrator", {}, {}, service.settings)
        count = settle(directory, address(settings, bundle), settings[BASE_TOPIC], None)
        _say(f"Home Assistant forgets {count} devices")
    except LegionError as error:
        _say(f"note: Home Assistant goes on showing the group, remove its devices there: {error}")


def status(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """Say whether the service runs, and what it tells.

    Example: legion orchestrator status
    """
    from legion_iot.installation.places import Service  # noqa: PLC0415
    from legion_iot.installation.procedures import status  # noqa: PLC0415

    found = status(Service("orchestrator"))
    if as_json:
        typer.echo(json.dumps({"schema": 1, **asdict(found)}))
        return
    for line in found.lines:
        out.print(line, markup=False, soft_wrap=True)


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)
