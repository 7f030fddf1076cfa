"""Whole processes: how they are started, found again, and what they compute on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from legion_iot_broker.mosquitto import find_mosquitto

PATIENCE = 120.0  # seconds; bounds a failing test, a passing one never waits for it
SCRIPTS = Path(sys.executable).parent


def require_mosquitto() -> None:
    """Skip without Mosquitto on a developer's machine; fail in CI, where it must be installed."""
    if find_mosquitto() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("mosquitto is missing, and CI may not skip its tests")
        pytest.skip("mosquitto is not installed")


def wait_until(what: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Returns once `what()` is true."""
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@dataclass
class Program:
    """A running program, with its error output line by line."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait(self, timeout: float) -> int:
        """Its exit code once it has ended; all that it said is among `lines` then."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def wait_for_line(self, text: str) -> None:
        def said() -> bool:
            ended = self.process.poll() is not None
            if ended:
                self._reader.join(10)
            if any(text in line for line in self.lines):
                return True
            assert not ended, self.lines
            return False

        wait_until(said)


class Stage:
    """The environment of one test: its programs carry a mark by which every one of them is found again."""

    def __init__(self, cache: Path, temporary: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.temporary = temporary
        self.environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(cache),
            "XDG_STATE_HOME": str(cache / f"state-{self.mark}"),
            "TMPDIR": str(temporary),
            "TEST_MARK": self.mark,
            "COLUMNS": "100",
        }
        self.environment.pop("LEGION_BROKER", None)
        self._programs: list[Program] = []

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`legion` with these arguments, to its end."""
        return subprocess.run(
            [str(SCRIPTS / "legion"), *arguments],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, program: str, *arguments: str) -> Program:
        """A program of ours that goes on."""
        process = subprocess.Popen(
            [str(SCRIPTS / program), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started = Program(process)
        self._programs.append(started)
        return started

    def alive(self) -> dict[int, str]:
        """Processes that carry this test's mark: pid and command line."""
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"TEST_MARK={self.mark}".encode() in (directory / "environ").read_bytes():
                    command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command:  # else it is a zombie that its parent has not asked for yet
                        found[int(directory.name)] = command
        return found

    def wait_for_the_end(self, timeout: float = 30.0) -> None:
        """Returns once no process carries this test's mark; Python's own helpers end a moment after their parents."""
        deadline = time.monotonic() + timeout
        while alive := self.alive():
            assert time.monotonic() < deadline, alive
            time.sleep(0.05)

    def left_behind(self) -> list[str]:
        """Names in the directory for temporary files."""
        return sorted(path.name for path in self.temporary.iterdir())

    def close(self) -> None:
        for program in self._programs:
            if program.process.poll() is None:
                program.process.kill()
            program.process.wait(10)
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One zoo for all tests, never the user's."""
    return tmp_path_factory.mktemp("cache")


@contextlib.contextmanager
def open_stage(cache: Path) -> Iterator[Stage]:
    # Not below pytest's own directory: that one is closed to the account Mosquitto changes to.
    temporary = Path(tempfile.mkdtemp(prefix="legion-test-"))
    temporary.chmod(0o755)
    made = Stage(cache, temporary)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def stage(cache: Path) -> Iterator[Stage]:
    with open_stage(cache) as made:
        yield made


@pytest.fixture(scope="session")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG that is no photograph, but has edges, colours and proportions of its own."""
    rows, columns = np.mgrid[0:120, 0:200]
    pixels = np.stack([rows * 2, columns, (rows // 10 + columns // 10) % 2 * 255], axis=2).astype(np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "drawn.jpg"
    Image.fromarray(pixels).save(path, quality=90)
    return path
