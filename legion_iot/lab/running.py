"""Start a lab, look at it, and end it, from the process that wants it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from legion_iot.errors import AgentError, InputError, LegionError, UsageError
from legion_iot.interruption import uninterrupted
from legion_iot.lab.keeper import Request, write_request
from legion_iot.lab.processes import last_words
from legion_iot.lab.remains import clear, clear_dead
from legion_iot.lab.spec import LabSpec, check_machine
from legion_iot.lab.state import DeviceState, LabState, Process, directories, read_state, runtime_directory, write_state

START_TIMEOUT = 150.0
STOP_TIMEOUT = 40.0
UP = "up"  # the kind of the lab that goes on until `legion lab down`
_POLL = 0.05

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LabAgent:
    """The agent of one running device."""

    state: DeviceState

    @property
    def name(self) -> str:
        return self.state.device.name

    @property
    def pid(self) -> int:
        return self.state.process.pid if self.state.process else 0

    def check(self) -> None:
        """Raises AgentError when its process has ended, with the last thing it said."""
        if self.state.process is None or not self.state.process.alive:
            raise AgentError(f"{self.name} ended: {last_words(Path(self.state.log))}")


@contextlib.contextmanager
def running_lab(spec: LabSpec, kind: str, progress: Progress, rootless: bool = False) -> Iterator[LabState]:
    """A lab inside `with`; it ends with this process too. Raises LegionError where it cannot be had."""
    check_machine(spec, cores())
    clear_dead()
    with uninterrupted() as interruptible:
        directory = _make_directory(spec, kind)
        read, write = os.pipe()
        keeper: subprocess.Popen[bytes] | None = None
        try:
            keeper = _start_keeper(directory, Request(kind, spec, rootless, tied=True), read)
            with interruptible():
                yield _wait_running(directory, keeper, progress)
        finally:
            os.close(write)
            os.close(read)
            if keeper is not None:
                _end(keeper)
            clear(directory)
            _leave_nothing()


def lab_up(spec: LabSpec, progress: Progress, rootless: bool = False) -> LabState:
    """Start the lab that goes on in the background; raises LegionError where it cannot, or one is up already."""
    check_machine(spec, cores())
    with _one_at_a_time(), uninterrupted() as interruptible:
        clear_dead()
        if up := find_up():
            raise UsageError(f"a lab is up already ({up.name}); end it first: legion lab down")
        directory = _make_directory(spec, UP)
        keeper: subprocess.Popen[bytes] | None = None
        try:
            keeper = _start_keeper(directory, Request(UP, spec, rootless, tied=False), subprocess.DEVNULL)
            with interruptible():
                return _wait_running(directory, keeper, progress)
        except BaseException:
            if keeper is not None:
                _end(keeper)
            clear(directory)
            _leave_nothing()
            raise


def lab_down() -> list[str]:
    """End the lab that is up, and remove what killed ones have left; the names of both."""
    with _one_at_a_time():
        ended = []
        if up := find_up():
            assert up.keeper is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(up.keeper.pid, signal.SIGTERM)
                if not _gone(lambda: not up.alive, STOP_TIMEOUT):
                    os.kill(up.keeper.pid, signal.SIGKILL)
                    _gone(lambda: not up.alive, 5.0)
            clear(runtime_directory() / up.id)
            ended.append(up.name)
        return ended + clear_dead()


def find_up() -> LabState | None:
    """The lab of `legion lab up`, if its keeper lives."""
    for state in all_labs():
        if state.kind == UP and state.alive:
            return state
    return None


def all_labs() -> list[LabState]:
    """Everything that is written down and can be read, alive or not."""
    found = []
    for directory in directories():
        with contextlib.suppress(InputError):
            found.append(read_state(directory))
    return found


def cores() -> int:
    """Processor cores that we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Raises UsageError while another `up` or `down` is at it."""
    handle = os.open(runtime_directory(), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
        _leave_nothing()
    except BlockingIOError:
        raise UsageError("another legion lab up or down is at work; wait for it") from None
    finally:
        os.close(handle)


def _leave_nothing() -> None:
    with contextlib.suppress(OSError):  # other labs are in it
        runtime_directory().rmdir()


def _make_directory(spec: LabSpec, kind: str) -> Path:
    """The lab's place, with a note of it in which we stand for the keeper until it writes its own."""
    directory = runtime_directory() / secrets.token_hex(3)
    directory.mkdir(mode=0o711)
    write_state(directory, LabState(directory.name, kind, spec.name, spec.base_topic, Process.of(os.getpid())))
    return directory


def _start_keeper(directory: Path, request: Request, standard_input: int) -> subprocess.Popen[bytes]:
    write_request(directory, request)
    with (directory / "keeper.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "legion_iot.lab.keeper", str(directory)],
            stdin=standard_input,
            stdout=log,
            stderr=log,
            # All temporary files are found, and go, with the lab. Modules come from the installation.
            env={**os.environ, "TMPDIR": str(directory), "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )


def _wait_running(directory: Path, keeper: subprocess.Popen[bytes], progress: Progress) -> LabState:
    """Until everything runs; raises what the keeper failed with."""
    deadline = time.monotonic() + START_TIMEOUT
    shown = ""
    while True:
        ended = keeper.poll() is not None
        with contextlib.suppress(InputError):
            state = read_state(directory)
            if state.phase == "failed":
                raise _error(state)
            if state.phase == "running":
                return state
            if state.detail != shown:
                progress(shown := state.detail)
        if ended:
            raise AgentError(f"the lab ended while it was started: {last_words(directory / 'keeper.log')}")
        if time.monotonic() > deadline:
            raise AgentError(f"the lab was not ready within {START_TIMEOUT:g} s, while {shown}; is the machine busy?")
        time.sleep(_POLL)


def _error(state: LabState) -> LegionError:
    kinds = {kind.exit_code: kind for kind in LegionError.__subclasses__()}
    return kinds.get(state.exit_code, AgentError)(state.detail)


def _end(keeper: subprocess.Popen[bytes]) -> None:
    keeper.terminate()
    try:
        keeper.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()


def _gone(what: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True
