"""`legion doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.console import out, progress_line
from legion_iot.cli.group_options import BASE_TOPIC, BROKER, member_of

if TYPE_CHECKING:
    from legion_iot.doctor.broker import Visit
    from legion_iot.doctor.findings import Finding

_CREDENTIALS: Any = typer.Option(
    None, envvar="LEGION_CREDENTIALS", help="The bundle of any member; those of observers and operators see most."
)
_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "red")}


def doctor(
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path | None = _CREDENTIALS,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Find out what is wrong with this machine, the broker or the group, and what to do.

    Looks at the runtime, clock, memory and disk of this machine; at the broker's limits and delays, and certificates;
    at the orchestrator, and at agents and their versions. Ends with 1 where something failed.

    Example: legion doctor --broker mqtt://192.168.1.10
    """
    visit = _visit(broker, base_topic, credentials)
    found: list[Finding] = []
    with progress_line(quiet=as_json) as progress:
        for finding in _examine(visit, progress):
            found.append(finding)
    failed = any(finding.level == "failure" for finding in found)
    if as_json:
        typer.echo(json.dumps({"schema": 1, "ok": not failed, "findings": [asdict(each) for each in found]}))
    else:
        _show(found)
    if failed:
        raise typer.Exit(1)


def _visit(broker: str, base_topic: str, credentials: Path | None) -> Visit:
    """Raises UsageError or InputError."""
    from legion_iot.doctor.broker import Visit  # noqa: PLC0415 — loads paho
    from legion_iot.wire.topics import Topics  # noqa: PLC0415

    address, topic, bundle = member_of(broker, base_topic, credentials)
    return Visit(address, Topics(topic), bundle, bool(broker or bundle))


def _examine(visit: Visit, progress: Any) -> Iterator[Finding]:
    from legion_iot.doctor import broker, group, machine  # noqa: PLC0415 — loads numpy and the runtime
    from legion_iot.files import state_directory  # noqa: PLC0415

    progress("looking at this machine", None)
    yield from machine.examine(state_directory())
    progress(f"looking at {visit.address}", None)
    reached = False
    for finding in broker.examine(visit):
        reached = reached or (finding.check == "broker" and finding.level == "ok")
        yield finding
    if reached:
        progress("looking at the group", None)
        yield from group.examine(visit.address, visit.topics)


def _show(found: list[Finding]) -> None:
    about = ""
    for finding in found:
        if finding.about != about:
            about = finding.about
            out.print(f"{about}:", markup=False)
        mark, style = _MARKS[finding.level]
        out.print(f"  {mark} {finding.check}: {finding.found}", style=style, markup=False, soft_wrap=True)
        if finding.cure and finding.level != "ok":
            out.print(f"      → {finding.cure}", markup=False, soft_wrap=True)
    counts = {level: sum(each.level == level for each in found) for level in ("failure", "warning")}
    if any(counts.values()):
        texts = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
        out.print(", ".join(texts), markup=False)
    else:
        out.print("nothing is wrong", markup=False)
