"""Signals that come while something is made or undone wait; elsewhere they end us at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from legion_iot.interruption import Interrupted, end_on_signals, temporary_directory, uninterrupted


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Told to end by signals, as `legion` is; afterwards they do what they did."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in ending]
    end_on_signals()
    yield
    for number, handler in zip(ending, before, strict=True):
        signal.signal(number, handler)


def _tell(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_elsewhere_it_ends_us_at_once(number: int) -> None:
    with pytest.raises(Interrupted):
        _tell(number)
    _tell(number)  # once is enough


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_on_signals()
    _tell(signal.SIGHUP)


def test_it_waits_for_the_end_of_the_block() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            _tell()
            done.append("made")

    with pytest.raises(Interrupted):
        work()
    assert done == ["made"]


def test_it_waits_for_the_outermost_block() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            with uninterrupted() as interruptible:
                _tell()
                with interruptible():
                    done.append("inner")
            done.append("outer")

    with pytest.raises(Interrupted):
        work()
    assert done == ["inner", "outer"]


def test_it_does_not_wait_where_it_need_not_and_what_was_made_is_undone() -> None:
    done = []

    def work() -> None:
        with uninterrupted() as interruptible:
            try:
                with interruptible():
                    _tell()
                    done.append("never")
            finally:
                done.append("undone")

    with pytest.raises(Interrupted):
        work()
    assert done == ["undone"]


def test_one_that_waited_comes_first_thing_where_it_may() -> None:
    def work() -> None:
        with uninterrupted() as interruptible:
            _tell()
            with interruptible():
                pytest.fail("the signal should have come before")

    with pytest.raises(Interrupted):
        work()


def test_another_thread_holds_nothing_up() -> None:
    inside, over = threading.Event(), threading.Event()

    def wait() -> None:
        with uninterrupted() as interruptible, interruptible():
            inside.set()
            over.wait(30)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        assert inside.wait(30)
        with pytest.raises(Interrupted):
            _tell()
    finally:
        over.set()
        thread.join(30)


def test_a_temporary_directory_goes_with_its_block(tmp_path: Path) -> None:
    def work() -> None:
        with temporary_directory("legion-", tmp_path) as directory:
            (directory / "file").touch()
            _tell()

    with pytest.raises(Interrupted):
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_a_temporary_directory_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = os.unlink

    def unlink(*arguments: object, **options: object) -> None:
        _tell()
        remove(*arguments, **options)  # type: ignore[arg-type]

    def work() -> None:
        with temporary_directory("legion-", tmp_path) as directory:
            (directory / "file").touch()
            monkeypatch.setattr(os, "unlink", unlink)

    with pytest.raises(Interrupted):
        work()
    assert list(tmp_path.iterdir()) == []
