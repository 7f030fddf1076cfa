"""`legion devices`: what the agents of a group are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from legion_iot.cli.console import err, out
from legion_iot.cli.figures import UNKNOWN, bytes_text, printable, seconds_text, span_text
from legion_iot.cli.group_options import BASE_TOPIC, BROKER, CREDENTIALS, where
from legion_iot.cli.plain_lines import fields, line
from legion_iot.cli.status import is_for_people

if TYPE_CHECKING:
    from rich.table import Table

    from legion_iot.orchestrator.group_view import DeviceView

SHA256 = 64  # digits, more than a name can have


def devices(
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path | None = CREDENTIALS,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """List the agents of a group: what each device is, its link, and the models it holds.

    On a terminal it is a table, with more columns where it is wide; in a pipe a line for each agent. What the figures
    mean: docs/status.md.

    Example: legion devices --broker mqtt://192.168.1.10
    """
    from legion_iot.orchestrator.following import look  # noqa: PLC0415 — loads paho
    from legion_iot.orchestrator.group_view import DeviceView, LinkView, device_views  # noqa: PLC0415
    from legion_iot.wire.topics import Topics  # noqa: PLC0415

    address, base = where(broker, base_topic, credentials)
    views = device_views(look(address, Topics(base)))
    if as_json:
        head = {"schema": 1, "broker": str(address), "base_topic": base}
        typer.echo(json.dumps({**head, "devices": [dataclasses.asdict(view) for view in views]}, allow_nan=False))
    elif is_for_people() and views:
        out.print(_table(views, out.width))
    else:
        for view in views:
            link = fields(LinkView, view.link, prefix="link_")
            typer.echo(line("device", view.name, fields(DeviceView, view, "name", "link") | link))
    if not views:
        said = f"no agent has said anything below {base!r} at {address}; start agents with: legion-agent --broker URL"
        err.print(said, markup=False, soft_wrap=True)


def _table(views: Sequence[DeviceView], width: int) -> Table:
    """A row for each device."""
    from rich.text import Text  # noqa: PLC0415 — scripts read no tables

    from legion_iot.cli.columns import Column, table  # noqa: PLC0415
    from legion_iot.cli.status_screen import is_gone, link_rates, state_style  # noqa: PLC0415

    def state(view: DeviceView) -> Text:
        return Text(printable(view.state), "yellow" if view.problems else state_style(view.state))

    columns: list[Column[DeviceView]] = [
        Column("DEVICE", lambda view: view.name, is_text=True, least=8),
        Column("STATE", state, is_text=True),
        Column("BOARD", lambda view: view.board or UNKNOWN, is_text=True, least=8),
        Column("CORES", _cores),
        Column("MEMORY", lambda view: UNKNOWN if view.memory_bytes is None else bytes_text(view.memory_bytes)),
        Column("RUNTIME", _runtime, is_text=True, extra=True),
        Column("KERNELS", lambda view: view.kernel_path or UNKNOWN, is_text=True, extra=True),
        Column("VERSION", lambda view: view.version or UNKNOWN, is_text=True, extra=True),
        Column("LINK Mbit/s", lambda view: link_rates(view.link)),
        Column("LATENCY", lambda view: seconds_text(view.link.latency_ms / 1e3) if view.link else UNKNOWN),
        Column("HEARD", lambda view: UNKNOWN if view.silent_s is None else f"{span_text(view.silent_s)} ago",
               extra=True),
        Column("MODELS", _models, is_text=True, extra=True),
    ]  # fmt: skip
    return table(columns, views, width, is_gone)


def _cores(view: DeviceView) -> str:
    """How many, and how many of them compute, or how much of them it may use, where that is less."""
    if view.cores is None:
        return UNKNOWN
    used = view.cpu_share or view.threads or view.cores
    return str(view.cores) if used == view.cores else f"{used:g} of {view.cores}"


def _runtime(view: DeviceView) -> str:
    return f"{view.runtime} {view.runtime_version}".strip() or UNKNOWN


def _models(view: DeviceView) -> str:
    """A SHA-256 by its first digits."""
    return ", ".join(model[:12] if len(model) == SHA256 else model for model in view.models) or UNKNOWN
