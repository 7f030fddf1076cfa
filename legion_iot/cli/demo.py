"""`legion demo`: the main job in one command."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from legion_iot import zoo
from legion_iot.cli.console import err, find_model, out, progress_line
from legion_iot.errors import InputError, UsageError

if TYPE_CHECKING:
    from legion_iot.lab.demonstration import DemoReport, TileReport

DEFAULT_MODEL = "efficientnet-lite0"


def demo(
    model: str = typer.Option(DEFAULT_MODEL, help="A name from `legion zoo list`, or a .tflite file."),
    agents: int = typer.Option(3, help="Agent processes to start."),
    image: Path | None = typer.Option(None, help="A JPEG or PNG picture.  [default: a portrait of Grace Hopper]"),
    requests: int = typer.Option(5, help="How often the picture is sent."),
    broker: str = typer.Option("", help="mqtt://[user[:password]@]host[:port]  [default: a broker of its own]"),
    save: Path | None = typer.Option(None, help="Where a picture answer goes.  [default: <model>.png]"),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of tables."),
) -> None:
    """Classify a picture with several agent processes that compute one network together, over an MQTT broker.

    Example: legion demo --model hed --agents 4 --image cat.jpg
    """
    if agents < 1:
        raise UsageError(f"--agents is {agents}; give 1 or more")
    if requests < 1:
        raise UsageError(f"--requests is {requests}; give 1 or more")
    if image is not None and not image.is_file():
        raise InputError(f"{image}: no such picture; give the path of a JPEG or PNG file (--image)")
    with progress_line(quiet=as_json) as progress:
        progress(f"looking for {model}", None)
        path, name = find_model(model, progress)
        if image is None:
            image = zoo.demo_picture(progress)
        # Imported here, so that a wrong flag is answered before numpy and the runtime are loaded.
        from legion_iot.lab.demonstration import DemoOptions, run_demo  # noqa: PLC0415

        report = run_demo(DemoOptions(path, name, image, agents, requests, broker), lambda text: progress(text, None))
    saved = _save(report, save)
    if as_json:
        typer.echo(json.dumps(_as_json(report, saved)))
    else:
        _print(report, saved)
    if not report.exact:
        raise typer.Exit(1)


def _save(report: DemoReport, path: Path | None) -> Path | None:
    """Write a picture answer, whole or not at all; returns where it is."""
    if report.picture is None:
        return None
    path = path or Path(f"{report.model}.png")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(report.picture)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place (--save)") from None
    return path


def _as_json(report: DemoReport, saved: Path | None) -> dict[str, Any]:
    return {
        "schema": 1,
        "ok": report.exact,
        "model": report.model,
        "image": report.image,
        "broker": report.broker,
        "agents": [
            {
                "name": a.name,
                "pid": a.pid,
                "runtime": a.runtime,
                "whole_model_ms": round(a.whole_model_ms, 3),
                "tiles": a.tiles,
            }
            for a in report.agents
        ],
        "plan": {
            "planner": report.planner,
            "blocks": [
                {
                    "units": list(b.units),
                    "output_shape": list(b.output_shape),
                    "tiles": [_tile_json(t) for t in b.tiles],
                }
                for b in report.blocks
            ],
            "tail": None if report.tail is None else _tile_json(report.tail),
        },
        "answer": [{"index": a.index, "label": a.label, "score": a.score} for a in report.answer],
        "picture": None if saved is None else str(saved),
        "exact": report.exact,
        "max_abs_error": report.max_abs_error,
        "max_rel_error": report.max_rel_error,
        "latency_ms": {
            "median": round(statistics.median(report.latencies_ms), 3),
            "min": round(min(report.latencies_ms), 3),
            "max": round(max(report.latencies_ms), 3),
        },
        "single_device_ms": round(report.single_device_ms, 3),
    }


def _tile_json(tile: TileReport) -> dict[str, Any]:
    return {
        "agent": tile.agent,
        "rows": list(tile.rows),
        "ms": round(tile.milliseconds, 3),
        "bytes_sent": tile.bytes_sent,
    }


def _print(report: DemoReport, saved: Path | None) -> None:
    names = [agent.name for agent in report.agents]
    table = Table(title=f"{report.model} on {len(names)} agents, over {report.broker}", title_justify="left")
    table.add_column("block")
    for name in names:
        table.add_column(name, justify="right")
    for number, block in enumerate(report.blocks, 1):
        tiles = {tile.agent: tile for tile in block.tiles}
        rows, columns, channels = block.output_shape[1:]
        title = f"{number}: units {block.units[0]}–{block.units[1]}\n→ {rows}×{columns}×{channels}"
        table.add_row(title, *(_cell(tiles.get(name)) for name in names), end_section=True)
    if report.tail is not None:
        table.add_row("tail", *(_cell(report.tail, "whole") if name == report.tail.agent else "—" for name in names))
    out.print(table)
    for answer in report.answer[:3]:
        out.print(f"{answer.score:7.1%}  {answer.label}", markup=False, soft_wrap=True)
    if saved is not None:
        out.print(f"picture saved as {saved}", markup=False, soft_wrap=True)
    median = statistics.median(report.latencies_ms)
    out.print(
        f"latency: median {median:.1f} ms of {len(report.latencies_ms)} requests "
        f"({min(report.latencies_ms):.1f}–{max(report.latencies_ms):.1f}), published to answered\n"
        f"whole model on one device: {report.single_device_ms:.1f} ms, computing only",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if report.exact:
        out.print("the outputs equal the whole model's, bit for bit", style="green")
    else:
        err.print(
            f"the outputs differ from the whole model's: by {report.max_abs_error:g} at most "
            f"({report.max_rel_error:.2g} of the largest value)", style="red",
        )  # fmt: skip


def _cell(tile: TileReport | None, what: str = "") -> str:
    if tile is None:
        return "—"
    what = what or f"rows {tile.rows[0]}–{tile.rows[1] - 1}"
    return f"{what}\n{tile.milliseconds:.1f} ms, sent {_bytes(tile.bytes_sent)}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
