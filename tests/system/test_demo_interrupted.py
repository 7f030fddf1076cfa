"""A demo that is ended from outside leaves no process, and no file unless it had no chance to clean up."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .conftest import Program, Stage, require_mosquitto, wait_until

# What the demo says just before it is interrupted: early, in the middle, at work.
MOMENTS = ["starting 3 agents", "measuring", "handing out", "sending"]


@pytest.mark.parametrize("broker", ["mosquitto", "embedded"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c(stage: Stage, photograph: Path, moment: str, broker: str) -> None:
    _interrupted(stage, photograph, moment, broker, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end(stage: Stage, photograph: Path, number: signal.Signals) -> None:
    _interrupted(stage, photograph, "handing out", "embedded", number)


@pytest.mark.parametrize("moment", ["starting a broker", "measuring", "sending"])
@pytest.mark.parametrize("broker", ["mosquitto", "embedded"])
def test_killed(stage: Stage, photograph: Path, moment: str, broker: str) -> None:
    program = _started(stage, photograph, moment, broker)
    program.process.kill()
    stage.wait_for_the_end()


def test_interrupted_twice(stage: Stage, photograph: Path) -> None:
    program = _started(stage, photograph, "measuring", "embedded")
    program.process.send_signal(signal.SIGINT)
    program.process.send_signal(signal.SIGINT)
    assert program.wait(30) == 130
    stage.wait_for_the_end()
    assert stage.left_behind() == []


@pytest.mark.parametrize(
    ("kind", "mark"),
    [
        ("directory", "legion-demo-"), ("directory", "legion-mosquitto-"), ("directory", "legion-agents-"),
        ("process", "mosquitto.conf"), ("process", "agent-1"), ("process", "agent-3"),
    ],
)  # fmt: skip
def test_while_it_is_made(stage: Stage, photograph: Path, kind: str, mark: str) -> None:
    """The signal comes between the making of something and the noting of how it is removed."""
    require_mosquitto()
    program = stage.start(
        "python", str(Path(__file__).with_name("interrupted_while_making.py")), kind, mark,
        "demo", "--model", "mobilenet-v2", "--image", str(photograph), "--broker", "mosquitto",
    )  # fmt: skip
    assert program.wait(60) == 130
    wait_until(lambda: "legion: interrupted" in program.lines, timeout=5)
    assert not any("Traceback" in line or "Exception" in line for line in program.lines)
    stage.wait_for_the_end()
    assert stage.left_behind() == []


def test_before_anything_is_loaded(stage: Stage) -> None:
    stage.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    program = stage.start("legion", "demo")
    program.wait_for_line("| site")  # before, the interpreter ends with 1, and none of our code has run
    program.process.send_signal(signal.SIGINT)
    assert program.wait(30) in (130, -signal.SIGINT)
    stage.wait_for_the_end()
    assert stage.left_behind() == []


def _started(stage: Stage, photograph: Path, moment: str, broker: str) -> Program:
    if broker == "mosquitto":
        require_mosquitto()
    program = stage.start(
        "legion", "demo", "--model", "mobilenet-v2", "--requests", "1000", "--image", str(photograph),
        "--broker", broker,
    )  # fmt: skip
    program.wait_for_line(moment)
    return program


def _interrupted(stage: Stage, photograph: Path, moment: str, broker: str, number: signal.Signals) -> None:
    program = _started(stage, photograph, moment, broker)
    program.process.send_signal(number)
    assert program.wait(30) == 130
    wait_until(lambda: len(program.lines) and program.lines[-1].startswith("legion:"), timeout=5)
    assert program.lines[-1] == "legion: interrupted"
    assert not any("Traceback" in line or "Exception" in line for line in program.lines)
    stage.wait_for_the_end()
    assert stage.left_behind() == []
