"""`legion demo`: the main job in one command."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.console import check_place, check_wire, err, find_model, finite, progress_line, write_file
from legion_iot.cli.lab import lab_json
from legion_iot.errors import InputError, UsageError

if TYPE_CHECKING:
    from legion_iot.lab.identities import Identities
    from legion_iot.lab.report import DemoReport, TileReport, TurnReport
    from legion_iot.lab.spec import LabSpec

DEFAULT_MODEL = "efficientnet-lite0"


def demo(
    model: str = typer.Option(DEFAULT_MODEL, help="A name from `legion zoo list`, or a .tflite file."),
    agents: int | None = typer.Option(None, help="Agent processes to start.  [default: 3]"),
    lab: str | None = typer.Option(
        None, help="Emulated devices instead: a preset such as legion-3f3o, or a TOML file."
    ),
    image: Path | None = typer.Option(None, help="A JPEG or PNG picture.  [default: a portrait of Grace Hopper]"),
    requests: int = typer.Option(5, help="How often the picture is sent."),
    broker: str = typer.Option(
        "auto",
        help="mqtt://host[:port], or `embedded` or `mosquitto` for a broker of its own; auto: mosquitto where it is "
        "installed, else embedded.",
    ),
    credentials: Path | None = typer.Option(
        None,
        help="A directory with bundles of `legion broker add-device`: of an orchestrator, a client and the agents, who "
        "then meet at the broker the bundles name.",
    ),
    input_shape: str = typer.Option("", help="For a model with open sizes, e.g. 1x320x320x3."),
    save: Path | None = typer.Option(None, help="Where a picture answer goes.  [default: <model>.png]"),
    wire: str = typer.Option(
        "float32",
        help="How float32 maps travel between agents: as they are, or in fewer bytes as float16 or int8. These two "
        "change the numbers; the demo then passes when the outputs differ by no more than 1 % (float16) or 10 % (int8) "
        "of the largest value, and a classifier's best class stays.",
    ),
    planner: str = typer.Option(
        "",
        help="How the plan is found: auto, halo, legion, single, balanced, …  "
        "[default: auto with --lab; else balanced, since processes of one machine are no faster together]",
    ),
    trace: Path | None = typer.Option(
        None, help="Where a trace of every step goes, for chrome://tracing or ui.perfetto.dev."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of tables."),
) -> None:
    """Classify a picture with several agent processes that compute one network together, over an MQTT broker.

    Example: legion demo --model hed --agents 4 --image cat.jpg
    """
    if agents is not None and agents < 1:
        raise UsageError(f"--agents is {agents}; give 1 or more")
    devices = None if lab is None else _devices(lab, agents, broker)
    identities = None if credentials is None else _identities(credentials, agents, broker, lab)
    check_wire(wire)
    if requests < 1:
        raise UsageError(f"--requests is {requests}; give 1 or more")
    if image is not None and not image.is_file():
        raise InputError(f"{image}: no such picture; give the path of a JPEG or PNG file (--image)")
    check_place(save, "--save")
    check_place(trace, "--trace")
    with progress_line(quiet=as_json) as progress:
        progress(f"looking for {model}", None)
        file, name = find_model(model, progress)
        from legion_iot import zoo  # noqa: PLC0415 — loads numpy
        from legion_iot.model.description import describe  # noqa: PLC0415
        from legion_iot_agent.shapes import open_static  # noqa: PLC0415 — loads the schema

        describe(open_static(file, input_shape))  # what is no model is refused before a picture is fetched for it
        if image is None:
            image = zoo.demo_picture(progress)
        # Imported here, so that a wrong flag is answered before the transport is loaded.
        from legion_iot.lab.demonstration import DemoOptions, run_demo  # noqa: PLC0415
        from legion_iot.orchestrator.planning import find_planner  # noqa: PLC0415

        options = DemoOptions(
            file, name, image, agents or 3, requests, broker, input_shape, devices, trace is not None, wire,
            identities=identities,
            planner=find_planner(planner or ("balanced" if devices is None else "auto")),
        )  # fmt: skip
        report = run_demo(options, lambda text: progress(text, None))
    saved = _save(report, save)
    if trace is not None:
        write_file(trace, json.dumps(report.trace, separators=(",", ":"), allow_nan=False).encode(), "--trace")
    if as_json:
        typer.echo(json.dumps({**_as_json(report, saved), **_trace_json(report, trace)}))
    else:
        from legion_iot.cli.demo_tables import show, show_trace  # noqa: PLC0415 — takes time

        show(report, saved)
        if trace is not None:
            show_trace(report, trace)
        if save is not None and saved is None:
            err.print(f"{save}: not written, since the answer of {name} is no picture", markup=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(1)


def _devices(lab: str, agents: int | None, broker: str) -> LabSpec:
    """The lab that `--lab` names; raises UsageError or InputError."""
    from legion_iot.lab.presets import find_lab  # noqa: PLC0415

    if agents is not None:
        raise UsageError("--agents and --lab do not go together: the lab says which devices there are")
    spec = find_lab(lab)
    if broker == "auto":
        return spec
    if broker not in ("mosquitto", "embedded"):
        raise UsageError("--broker URL and --lab do not go together: a lab brings a broker of its own")
    return replace(spec, broker="mosquitto" if broker == "mosquitto" else "embedded")


def _identities(directory: Path, agents: int | None, broker: str, lab: str | None) -> Identities:
    """Who the bundles in a directory say that we are; raises UsageError or InputError."""
    from legion_iot.lab.identities import read_identities  # noqa: PLC0415

    if lab is not None or broker in ("mosquitto", "embedded"):
        raise UsageError("--credentials are for a broker that is there already: leave --lab and --broker KIND out")
    return read_identities(directory, agents)


def _save(report: DemoReport, path: Path | None) -> Path | None:
    """Write a picture answer; returns where it is."""
    if report.picture is None:
        return None
    path = path or Path(f"{report.model}.png")
    write_file(path, report.picture, "--save")
    return path


def _as_json(report: DemoReport, saved: Path | None) -> dict[str, Any]:
    return {
        "schema": 1,
        "ok": report.ok,
        "model": report.model,
        "image": report.image,
        "broker": report.broker,
        "lab": None if report.lab is None else lab_json(report.lab),
        "agents": [
            {
                "name": a.name,
                "pid": a.pid,
                "board": a.board,
                "runtime": a.runtime,
                "whole_model_ms": None if a.whole_model_ms is None else round(a.whole_model_ms, 3),
                "tiles": a.tiles,
            }
            for a in report.agents
        ],
        "plan": {
            "planner": report.planner,
            "planning": asdict(report.planning),
            "wire": report.wire,
            "wire_used": report.wire_used,
            "packed": [list(pair) for pair in report.packed],
            **_turn_json(report.turns[0]),
            "replicas": [_turn_json(turn) for turn in report.turns[1:]],
        },
        "answer": [{"index": a.index, "label": a.label, "score": a.score} for a in report.answer],
        "picture": None if saved is None else str(saved),
        "trunk_ended_by": report.trunk_ended_by or None,
        "exact": report.exact,
        "max_abs_error": finite(report.max_abs_error),
        "max_rel_error": finite(report.max_rel_error),
        "bound": report.bound,
        "top_class_stays": report.top_class_stays,
        "latency_ms": {
            "median": round(statistics.median(report.latencies_ms), 3),
            "min": round(min(report.latencies_ms), 3),
            "max": round(max(report.latencies_ms), 3),
        },
        "single_device_ms": round(report.single_device_ms, 3),
    }


def _trace_json(report: DemoReport, path: Path | None) -> dict[str, Any]:
    """Where the trace is, and of its requests: the share of the latency measured, and that of transfers that overlap
    with computing."""
    if path is None or report.trace is None:
        return {"trace": None, "accounted": None}
    about = report.trace["otherData"]
    shown = {"requests": about["requests"], "covered": about["covered"], "overlap": about["overlap"]}
    return {"trace": str(path), "accounted": shown}


def _turn_json(turn: TurnReport) -> dict[str, Any]:
    return {
        "requests": turn.requests,
        "blocks": [
            {
                "units": list(b.units),
                "output_shape": list(b.output_shape),
                "tiles": [_tile_json(t) for t in b.tiles],
                "gathered": None if b.gathered is None else _tile_json(b.gathered),
            }
            for b in turn.blocks
        ],
        "tail": None if turn.tail is None else _tile_json(turn.tail),
    }


def _tile_json(tile: TileReport) -> dict[str, Any]:
    return {
        "agent": tile.agent,
        "rows": list(tile.rows),
        "columns": None if tile.columns is None else list(tile.columns),
        "ms": round(tile.milliseconds, 3),
        "bytes_sent": tile.bytes_sent,
        "parts": tile.parts,
    }
