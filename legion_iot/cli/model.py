"""`legion model`: what a network is made of, and which ones a group serves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.console import err, find_model, out, progress_line
from legion_iot.cli.group_options import BASE_TOPIC, BROKER, OPERATOR_CREDENTIALS, operator_of
from legion_iot.interruption import temporary_directory

if TYPE_CHECKING:
    pass

app = typer.Typer(help="Look at models, and say which ones a group serves.", no_args_is_help=True)


@app.command("add")
def add(
    model: str = typer.Argument(help="A .tflite file, or a name from `legion zoo list`."),
    name: str = typer.Option("", help="What it is asked for by, on <base>/infer/<name>.  [default: the file's name]"),
    replace: bool = typer.Option(False, "--replace", help="Even where that name is another model's."),
    input_shape: str = typer.Option("", help="For a model with open sizes, e.g. 1x320x320x3."),
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path | None = OPERATOR_CREDENTIALS,
) -> None:
    """Have a group serve one more model, from now on and after restarts; the file is sent to its orchestrator.

    Example: legion model add cat-detector.tflite --name cats --broker mqtt://192.168.1.10
    """
    from legion_iot_agent.shapes import static_file  # noqa: PLC0415 — loads numpy

    with (
        progress_line() as progress,
        temporary_directory("legion-model-") as scratch,
        operator_of(broker, base_topic, credentials) as operator,
    ):
        path, found = find_model(model, progress)
        operator.add(static_file(path, scratch, input_shape), name or found, replace, progress)
    err.print(f"{name or found} is served, on {operator.topics.infer(name or found)}", markup=False, soft_wrap=True)


@app.command("list")
def list_models(
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path | None = OPERATOR_CREDENTIALS,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """List the models that a group serves: in which phase each is, on which agents, and whether a restart keeps it.

    Example: legion model list --broker mqtt://192.168.1.10
    """
    with operator_of(broker, base_topic, credentials) as operator:
        models = operator.models()
    if as_json:
        typer.echo(json.dumps({"schema": 1, "models": [asdict(model) for model in models]}))
        return
    from rich.table import Table  # noqa: PLC0415 — takes time

    table = Table("name", "input", "size", "phase", "on", "kept", "SHA-256")
    for each in models:
        where = each.error or ", ".join(each.agents) or each.detail
        shape = f"{'×'.join(map(str, each.input_shape))} {each.input_dtype}"
        size = f"{each.size / 1e6:.1f} MB" if each.size >= 1e6 else f"{each.size / 1e3:.0f} kB" if each.size else ""
        phase = "broken" if each.error else each.phase
        table.add_row(each.name, shape, size, phase, where, "yes" if each.kept else "no", each.sha256[:12])
    out.print(table)


@app.command("remove")
def remove(
    name: str = typer.Argument(help="Its name in `legion model list`."),
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path | None = OPERATOR_CREDENTIALS,
) -> None:
    """Have a group serve a model no more: requests under way end, and agents free what they hold of it.

    Example: legion model remove cats --broker mqtt://192.168.1.10
    """
    with operator_of(broker, base_topic, credentials) as operator:
        operator.remove(name)
    err.print(f"{name} is served no more", markup=False, soft_wrap=True)


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
    from rich.table import Table  # noqa: PLC0415 — takes time

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
