"""`legion cost`: what the units and blocks of a model cost on each device of a group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.console import err, find_model, out, progress_line
from legion_iot.cli.group_options import BASE_TOPIC, BROKER, CREDENTIALS, DEVICES, known_group
from legion_iot.errors import UsageError

if TYPE_CHECKING:
    from legion_iot.planning.fits import Array
    from legion_iot.planning.matrices import CostMatrices
    from legion_iot.planning.problem import Group


def cost(
    model: str = typer.Argument(help="A .tflite file, or a name from `legion zoo list`."),
    devices: Path = DEVICES,
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path = CREDENTIALS,
    device: str = typer.Option("", help="One device's matrices, its halos included, instead of the group's."),
    input_shape: str = typer.Option("", help="For a model with open sizes, e.g. 1x320x320x3."),
    picture: Path = typer.Option(None, help="Draw all matrices as heat maps into a .png file."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show Legion's cost matrices: S, E, R and A of each device, and T of the group.

    Without --devices, of the agents that are online at a broker, by what they have measured.

    Example: legion cost vgg16 --devices group.toml --picture cost.png
    """
    from legion_iot.bench.model_file import open_network  # noqa: PLC0415 — loads numpy
    from legion_iot.cli import cost_picture, cost_tables  # noqa: PLC0415
    from legion_iot.cli.picture import check_picture  # noqa: PLC0415
    from legion_iot.planning.costs import Predictor  # noqa: PLC0415
    from legion_iot.planning.matrices import cost_matrices  # noqa: PLC0415

    if picture is not None:
        check_picture(picture)
    told = known_group(devices, broker, base_topic, credentials)
    if device and device not in told.group.names:
        raise UsageError(
            f"there is no device {device!r} in {devices or 'the group'}; it names {', '.join(told.group.names)}"
        )
    with progress_line(quiet=as_json) as progress:
        path, name = find_model(model, progress)
        network = open_network(path, input_shape)
    matrices = cost_matrices(Predictor(network, told.group, told.samples, told.speeds, told.overheads))
    if picture is not None and network.units:
        title = f"{name} on {len(told.group.devices)} devices"
        cost_picture.draw(matrices, device or matrices.devices[0], title, picture)
    if as_json:
        typer.echo(json.dumps({"schema": 1, "model": name, **_to_json(matrices, told.group)}, allow_nan=False))
        return
    if not network.units:
        err.print(
            f"nothing of {name} can be tiled, so it has no blocks: {network.ended_by}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    elif device:
        cost_tables.show_device(matrices, device)
    else:
        cost_tables.show_group(matrices)
    if picture is not None and network.units:
        out.print(f"picture saved as {picture}", markup=False, soft_wrap=True)


def _to_json(matrices: CostMatrices, group: Group) -> dict[str, Any]:
    """Seconds; rows as [first, end], half open; null below the diagonal."""
    devices = [
        {
            "name": name, "board": group[name].board,
            "rows": [[strips[name].start, strips[name].stop] for strips in matrices.rows],
            "S": matrices.send[number].tolist(), "E": matrices.run[number].tolist(),
            "E_deviation": matrices.run_deviation[number].tolist(), "R": matrices.get[number].tolist(),
            "A": _upper(matrices.enlargement[number]),
        }
        for number, name in enumerate(matrices.devices)
    ]  # fmt: skip
    return {"devices": devices, "T": _upper(matrices.block), "T_deviation": _upper(matrices.block_deviation)}


def _upper(values: Array) -> list[list[float | None]]:
    return [[None if k < first else float(v) for k, v in enumerate(row)] for first, row in enumerate(values)]
