"""`legion status`: how a group does, once or all the time."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.group_options import BASE_TOPIC, BROKER, CREDENTIALS, where
from legion_iot.errors import RequestError

if TYPE_CHECKING:
    from legion_iot.orchestrator.group_view import GroupView


def status(
    watch: bool = typer.Option(False, "--watch", "-w", help="Go on showing it; q or Ctrl-C ends."),
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path | None = CREDENTIALS,
    as_json: bool = typer.Option(
        False, "--json", help="Print one JSON object; with --watch, one on a line of its own at each change."
    ),
) -> None:
    """Show how a group does: its agents, its models and their plans, its requests.

    On a terminal it is a table; in a pipe a line for each agent and model, and with --watch, a line for each change.
    What the figures mean: docs/status.md.

    Exits with 8 where no orchestrator is online, after showing who is. With --watch it waits for one instead, also for
    a broker that goes away; q ends it with 0, Ctrl-C with 130.

    Example: legion status --watch --broker mqtt://192.168.1.10
    """
    from legion_iot.orchestrator.following import look  # noqa: PLC0415 — loads paho
    from legion_iot.orchestrator.group_view import group_view  # noqa: PLC0415
    from legion_iot.wire.topics import Topics  # noqa: PLC0415

    address, base = where(broker, base_topic, credentials)
    if watch:
        from legion_iot.cli.status_watch import watch as go_on  # noqa: PLC0415

        go_on(address, base, as_json)
        return
    view = group_view(look(address, Topics(base)))
    if as_json:
        typer.echo(json_line(view, str(address), base))
    elif is_for_people():
        _show(view, str(address), base)
    else:
        typer.echo("\n".join(plain(view, str(address), base).values()))
    if not view.orchestrator.present:
        raise RequestError(
            f"no orchestrator is online below {base!r} at {address}; start one with: legion orchestrator run"
        )


def is_for_people() -> bool:
    """Whether standard output is a terminal that can do more than print."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _show(view: GroupView, broker: str, base: str) -> None:
    from legion_iot.cli.console import out  # noqa: PLC0415 — loads rich
    from legion_iot.cli.status_screen import Heading, screen  # noqa: PLC0415

    out.print(screen(view, Heading(broker, base), out.width))


def json_line(view: GroupView, broker: str, base: str, connected: bool = True) -> str:
    """The view for programs, as docs/schemas/status.json says."""
    head: dict[str, Any] = {"schema": 1, "broker": broker, "base_topic": base, "connected": connected}
    return json.dumps({**head, **dataclasses.asdict(view)}, allow_nan=False)


def plain(view: GroupView, broker: str, base: str, connected: bool = True) -> dict[tuple[str, str], str]:
    """A line for the group and for each agent and model, by kind and name."""
    from legion_iot.cli.plain_lines import fields, line  # noqa: PLC0415
    from legion_iot.orchestrator.group_view import AgentView, LinkView, ModelView, RequestsView  # noqa: PLC0415

    head: dict[str, Any] = {"broker": broker, "connected": connected}
    head |= {"orchestrator": view.orchestrator.state, "detail": view.orchestrator.detail}
    lines = {("group", base): line("group", base, head | fields(RequestsView, view.requests))}
    for agent in view.agents:
        link = fields(LinkView, agent.link, prefix="link_")
        lines["agent", agent.name] = line("agent", agent.name, fields(AgentView, agent, "name", "link") | link)
    for model in view.models:
        lines["model", model.name] = line("model", model.name, fields(ModelView, model, "name"))
    return lines
