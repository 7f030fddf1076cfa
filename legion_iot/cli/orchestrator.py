"""`legion orchestrator`: serve models with a group of agents."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from legion_iot.cli import orchestrator_service
from legion_iot.cli.console import check_objective, err, find_model, progress_line, setting
from legion_iot.configuration.programs import (
    AGENTS,
    BASE_TOPIC,
    BROKER,
    CREDENTIALS,
    HOME_ASSISTANT,
    HOME_ASSISTANT_PREFIX,
    INPUT_SHAPE,
    MODELS,
    OBJECTIVE,
    PAGE,
    PAGE_NAMES,
    PLANNER,
    PROMETHEUS,
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

app = typer.Typer(help="Serve models with the agents of a group.", no_args_is_help=True)
app.command("install")(orchestrator_service.install)
app.command("uninstall")(orchestrator_service.uninstall)
app.command("status")(orchestrator_service.status)


@app.command("run")
def run(
    context: typer.Context,
    models: list[str] | None = typer.Argument(
        None,
        metavar="[MODEL]...",
        help="Each a .tflite file, or a name from `legion zoo list`.  [default: the configuration's, or none]",
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
    page: str | None = setting(PAGE),
    page_names: str | None = setting(PAGE_NAMES),
    home_assistant: bool | None = setting(HOME_ASSISTANT),
    home_assistant_prefix: str | None = setting(HOME_ASSISTANT_PREFIX),
    prometheus: str | None = setting(PROMETHEUS),
    config: Path | None = typer.Option(None, help="Read this file instead of orchestrator.toml in its usual places."),
) -> None:
    """Serve each MODEL: pictures published on <base>/infer/<model> are answered on <base>/infer/<model>/result.

    Models of `legion model add` are served, too, now and whenever it runs with this state directory.

    Each option can also be a variable, such as LEGION_BROKER, or stand in /etc/legion-iot/orchestrator.toml.

    Example: legion orchestrator run efficientnet-lite0 --broker mqtt://192.168.1.10 --agents 4
    """
    from legion_iot.cli.orchestrator_watchers import watchers  # noqa: PLC0415
    from legion_iot.orchestrator.options import ModelFile, OrchestratorOptions  # noqa: PLC0415
    from legion_iot.orchestrator.planning import find_planner  # noqa: PLC0415 — loads numpy
    from legion_iot_agent.shapes import static_file  # noqa: PLC0415

    settings, bundle = configured("orchestrator", context.params, os.environ, config)
    wanted = settings[MODELS]
    found, aim = find_planner(settings[PLANNER]), check_objective(settings[OBJECTIVE])
    directory = settings[STATE_DIR]
    if not settings.is_default(STATE_DIR) and not (directory.is_dir() and os.access(directory, os.W_OK)):
        raise InputError(f"{directory}: no directory that can be written to; make it, or choose another --state-dir")
    broker_address = address(settings, bundle)
    if settings[INPUT_SHAPE] and len(wanted) > 1:
        raise UsageError("--input-shape is for one model; give models whose files say their sizes")
    with progress_line() as progress:
        files = [find_model(model, progress) for model in wanted]
    names = [name for _, name in files]
    if len(set(names)) < len(names):
        raise UsageError(f"two models have one name ({', '.join(names)}); rename a file")
    with temporary_directory("legion-orchestrator-") as scratch:
        served = tuple(ModelFile(name, static_file(path, scratch, settings[INPUT_SHAPE])) for path, name in files)
        options = OrchestratorOptions(
            broker_address, served, settings[BASE_TOPIC], settings[AGENTS], wire=settings[WIRE], planner=found,
            objective=aim, state_directory=directory, watchers=tuple(watchers(settings, broker_address)),
        )  # fmt: skip
        _serve(options)


def _serve(options: OrchestratorOptions) -> None:
    from legion_iot.orchestrator.service import OrchestratorService  # noqa: PLC0415 — loads numpy

    def say(phase: str, detail: str) -> None:
        topics = ", ".join(f"{options.base_topic}/infer/{name}" for name in service.models.by_name)
        connected = f"publish pictures on {topics}"  # no phase yet
        err.print(f"{phase}: {detail}" if phase else connected, markup=False, soft_wrap=True)

    service = OrchestratorService(options, on_phase=say, notifier=Notifier(os.environ))
    for name, model in service.models.by_name.items():
        if not model.network.units:
            why = f"{name}: nothing can be tiled: {model.network.ended_by}; one agent runs it whole"
            err.print(why, markup=False, soft_wrap=True)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: service.stop())
    service.run()
