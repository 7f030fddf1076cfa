"""`legion orchestrator`: serve a model with a group of agents."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from legion_iot.cli.console import check_objective, err, find_model, progress_line, setting
from legion_iot.configuration.programs import (
    AGENTS,
    BASE_TOPIC,
    BROKER,
    CREDENTIALS,
    INPUT_SHAPE,
    MODEL,
    OBJECTIVE,
    PLANNER,
    STATE_DIR,
    WIRE,
    address,
    configured,
)
from legion_iot.errors import InputError, UsageError
from legion_iot.interruption import temporary_directory
from legion_iot.notify import Notifier

if TYPE_CHECKING:
    from legion_iot.orchestrator.options import OrchestratorOptions

app = typer.Typer(help="Serve a model with the agents of a group.", no_args_is_help=True)


@app.command("run")
def run(
    context: typer.Context,
    model: str | None = typer.Argument(
        None, help="A .tflite file, or a name from `legion zoo list`.  [default: the configuration's]"
    ),
    broker: str | None = setting(BROKER),
    credentials: str | None = setting(CREDENTIALS),
    agents: str | None = setting(AGENTS),
    base_topic: str | None = setting(BASE_TOPIC),
    wire: str | None = setting(WIRE),
    planner: str | None = setting(PLANNER),
    objective: str | None = setting(OBJECTIVE),
    input_shape: str | None = setting(INPUT_SHAPE),
    state_dir: str | None = setting(STATE_DIR),
    config: Path | None = typer.Option(None, help="Read this file instead of orchestrator.toml in its usual places."),
) -> None:
    """Serve MODEL: pictures published on <base>/infer/<model> are answered on <base>/infer/<model>/result.

    Each option can also be a variable, such as LEGION_BROKER, or stand in /etc/legion-iot/orchestrator.toml.

    Example: legion orchestrator run efficientnet-lite0 --broker mqtt://192.168.1.10 --agents 4
    """
    from legion_iot.orchestrator.options import OrchestratorOptions  # noqa: PLC0415
    from legion_iot.orchestrator.planning import find_planner  # noqa: PLC0415 — loads numpy
    from legion_iot_agent.shapes import static_file  # noqa: PLC0415

    settings, bundle = configured("orchestrator", context.params, os.environ, config)
    if not settings[MODEL]:
        raise UsageError("no model to serve: name one, or set model in /etc/legion-iot/orchestrator.toml")
    found, aim = find_planner(settings[PLANNER]), check_objective(settings[OBJECTIVE])
    directory = settings[STATE_DIR]
    if not settings.is_default(STATE_DIR) and not (directory.is_dir() and os.access(directory, os.W_OK)):
        raise InputError(f"{directory}: no directory that can be written to; make it, or choose another --state-dir")
    broker_address = address(settings, bundle)
    with progress_line() as progress:
        path, name = find_model(settings[MODEL], progress)
    with temporary_directory("legion-orchestrator-") as scratch:
        path = static_file(path, scratch, settings[INPUT_SHAPE])
        options = OrchestratorOptions(
            broker_address, path, name, settings[BASE_TOPIC], settings[AGENTS], wire=settings[WIRE], planner=found,
            objective=aim, state_directory=directory,
        )  # fmt: skip
        _serve(options)


def _serve(options: OrchestratorOptions) -> None:
    from legion_iot.orchestrator.service import OrchestratorService  # noqa: PLC0415 — loads numpy

    def say(phase: str, detail: str) -> None:
        connected = f"publish pictures on {options.base_topic}/infer/{options.model_name}"  # no phase yet
        err.print(f"{phase}: {detail}" if phase else connected, markup=False, soft_wrap=True)

    service = OrchestratorService(options, on_phase=say, notifier=Notifier(os.environ))
    network = service.model.network
    if not network.units:
        err.print(f"nothing can be tiled: {network.ended_by}; one agent runs it whole", markup=False, soft_wrap=True)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: service.stop())
    service.run()
