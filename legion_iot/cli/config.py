"""`legion config`: what agent and orchestrator of this machine are told, and who said so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer

from legion_iot.cli.console import err, out
from legion_iot.configuration.programs import ORCHESTRATOR, PLANNER, PROGRAMS, configured, unknown_variables
from legion_iot.configuration.report import checked, rows, to_json
from legion_iot.configuration.settings import Settings
from legion_iot.errors import UsageError

app = typer.Typer(help="What agent and orchestrator of this machine are told, and who said so.", no_args_is_help=True)

_program = typer.Argument(None, metavar="[agent|orchestrator]", help="Of which program.  [default: both]")
_file = typer.Option(None, "--config", help="Read this file instead of those in the usual places.")


@app.command("show")
def show(
    program: str | None = _program,
    config: Path | None = _file,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show each setting, its value, and where that comes from.

    Example: legion config show agent
    """
    shown: dict[str, Any] = {}
    for name, settings in _settings(program, config).items():
        if as_json:
            shown[name] = to_json(settings)
            continue
        from rich.markup import escape  # noqa: PLC0415 — takes time
        from rich.table import Table  # noqa: PLC0415

        table = Table("setting", "value", "from", title=name, title_justify="left")
        for row in rows(settings):
            table.add_row(*map(escape, row))
        out.print(table)
    if as_json:
        typer.echo(json.dumps({"schema": 1, **shown}))


@app.command("check")
def check(
    program: str | None = _program,
    config: Path | None = _file,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Say whether all settings can be read and are right, credentials included; exits with an error's code.

    Example: legion config check orchestrator
    """
    right = _settings(program, config)
    for name, settings in right.items():
        if settings.schema is ORCHESTRATOR:
            from legion_iot.orchestrator.planning import find_planner  # noqa: PLC0415 — loads numpy

            find_planner(settings[PLANNER])
        if as_json:
            continue
        read = ", ".join(map(str, settings.files)) or "no file"
        out.print(f"{name}: the settings are right ({read})", markup=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps({"schema": 1, **{name: checked(settings) for name, settings in right.items()}}))


def _settings(program: str | None, config: Path | None) -> dict[str, Settings]:
    if program is not None and program not in PROGRAMS:
        raise UsageError(f"there is no program {program!r:.40} to configure; give {' or '.join(PROGRAMS)}")
    if config is not None and program is None:
        raise UsageError("--config is a file of one program: say agent or orchestrator")
    for sentence in unknown_variables(os.environ):
        err.print(f"note: {sentence}", markup=False, soft_wrap=True)
    programs = PROGRAMS if program is None else (program,)
    return {name: configured(name, {}, os.environ, config)[0] for name in programs}
