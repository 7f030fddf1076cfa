"""What is said to systemd, on a socket that stands for it; time is what the test says."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from legion_iot.notify import PATIENCE, UNKNOWN_SECONDS, Notifier


class Manager:
    """The other end of the socket, with a clock that moves when it is told to."""

    def __init__(self, path: str) -> None:
        self.now = 100.0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        said = []
        while True:
            try:
                said.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return said

    def notifier(self, address: str, watchdog: str = "8000000") -> Notifier:
        return Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": watchdog}, lambda: self.now)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    with made.socket:
        yield made


def test_states_and_one_line_of_status(manager: Manager, tmp_path: Path) -> None:
    notifier = manager.notifier(str(tmp_path / "notify"))
    notifier.ready("ant is online\nREADY=0")
    notifier.status("at work")
    notifier.stopping()
    assert manager.heard() == ["READY=1\nSTATUS=ant is online READY=0", "STATUS=at work", "STOPPING=1"]


def test_an_abstract_address(tmp_path: Path) -> None:
    name = f"legion-test-{os.getpid()}-{tmp_path.name}"
    abstract = Manager("\0" + name)
    with abstract.socket:
        abstract.notifier("@" + name).ready("")
        assert abstract.heard() == ["READY=1"]


def test_the_watchdog_is_fed_four_times_in_an_interval(manager: Manager, tmp_path: Path) -> None:
    notifier = manager.notifier(str(tmp_path / "notify"))
    heard = []
    for _ in range(80):  # 0.5 s each: five intervals of 8 s
        manager.now += 0.5
        notifier.alive()
        heard += manager.heard()
    assert heard == ["WATCHDOG=1"] * 20


def test_unknown_work_may_take_long_and_known_work_what_it_took(manager: Manager, tmp_path: Path) -> None:
    notifier = manager.notifier(str(tmp_path / "notify"))

    def work(seconds: float) -> list[str]:
        with notifier.working("step"):
            manager.now += seconds
        return manager.heard()

    longer = [f"WATCHDOG_USEC={UNKNOWN_SECONDS * 1e6:.0f}\nWATCHDOG=1", "WATCHDOG_USEC=8000000\nWATCHDOG=1"]
    assert work(0.1) == longer
    assert work(1.0) == []  # ten times 0.1 s lie within the interval, which has not come to its quarter
    assert work(1.5) == [f"WATCHDOG_USEC={PATIENCE * 1.0 * 1e6:.0f}\nWATCHDOG=1", "WATCHDOG_USEC=8000000\nWATCHDOG=1"]
    with pytest.raises(ZeroDivisionError), notifier.working("other"):
        _ = 1 // 0
    assert manager.heard() == longer  # a failure ends the longer interval too


def test_without_systemd_or_watchdog_nothing_is_said(manager: Manager, tmp_path: Path) -> None:
    unwatched = manager.notifier(str(tmp_path / "notify"), watchdog="0")
    mistaken = manager.notifier(str(tmp_path / "notify"), watchdog="many")
    another = Notifier(
        {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"},
        lambda: manager.now,
    )
    for notifier in (Notifier({"WATCHDOG_USEC": "8000000"}, lambda: manager.now), unwatched, mistaken, another):
        with notifier.working("step"):
            manager.now += 100
        notifier.alive()
    assert manager.heard() == []
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("nobody listens")
