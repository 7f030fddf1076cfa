"""`legion orchestrator install`: the orchestrator as a service of this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from legion_iot.cli.console import err, out, setting
from legion_iot.configuration.programs import AGENTS, BROKER, MODELS, ORCHESTRATOR

_root: Any = typer.Option(Path("/"), help="Another system's root, such as a mounted card.")


def install(
    context: typer.Context,
    bundle: Path | None = typer.Argument(None, help="The file of `legion broker add-device --role orchestrator`."),
    models: str | None = setting(MODELS),
    agents: str | None = setting(AGENTS),
    broker: str | None = setting(BROKER),
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
    values = {s.key: given.given(s).value for s in (MODELS, AGENTS, BROKER) if not given.is_default(s)}
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

    uninstall(Service("orchestrator", root), keep, _say)


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
