"""`legion orchestrator`: serve a model with a group of agents."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from legion_iot.cli.console import check_objective, check_wire, err, find_model, progress_line
from legion_iot.errors import InputError, UsageError
from legion_iot.files import state_directory
from legion_iot.interruption import temporary_directory

if TYPE_CHECKING:
    from legion_iot.orchestrator.options import OrchestratorOptions

app = typer.Typer(help="Serve a model with the agents of a group.", no_args_is_help=True)


@app.command("run")
def run(
    model: str = typer.Argument(help="A .tflite file, or a name from `legion zoo list`."),
    broker: str = typer.Option(
        "",
        envvar="LEGION_BROKER",
        help="mqtt://host[:port] or mqtts://….  [default: the bundle's, or this machine's]",
    ),
    credentials: Path | None = typer.Option(
        None, envvar="LEGION_CREDENTIALS", help="The bundle of `legion broker add-device --role orchestrator`."
    ),
    agents: int = typer.Option(1, min=1, help="Agents to wait for before the first plan."),
    base_topic: str = typer.Option("", help="The group's topic.  [default: the bundle's, or legion]"),
    wire: str = typer.Option(
        "float32",
        help="How float32 maps travel between agents; float16 or int8 are fewer bytes and change the numbers "
        "(measure it with: legion verify --wire).",
    ),
    planner: str = typer.Option("auto", help="How the plan is found: auto, halo, legion, single, balanced, …"),
    objective: str = typer.Option("latency", help="What the plan is to be best at: latency or throughput."),
    input_shape: str = typer.Option("", help="For a model with open sizes, e.g. 1x320x320x3."),
    state_dir: Path | None = typer.Option(
        None, help="What was measured is kept here.  [default: $XDG_STATE_HOME/legion-iot]"
    ),
) -> None:
    """Serve MODEL: pictures published on <base>/infer/<model> are answered on <base>/infer/<model>/result.

    Example: legion orchestrator run efficientnet-lite0 --broker mqtt://192.168.1.10 --agents 4
    """
    from legion_iot.orchestrator.options import OrchestratorOptions  # noqa: PLC0415
    from legion_iot.orchestrator.planning import find_planner  # noqa: PLC0415 — loads numpy
    from legion_iot.transport.credentials import (  # noqa: PLC0415
        DEFAULT_BASE_TOPIC,
        broker_address,
        check_role,
        read_bundle,
    )
    from legion_iot_agent.shapes import static_file  # noqa: PLC0415

    bundle = None if credentials is None else check_role(read_bundle(credentials), "orchestrator")
    address = broker_address(bundle, broker)
    base_topic = base_topic or (bundle.base_topic if bundle else DEFAULT_BASE_TOPIC)
    check_wire(wire)
    found, aim = find_planner(planner), check_objective(objective)
    if state_dir is not None and not (state_dir.is_dir() and os.access(state_dir, os.W_OK)):
        raise InputError(f"{state_dir}: no directory that can be written to; make it, or choose another --state-dir")
    if agents < 1:
        raise UsageError(f"--agents is {agents}; give 1 or more")
    with progress_line() as progress:
        path, name = find_model(model, progress)
    with temporary_directory("legion-orchestrator-") as directory:
        path = static_file(path, directory, input_shape)
        options = OrchestratorOptions(
            address, path, name, base_topic, agents, wire=wire, planner=found, objective=aim,
            state_directory=state_dir or state_directory(),
        )  # fmt: skip
        _serve(options)


def _serve(options: OrchestratorOptions) -> None:
    from legion_iot.orchestrator.service import OrchestratorService  # noqa: PLC0415 — loads numpy

    def say(phase: str, detail: str) -> None:
        connected = f"publish pictures on {options.base_topic}/infer/{options.model_name}"  # no phase yet
        err.print(f"{phase}: {detail}" if phase else connected, markup=False, soft_wrap=True)

    service = OrchestratorService(options, on_phase=say)
    network = service.model.network
    if not network.units:
        err.print(f"nothing can be tiled: {network.ended_by}; one agent runs it whole", markup=False, soft_wrap=True)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: service.stop())
    service.run()
