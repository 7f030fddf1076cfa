"""`legion profile`: what was measured on each device, and measuring it anew."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.console import out, progress_line
from legion_iot.cli.group_options import BASE_TOPIC, BROKER, member_of, operator_of

if TYPE_CHECKING:
    from legion_iot.orchestrator.profile_view import DeviceProfile

_CREDENTIALS: Any = typer.Option(
    None,
    envvar="LEGION_CREDENTIALS",
    help="The bundle of `legion broker add-device --role observer`, or operator for --again.",
)


def profile(
    devices: list[str] | None = typer.Argument(None, metavar="[DEVICE]...", help="Only these.  [default: all]"),
    again: bool = typer.Option(
        False, "--again", help="Have them measured anew, and others of their classes of board; requests go on."
    ),
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path | None = _CREDENTIALS,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show what was measured on each device of a group, or have it measured anew.

    Of each: its link, samples of parts of models (its own, of those of its class of board), when the last one was
    taken, and what the device is predicted to need for a request to each model alone.

    Example: legion profile pi-1 --again --broker mqtt://192.168.1.10
    """
    from legion_iot.orchestrator.profile_view import read_profiles  # noqa: PLC0415 — loads numpy

    address, topic, _ = member_of(broker, base_topic, credentials, "observer", "operator")
    with progress_line(quiet=as_json) as progress:
        if again:
            with operator_of(broker, base_topic, credentials) as operator:
                operator.replan("", devices or (), progress)
        progress("reading what was measured", None)
        found = read_profiles(address, topic, devices or ())
    if as_json:
        typer.echo(json.dumps({"schema": 1, "devices": [asdict(each) for each in found]}, allow_nan=False))
        return
    _show(found)


def _show(found: tuple[DeviceProfile, ...]) -> None:
    from rich.table import Table  # noqa: PLC0415

    models = sorted({alone.model for each in found for alone in each.alone})
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("AGENT", "STATE"):
        table.add_column(title, overflow="fold")
    for title in ("RTT ms", "LINK Mbit/s", "SAMPLES", "MEASURED"):
        table.add_column(title, justify="right", no_wrap=True)
    for model in models:
        table.add_column(f"{model} ms", justify="right", overflow="fold")
    for each in found:
        link = each.link
        on_link = ["–"] * 2
        if link is not None:
            on_link = [f"{link.latency * 1e3:.1f}", f"{link.up * 8e-6:.0f}/{link.down * 8e-6:.0f}"]
        alone = {of.model: f"{of.ms:.1f}" for of in each.alone}
        samples = f"{each.samples} of {each.of_class}"
        row = (each.agent, each.state, *on_link, samples, _when(each.measured), *(alone.get(m, "–") for m in models))
        table.add_row(*row)
    out.print(table)
    for board in dict.fromkeys(each.board for each in found):
        names = ", ".join(each.agent for each in found if each.board == board)
        out.print(f"{names}: {board}", markup=False, soft_wrap=True)
    for each in found:
        if each.doubt:
            out.print(f"{each.agent}: {each.doubt}", markup=False, soft_wrap=True)


def _when(measured: int | None) -> str:
    from datetime import datetime  # noqa: PLC0415 — only here

    return "–" if measured is None else datetime.fromtimestamp(measured).astimezone().strftime("%d %b %H:%M")
