"""`legion orchestrator`: serve a model with a group of agents."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from legion_iot.cli.console import check_wire, err, find_model, progress_line
from legion_iot.errors import UsageError
from legion_iot.interruption import temporary_directory

if TYPE_CHECKING:
    from legion_iot.orchestrator.service import OrchestratorOptions

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
    input_shape: str = typer.Option("", help="For a model with open sizes, e.g. 1x320x320x3."),
) -> None:
    """Serve MODEL: pictures published on <base>/infer/<model> are answered on <base>/infer/<model>/result.

    Example: legion orchestrator run efficientnet-lite0 --broker mqtt://192.168.1.10 --agents 4
    """
    from legion_iot.orchestrator.service import OrchestratorOptions  # noqa: PLC0415 — loads numpy
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
    if agents < 1:
        raise UsageError(f"--agents is {agents}; give 1 or more")
    with progress_line() as progress:
        path, name = find_model(model, progress)
    with temporary_directory("legion-orchestrator-") as directory:
        path = static_file(path, directory, input_shape)
        _serve(OrchestratorOptions(address, path, name, base_topic, agents, wire=wire))


def _serve(options: OrchestratorOptions) -> None:
    from legion_iot.orchestrator.service import OrchestratorService  # noqa: PLC0415 — loads numpy

    def say(phase: str, detail: str) -> None:
        connected = f"publish pictures on {options.base_topic}/infer/{options.model_name}"  # no phase yet
        err.print(f"{phase}: {detail}" if phase else connected, markup=False, soft_wrap=True)

    service = OrchestratorService(options, on_phase=say)
    if not service.network.units:
        err.print(
            f"nothing can be tiled: {service.network.ended_by}; one agent runs it whole", markup=False, soft_wrap=True
        )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: service.stop())
    service.run()
