"""`legion zoo`: networks by name."""

from __future__ import annotations

import json

import typer

from legion_iot.cli.console import out, progress_line

app = typer.Typer(help="Networks to try, by name.", no_args_is_help=True)


@app.command("list")
def list_networks(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """List the networks of the zoo.

    Example: legion zoo list --json
    """
    from rich.table import Table  # noqa: PLC0415 — takes time

    from legion_iot import zoo  # noqa: PLC0415 — loads numpy

    entries = zoo.catalogue()
    if as_json:
        rows = [
            {
                "name": e.name, "kind": e.kind, "input": list(e.input_size), "gflop": e.gflop,
                "parameters": e.parameters, "download_bytes": e.download_bytes, "licence": e.licence,
                "source": e.source, "description": e.description,
            }
            for e in entries
        ]  # fmt: skip
        typer.echo(json.dumps({"schema": 1, "networks": rows}))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "KIND", "INPUT", "GFLOP", "PARAMETERS", "DOWNLOAD", "LICENCE"):
        right = title in ("GFLOP", "PARAMETERS", "DOWNLOAD")
        table.add_column(title, justify="right" if right else "left", no_wrap=title != "LICENCE")
    for e in entries:
        download = f"{e.download_bytes / 1e6:.1f} MB" if e.download_bytes else "—"
        size = f"{e.input_size[0]}×{e.input_size[1]}"
        table.add_row(e.name, e.kind, size, f"{e.gflop:.2f}", f"{e.parameters / 1e6:.1f} M", download,
                      _short(e.licence) if e.kind == "trained" else "—")  # fmt: skip
    out.print(table)


def _short(licence: str) -> str:
    """Without what it applies to: `zoo get` and --json tell that."""
    return ", ".join(dict.fromkeys(part.split(" (")[0] for part in licence.split(", ")))


@app.command("get")
def get_network(
    name: str = typer.Argument(help="A name from `legion zoo list`."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Make or download a network; prints where its .tflite file is.

    Example: legion zoo get hed
    """
    from legion_iot import zoo  # noqa: PLC0415 — loads numpy

    with progress_line(quiet=as_json) as progress:
        model = zoo.get(name, progress)
    if as_json:
        answer = {"schema": 1, "name": name, "path": str(model.path), "answer": model.kind_of_answer,
                  "licence": model.licence, "source": model.entry.source}  # fmt: skip
        typer.echo(json.dumps(answer))
        return
    out.print(f"{name}: {model.entry.description}", markup=False, soft_wrap=True)
    out.print(f"licence: {model.licence}, from {model.entry.source}", markup=False, soft_wrap=True)
    typer.echo(str(model.path))
