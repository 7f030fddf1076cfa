"""`legion model`: what a network is made of."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.table import Table

from legion_iot.cli.console import find_model, out, progress_line

app = typer.Typer(help="Look at models.", no_args_is_help=True)


@app.command("show")
def show(
    model: str = typer.Argument(help="A .tflite file, or a name from `legion zoo list`."),
    input_shape: str = typer.Option("", help="For a model with open sizes, e.g. 1x320x320x3."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show a model's units: what each computes, what a cut after it costs, and where the trunk ends and why.

    Example: legion model show resnet18
    """
    from legion_iot.bench.model_file import open_network  # noqa: PLC0415
    from legion_iot.bench.units import describe_units  # noqa: PLC0415 — loads numpy

    with progress_line(quiet=as_json) as progress:
        path, name = find_model(model, progress)
        network = open_network(path, input_shape)
    units = describe_units(network)
    tail = [network.graph.ops[index].label for index in network.tail]
    if as_json:
        rows = [
            {
                "unit": u.index, "ops": list(u.ops), "output_shape": list(u.output_shape), "mflop": round(u.mflop, 3),
                "weight_bytes": u.weight_bytes, "live_tensors": u.live_tensors, "live_bytes": u.live_bytes,
                "receptive_field": list(u.receptive_field),
            }
            for u in units
        ]  # fmt: skip
        graph = network.graph
        shapes: dict[str, Any] = {
            "inputs": [list(graph.tensors[i].shape) for i in graph.inputs],
            "outputs": [list(graph.tensors[i].shape) for i in graph.outputs],
        }
        typer.echo(json.dumps({"schema": 1, "model": name, **shapes, "units": rows, "trunk_units": len(rows),
                               "trunk_ended_by": network.ended_by or None, "tail": tail}))  # fmt: skip
        return
    table = Table(box=None, pad_edge=False)
    for title in ("UNIT", "OPS", "OUTPUT", "MFLOP", "WEIGHTS", "LIVE AT THE CUT", "FIELD"):
        table.add_column(title, justify="left" if title in ("OPS", "OUTPUT") else "right", overflow="fold")
    for u in units:
        live = f"{u.live_bytes / 1e3:.1f} kB" + (f" in {u.live_tensors}" if u.live_tensors > 1 else "")
        field = f"{u.receptive_field[0]}×{u.receptive_field[1]}"
        table.add_row(str(u.index), _joined(u.ops), "×".join(map(str, u.output_shape[1:])), f"{u.mflop:.1f}",
                      f"{u.weight_bytes / 1e3:.1f} kB", live, field)  # fmt: skip
    out.print(table)
    out.print(f"trunk: {len(units)} units, {sum(u.mflop for u in units) / 1e3:.2f} GFLOP", markup=False, soft_wrap=True)
    if tail:
        tail_line = f"tail: {_joined(tuple(tail))}, run whole on one device ({network.ended_by})"
        out.print(tail_line, markup=False, soft_wrap=True)


def _joined(ops: tuple[str, ...]) -> str:
    """Op names for people: lower case, repeats counted."""
    counts: dict[str, int] = {}
    for op in ops:
        counts[op.lower()] = counts.get(op.lower(), 0) + 1
    return ", ".join(f"{count} {op}" if count > 1 else op for op, count in counts.items())
