"""The same wrong moves in every command: one line that names cause and cure, the exit code, and nothing else.

Each row is a command and what is wrong with it. What a row's words stand for is said in `Place`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.messages import OrchestratorState
from legion_iot_broker.launch import local_broker

from .conftest import PATIENCE, SCRIPTS, Program, Stage, wait_until
from .networks import residual_classifier

GROUP = Path(__file__).parents[2] / "docs" / "group.toml"


@dataclass(frozen=True)
class Place:
    """What the words in braces stand for."""

    nobody: str  # a broker's address where nobody listens
    empty: str  # a broker without an orchestrator and without agents
    model: Path  # a small model
    group: Path  # a file of devices
    text: Path  # a file that is neither
    none: Path  # a file that there is not

    def words(self, line: str) -> list[str]:
        return [word.format(**vars(self)) for word in line.split()]


# Command -> exit code and what the line says.
Rows = dict[str, tuple[int, str]]

NO_BROKER: Rows = {
    f"{command} --broker {{nobody}}": (5, "nobody listens")
    for command in (
        "model list", "model add {model}", "model remove cats", "plan {model}", "cost {model}", "demo --model {model}",
        "orchestrator run {model} --state-dir {state}", "infer cats {text}", "trace", "profile", "profile --again",
        "status", "status --json", "devices",
    )
}  # fmt: skip
NO_ORCHESTRATOR: Rows = {
    f"{command} --broker {{empty}}": (code, cause)
    for command, (code, cause) in {
        "model list": (8, "orchestrator"), "model add {model}": (8, "orchestrator"),
        "model remove cats": (8, "orchestrator"), "plan {model}": (7, "no agent is online"),
        "cost {model}": (7, "no agent is online"), "infer cats {text}": (8, "no orchestrator is online"),
        "trace": (8, "no orchestrator is online"), "profile": (7, "no agent has ever been online"),
        "profile --again": (8, "no orchestrator is online"), "profile cow": (2, "there is no device 'cow'"),
    }.items()
}  # fmt: skip
UNKNOWN_MODEL: Rows = {
    command.format("resnet81", devices="--devices {group}", broker="--broker {empty}"): (2, "did you mean 'resnet18'?")
    for command in (
        "zoo get {}", "model show {}", "verify {}", "plan {} {devices}", "cost {} {devices}", "demo --model {}",
        "orchestrator run {} {broker}", "model add {} {broker}",
    )
}  # fmt: skip
TAKING_A_MODEL = (
    "model show", "verify", "plan --devices {group}", "cost --devices {group}", "demo --model",
    "orchestrator run --broker {empty}", "model add --broker {empty}",
)  # fmt: skip
UNREADABLE: Rows = {
    **{f"{command} {{none}}.tflite": (3, "no such file") for command in TAKING_A_MODEL},
    **{f"{command} {{text}}": (4, "no TFLite model") for command in TAKING_A_MODEL},
    **{f"{command} {{model}} --devices {{none}}": (3, "cannot be read") for command in ("plan", "cost")},
    **{f"{command} {{model}} --devices {{text}}": (3, "TOML") for command in ("plan", "cost")},
    **{
        f"{command} --credentials {{none}}": (3, "{none}")
        for command in ("model list", "model add {model}", "model remove cats", "plan {model}", "cost {model}",
                        "orchestrator run {model}", "demo --model {model}", "infer cats {model}", "status", "devices",
                        "trace", "profile")
    },
    "infer cats {none}": (3, "cannot be read"),
    **{f"{command} --credentials {{none}}": (3, "{none}") for command in ("trace", "profile", "doctor")},
    "trace --out {none}/trace.json": (3, "cannot be written"),
    "lab up {none}": (3, "{none}"),
    "demo --lab {none}.toml --model {model}": (3, "{none}"),
    "demo --image {none} --model {model}": (3, "no such picture"),
    "verify {model} --image {none}": (3, "{none}"),
    "config show agent --config {none}": (3, "{none}"),
    "config check orchestrator --config {none}": (3, "{none}"),
    "broker devices --dir {none}": (3, "{none}"),
    "broker add-device ant --dir {none}": (3, "{none}"),
    "broker remove-device ant --dir {none}": (3, "{none}"),
    "broker run {none}": (3, "{none}"),
    "orchestrator install {none} --root {root}": (3, "{none}"),
    "bench planner --quick --trace {none}": (3, "{none}"),
}  # fmt: skip
MISTYPED: Rows = {
    "modle list": (2, "did you mean 'model'?"),
    "model lst": (2, "did you mean 'list'?"),
    "plan {model} --device {group}": (2, "--devices"),
    "plan {model} --devices {group} --planner legoin": (2, "did you mean 'legion'?"),
    "demo --lab legion-3f3": (2, "did you mean 'legion-3f3o'?"),
    "broker run --kind mosquito": (2, "--kind is 'mosquito'"),
    "config show agnet": (2, "agent or orchestrator"),
    "bench faults --fault kill-agnet": (2, "did you mean 'kill-agent'?"),
    "model list --broker kitchen": (2, "kitchen"),
    "status --broker kitchen": (2, "kitchen"),
    "simulate --seeds 9..3": (2, "'9..3'"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("place")
    model, text = directory / "small.tflite", directory / "text.tflite"
    residual_classifier(model)
    text.write_text("nothing of that kind", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
    with local_broker("embedded") as broker:
        yield Place(nobody, str(broker.address), model, GROUP, text, directory / "none")


@pytest.mark.parametrize("line", [*NO_BROKER, *NO_ORCHESTRATOR, *UNKNOWN_MODEL, *UNREADABLE, *MISTYPED])
def test_one_line_and_a_code(stage: Stage, place: Place, tmp_path: Path, line: str) -> None:
    code, cause = {**NO_BROKER, **NO_ORCHESTRATOR, **UNKNOWN_MODEL, **UNREADABLE, **MISTYPED}[line]
    line = line.replace("{state}", str(tmp_path)).replace("{root}", str(tmp_path))
    done = stage.run(*place.words(line))
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    told = without_progress(done.stderr)
    assert len(told) == 1
    assert told[0].startswith("legion: ")
    assert cause.format(**vars(place)) in told[0]


def without_progress(said: str) -> list[str]:
    """The lines that are not what is being done."""
    return [line for line in said.splitlines() if not line.startswith("· ")]


# --- told to end while it waits ---


def test_an_interrupt_while_no_answer_comes(stage: Stage, place: Place) -> None:
    asked = threading.Event()

    def on_event(event: TransportEvent) -> None:
        if isinstance(event, Message):
            asked.set()

    with closing(PahoConnection(BrokerAddress.parse(place.empty), "silent", on_event)) as orchestrator:
        orchestrator.open(PATIENCE)
        state = OrchestratorState("serving", "session")
        orchestrator.publish("silent/orchestrator/state", codec.to_json(state), qos=1, retain=True)
        orchestrator.subscribe([("silent/bridge/request/+", 1)])
        program = stage.start("legion", "model", "list", "--broker", place.empty, "--base-topic", "silent")
        assert asked.wait(PATIENCE)
        end(program)


def test_an_interrupt_of_what_goes_on_for_ever(stage: Stage) -> None:
    program = stage.start("legion", "broker", "run", "--port", "0", "--kind", "embedded")
    program.wait_for_line("is running")
    end(program)


def test_an_interrupt_of_what_computes(stage: Stage) -> None:
    program = stage.start("legion", "simulate", "--seeds", "0..99999")
    program.wait_for_line("· ")
    end(program)


def end(program: Program) -> None:
    """It ends at an interrupt, and says no more than that."""
    program.process.send_signal(signal.SIGINT)
    assert program.wait(PATIENCE) == 130, program.lines
    wait_until(lambda: program.lines and program.lines[-1] == "legion: interrupted")
    assert not any("Traceback" in line for line in program.lines)


# --- nobody reads what it prints ---


@pytest.mark.parametrize(
    "line",
    ["--help", "--version", "plan --help", "zoo list", "zoo list --json", "model show {model}",
     "model show {model} --json", "plan {model} --devices {group}", "plan {model} --devices {group} --json",
     "cost {model} --devices {group}", "cost {model} --devices {group} --json", "config show", "config show --json",
     "config check", "lab presets", "lab status", "simulate --list-faults", "verify {model} --tiles 2 --blocks 1"],
)  # fmt: skip
def test_a_reader_that_has_gone(stage: Stage, place: Place, line: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [str(SCRIPTS / "legion"), *place.words(line)], env=stage.environment, stdin=subprocess.DEVNULL,
            stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, without_progress(done.stderr)) == (0, [])


def test_no_standard_output_at_all(stage: Stage) -> None:
    program = [str(SCRIPTS / "legion"), "config", "show", "--json"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *program], env=stage.environment, stderr=subprocess.PIPE, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
