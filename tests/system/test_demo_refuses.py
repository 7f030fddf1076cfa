"""What a user can do wrong: one line, its own exit code, no traceback, nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Stage
from .networks import two_inputs


def _closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def _text(path: Path) -> str:
    path.write_text("nothing of that kind", encoding="utf-8")
    return str(path)


def _half(path: Path, photograph: Path) -> str:
    content = photograph.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return str(path)


Arguments = Callable[[Path, Path], list[str]]
SMALL = ["--model", "mobilenet-v2"]

# What is wrong -> exit code, what the line says, and the arguments, given a directory and a good picture.
WRONG: dict[str, tuple[int, str, Arguments]] = {
    "missing picture": (3, "no such picture", lambda tmp, _: [*SMALL, "--image", str(tmp / "none.jpg")]),
    "directory as picture": (3, "no such picture", lambda tmp, _: [*SMALL, "--image", str(tmp)]),
    "text as picture": (3, "no JPEG", lambda tmp, _: [*SMALL, "--image", _text(tmp / "a.jpg")]),
    "half a picture": (3, "damaged", lambda tmp, good: [*SMALL, "--image", _half(tmp / "a.jpg", good)]),
    "missing model": (3, "no such file", lambda tmp, _: ["--model", str(tmp / "none.tflite")]),
    "text as model": (4, "no TFLite model", lambda tmp, _: ["--model", _text(tmp / "a.tflite")]),
    "two inputs": (
        3,
        "2 inputs",
        lambda tmp, good: ["--model", str(two_inputs(tmp / "2.tflite")), "--image", str(good)],
    ),
    "unknown network": (2, "no network is called", lambda tmp, _: ["--model", "lenet-1000"]),
    "no agents": (2, "--agents is 0", lambda tmp, _: [*SMALL, "--agents", "0"]),
    "too many agents": (2, "--agents is 33", lambda tmp, good: [*SMALL, "--agents", "33", "--image", str(good)]),
    "agents in words": (2, "--agents", lambda tmp, _: [*SMALL, "--agents", "three"]),
    "no requests": (2, "--requests is 0", lambda tmp, _: [*SMALL, "--requests", "0"]),
    "unknown flag": (2, "--fast", lambda tmp, _: ["--fast"]),
    "nobody listens": (
        5,
        "nobody listens",
        lambda tmp, good: [*SMALL, "--broker", f"mqtt://{_closed_port()}", "--image", str(good)],
    ),
    "no broker address": (2, "kitchen", lambda tmp, good: [*SMALL, "--broker", "kitchen", "--image", str(good)]),
    "nowhere to save": (3, "cannot be written", lambda tmp, _: [*SMALL, "--save", str(tmp / "no" / "a.png")]),
    "saving over a directory": (3, "cannot be written", lambda tmp, _: [*SMALL, "--save", str(tmp)]),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_line_and_a_code(stage: Stage, photograph: Path, tmp_path: Path, name: str) -> None:
    code, cause, arguments = WRONG[name]
    done = stage.run("demo", "--json", *arguments(tmp_path, photograph))
    assert done.stdout == ""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("legion: ")
    assert done.stderr.count("\n") == 1
    assert cause in done.stderr
    stage.wait_for_the_end()
    assert stage.left_behind() == []


def test_a_registry_out_of_reach(stage: Stage, tmp_path: Path) -> None:
    done = stage.run(
        "demo",
        "--json",
        XDG_CACHE_HOME=str(tmp_path),
        PIP_INDEX_URL=f"http://{_closed_port()}/",
        PIP_EXTRA_INDEX_URL="",
        PIP_FIND_LINKS="",
        PIP_CONFIG_FILE=os.devnull,
    )
    assert (done.returncode, done.stdout) == (6, ""), done.stderr
    assert done.stderr.startswith("legion: ")
    assert done.stderr.count("\n") == 1
    stage.wait_for_the_end()
    assert not list((tmp_path / "legion-iot" / "zoo").glob("*.tflite"))


def test_an_agent_that_dies_is_named(stage: Stage, photograph: Path) -> None:
    started = stage.start("legion", "demo", "--model", "resnet18", "--requests", "1000", "--image", str(photograph))
    started.wait_for_line("sending")
    victim = next(pid for pid, command in stage.alive().items() if "--name agent-2" in command)
    os.kill(victim, signal.SIGKILL)
    assert started.wait(60) in (7, 8)
    assert any(line.startswith("legion: ") and "agent-2" in line for line in started.lines)
    assert not any("Traceback" in line for line in started.lines)
