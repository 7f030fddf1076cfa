"""`legion lab`: a group of weak, unequal devices on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.console import err, out, progress_line
from legion_iot.errors import UsageError

if TYPE_CHECKING:
    from legion_iot.lab.spec import Device, LabSpec
    from legion_iot.lab.state import DeviceState, LabState

app = typer.Typer(help="Emulated devices on this machine: slow processors, shaped links.", no_args_is_help=True)


@app.command("up")
def up(
    spec: Path | None = typer.Argument(None, help="A TOML file that describes the devices (docs/lab.md)."),
    preset: str | None = typer.Option(None, help="A group by name, such as legion-6f, legion-3f3o or pi-mixed."),
    rootless: bool = typer.Option(False, "--rootless", help="Do without the kernel's means, as for a user."),
) -> None:
    """Start a broker and emulated devices; they go on until `legion lab down`.

    Example: legion lab up --preset legion-3f3o
    """
    from legion_iot.lab.running import lab_up  # noqa: PLC0415 — loads numpy and the transport

    wanted = find(spec, preset)
    with progress_line() as progress:
        state = lab_up(wanted, lambda text: progress(text, None), rootless)
    count = len(state.devices)
    out.print(f"{state.name} is up: {count} device{'s' if count > 1 else ''}", markup=False, soft_wrap=True)
    _show(state)
    topic = "" if state.base_topic == "legion" else f" --base-topic {state.base_topic}"
    out.print(
        f"use it with: legion orchestrator run MODEL --broker {state.broker}{topic}", markup=False, soft_wrap=True
    )


def find(spec: Path | None, preset: str | None) -> LabSpec:
    """The lab that is meant; raises UsageError or InputError."""
    from legion_iot.lab.presets import find_preset  # noqa: PLC0415
    from legion_iot.lab.spec import read_spec  # noqa: PLC0415

    if (spec is None) == (preset is None):
        raise UsageError("give either a TOML file or --preset, such as --preset legion-3f3o")
    return read_spec(spec) if spec is not None else find_preset(preset or "")


@app.command("down")
def down() -> None:
    """End the lab, and remove what a killed one has left behind.

    Example: legion lab down
    """
    from legion_iot.lab.running import lab_down  # noqa: PLC0415

    ended = lab_down()
    out.print(f"ended: {', '.join(ended)}" if ended else "no lab is up, and nothing was left of one", markup=False)


@app.command("status")
def status(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """Show the lab, what holds its devices to their speed, and how well the last self-test found it held.

    Example: legion lab status --json
    """
    from legion_iot.lab.running import UP, all_labs  # noqa: PLC0415
    from legion_iot.lab.selftest import read_result  # noqa: PLC0415

    labs = all_labs()
    lab = next((each for each in labs if each.kind == UP and each.alive), None)
    killed = [each.name for each in labs if not each.alive]
    tested = read_result(lab) if lab else None
    if as_json:
        typer.echo(json.dumps({
            "schema": 1, "up": lab is not None, "lab": None if lab is None else lab_json(lab),
            "self_test": tested, "killed": killed,
        }))  # fmt: skip
        return
    if lab is None:
        out.print("no lab is up", markup=False)
    else:
        out.print(f"{lab.name}: {lab.phase} {lab.detail}".rstrip(), markup=False, soft_wrap=True)
        _show(lab)
        out.print(_tested(tested), markup=False, soft_wrap=True)
    if killed:
        err.print(f"left by a lab that was killed: {', '.join(killed)}; legion lab down removes it", markup=False)


@app.command("presets")
def presets(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """List the groups that `--preset` knows.

    Example: legion lab presets
    """
    from rich.table import Table  # noqa: PLC0415 — takes time

    from legion_iot.lab.presets import presets as known  # noqa: PLC0415

    if as_json:
        listed = [
            {"name": name, "devices": [{"name": d.name, "board": d.board} for d in lab.devices], "cores": lab.load}
            for name, lab in known().items()
        ]
        typer.echo(json.dumps({"schema": 1, "presets": listed}))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("PRESET", "DEVICES", "CORES"):
        table.add_column(title, justify="right" if title == "CORES" else "left", no_wrap=True)
    for name, lab in known().items():
        boards = [device.board for device in lab.devices]
        counts = ", ".join(f"{boards.count(board)} × {board}" for board in dict.fromkeys(boards))
        table.add_row(name, counts, f"{lab.load:.2f}")
    out.print(table)


def link_text(device: Device) -> str:
    """A link as people write it."""
    link = device.link
    up, down = ("no limit" if rate is None else f"{rate:g}" for rate in (link.up_mbit, link.down_mbit))
    text = f"{up} Mbit/s" if up == down != "no limit" else "no limit" if up == down else f"{up} up, {down} down Mbit/s"
    if link.delay_ms:
        text += f", {link.delay_ms:g} ms"
    return text + (f", {link.loss_percent:g} % lost" if link.loss_percent else "")


def classes(lab: LabState) -> list[str]:
    """A line for each kind of device: which ones, how fast, and what holds them so."""
    kinds: dict[str, list[str]] = {}
    for each in lab.devices:
        device = each.device
        text = f"{device.board}, {device.cpu_share:g} of a core ({each.cpu_by}), {link_text(device)} ({each.link_by})"
        kinds.setdefault(text, []).append(device.name)
    return [f"{', '.join(names)}: {text}" for text, names in kinds.items()]


def _show(lab: LabState) -> None:
    from rich.table import Table  # noqa: PLC0415 — takes time

    table = Table(box=None, pad_edge=False)
    for title in ("DEVICE", "BOARD", "CORES", "LINK", "CPU HELD BY", "LINK HELD BY", "AGENT"):
        table.add_column(title, justify="right" if title == "CORES" else "left")
    for each in lab.devices:
        device = each.device
        table.add_row(
            device.name, device.board, f"{device.cpu_share:g}", link_text(device), each.cpu_by, each.link_by,
            _agent(each),
        )  # fmt: skip
    out.print(table)
    for reason in lab.reasons:
        out.print(reason, markup=False, soft_wrap=True, style="dim")
    if lab.broker:
        out.print(f"broker: {lab.broker} ({lab.broker_kind})", markup=False, soft_wrap=True)


def _agent(state: DeviceState) -> str:
    if state.process is None:
        return "not started"
    return f"pid {state.process.pid}" if state.process.alive else "ended"


def _tested(result: dict[str, Any] | None) -> str:
    if result is None:
        return "not tested yet: legion bench lab"
    worst = result["worst"]
    return f"self-test at {result['at']}: " + (
        f"all within {worst:.1f} % of what is asked" if result["ok"] else f"off by up to {worst:.1f} %, see its report"
    )


def lab_json(lab: LabState) -> dict[str, Any]:
    """A lab for programs."""
    return {
        "name": lab.name,
        "phase": lab.phase,
        "pid": lab.keeper.pid if lab.keeper else None,
        "broker": lab.broker,
        "broker_kind": lab.broker_kind,
        "base_topic": lab.base_topic,
        "reasons": list(lab.reasons),
        "devices": [
            {
                **asdict(each.device),
                "cpu_by": each.cpu_by,
                "link_by": each.link_by,
                "memory_by": each.memory_by,
                "broker": each.broker,
                "pid": each.process.pid if each.process else None,
                "alive": each.process is not None and each.process.alive,
            }
            for each in lab.devices
        ],
    }
