"""`legion plan`: what each device of a group would do for a model, how long it would take, and why."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from legion_iot.cli.console import check_wire, err, find_model, finite, out, progress_line
from legion_iot.cli.group_options import BASE_TOPIC, BROKER, CREDENTIALS, DEVICES, known_group
from legion_iot.errors import UsageError

if TYPE_CHECKING:
    from legion_iot.bench.verify import Progress, Verdict
    from legion_iot.cli.plan_outcome import Outcome
    from legion_iot.planning.problem import Objective

_OBJECTIVES = ("latency", "throughput")


def plan(
    model: str = typer.Argument(help="A .tflite file, or a name from `legion zoo list`."),
    devices: Path = DEVICES,
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path = CREDENTIALS,
    planner: str = typer.Option("auto", help="Who plans: auto, halo, legion, … (docs/planning.md)."),
    objective: str = typer.Option("latency", help="latency of one request, or throughput: answers in a busy group."),
    explain: bool = typer.Option(False, "--explain", help="Say why: devices left out, cuts, other planners."),
    wire: str = typer.Option(
        "float32",
        help="float16 or int8: plan for float32 maps that travel between agents in that form, and measure here what it "
        "does to the outputs.",
    ),
    picture: Path = typer.Option(None, help="Draw who does what and when into a .png file."),
    input_shape: str = typer.Option("", help="For a model with open sizes, e.g. 1x320x320x3."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Plan a model for a group of devices, and predict how long a request takes.

    Without --devices, for the agents that are online at a broker, by what they have measured.

    Example: legion plan vgg16 --devices group.toml --explain --picture plan.png
    """
    from legion_iot.bench.model_file import open_network  # noqa: PLC0415 — loads numpy
    from legion_iot.cli import plan_outcome, plan_picture, plan_tables  # noqa: PLC0415
    from legion_iot.cli.picture import check_picture  # noqa: PLC0415
    from legion_iot.planning.planners import planners  # noqa: PLC0415
    from legion_iot.toml_tables import suggestion  # noqa: PLC0415

    check_wire(wire)
    if objective not in _OBJECTIVES:
        raise UsageError(f"--objective is {objective!r:.60}; give {' or '.join(_OBJECTIVES)}")
    if planner not in planners:
        raise UsageError(f"--planner is {planner!r:.60}; {suggestion(planner, planners)}")
    if picture is not None:
        check_picture(picture)
    told = known_group(devices, broker, base_topic, credentials)
    with progress_line(quiet=as_json) as progress:
        path, name = find_model(model, progress)
        network = open_network(path, input_shape)
        progress(f"planning {name} for {len(told.group.devices)} devices", None)
        outcome = plan_outcome.make(network, name, told, planner, cast("Objective", objective), wire, explain)
        accuracy = _accuracy(outcome, path, input_shape, progress) if outcome.wire_used else None
    if picture is not None:
        plan_picture.draw(outcome, picture)
    if as_json:
        typer.echo(json.dumps(_to_json(outcome, accuracy), allow_nan=False))
        return
    if not network.units:
        err.print(f"nothing of {name} can be tiled: {network.ended_by}", style="yellow", markup=False, soft_wrap=True)
    plan_tables.show(outcome, accuracy)
    if picture is not None:
        out.print(f"picture saved as {picture}", markup=False, soft_wrap=True)


def _accuracy(outcome: Outcome, path: Path, input_shape: str, progress: Progress) -> Verdict:
    """What the wire dtype does to the outputs when all maps at the plan's cuts travel, on seeded values.

    Raises RuntimeMissingError or ModelError where the model cannot be run here.
    """
    from legion_iot.bench.verify import Question, verify_file  # noqa: PLC0415 — loads the runtime
    from legion_iot.cli.verify import TIMEOUT  # noqa: PLC0415
    from legion_iot_agent.isolation import run_isolated  # noqa: PLC0415

    question = Question(path, input_shape, wire=outcome.wire, cuts=outcome.cuts)
    return run_isolated(verify_file, (question,), progress, TIMEOUT)


def _to_json(outcome: Outcome, accuracy: Verdict | None) -> dict[str, Any]:
    """Seconds and bytes; rows and columns as [first, end], half open."""
    from legion_iot.planning.plan import to_json  # noqa: PLC0415 — loads numpy

    alone, estimate = outcome.alone, outcome.estimate
    return {
        "schema": 1,
        "model": outcome.model,
        "planner": outcome.planner,
        "objective": outcome.objective,
        "wire": outcome.wire,
        "wire_used": outcome.wire_used,
        "accuracy": None if accuracy is None else _accuracy_json(accuracy),
        "plan": to_json(outcome.plan),
        "latency_s": estimate.latency,
        "interval_s": estimate.interval,
        "shares": list(estimate.shares),
        "bound_s": outcome.bound,
        "gap": finite(outcome.gap),
        "fastest_alone": None if alone is None else {"device": alone.device, "seconds": alone.seconds},
        "speed_up": None if alone is None else finite(alone.seconds / outcome.seconds),
        "devices": [dataclasses.asdict(load) for load in outcome.loads],
        "bars": [dataclasses.asdict(bar) for bar in estimate.bars],
        "explanation": None if outcome.explanation is None else dataclasses.asdict(outcome.explanation),
    }


def _accuracy_json(accuracy: Verdict) -> dict[str, Any]:
    return {
        "ok": accuracy.ok,
        "exact": accuracy.exact,
        "max_abs_error": finite(accuracy.max_abs_error),
        "max_rel_error": finite(accuracy.max_rel_error),
        "bound": accuracy.bound,
        "top_class_stays": accuracy.top_class_stays,
        "runtime": accuracy.runtime,
        "kernel_path": accuracy.kernel_path,
    }
