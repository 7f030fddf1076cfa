"""A group that serves a classifier, an edge detector and an object detector, under the names that the recipes use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from legion_iot.transport.connection import BrokerAddress
from legion_iot_broker.launch import local_broker

from .conftest import Stage, open_stage, require_mosquitto
from .networks import detector, picture_to_picture, residual_classifier

MODELS = {"efficientnet-lite0": residual_classifier, "hed": picture_to_picture, "detector": detector}


@dataclass(frozen=True)
class Served:
    """Where the group is, and the files of its models by name."""

    stage: Stage
    address: BrokerAddress
    files: dict[str, Path]

    @property
    def url(self) -> str:
        return f"mqtt://{self.address.endpoint}"


@contextlib.contextmanager
def serve(cache: Path, *names: str) -> Iterator[Served]:
    """A group of two agents that serves these models, over Mosquitto."""
    require_mosquitto()
    with open_stage(cache) as stage, local_broker("mosquitto") as broker:
        directory = stage.temporary
        files = {name: MODELS[name](directory / f"{name}.tflite") for name in names}
        served = Served(stage, broker.address, files)
        orchestrator = stage.start(
            "legion", "orchestrator", "run", *map(str, files.values()), "--broker", served.url, "--agents", "2",
            "--planner", "balanced",
        )  # fmt: skip
        for name in ("left", "right"):
            place = str(directory / name)
            stage.start("legion-agent", "--broker", served.url, "--name", name, "--state-dir", place)
        orchestrator.wait_for_line("serving: left, right")
        yield served
