"""Told to end by a signal: `Interrupted` is raised, except where something is being made or undone that outlives us.

Theory. `Interrupted` comes between any two instructions of the main thread, so that every `with` block on the way up
stops what it started. Between making a process or a directory and noting how it is undone, and while it is undone, it
would leave things behind; there, the signal waits:

    with uninterrupted() as interruptible:
        thing = make()
        try:
            with interruptible():
                yield thing
        finally:
            undo(thing)

Masking signals would not do: other threads would take them, and processes started meanwhile would inherit the mask.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal told us to end; not a KeyboardInterrupt, which some versions of typer end silently."""


class _Signals:
    """What this process has been told; `waits` counts the `uninterrupted` blocks the main thread is in."""

    waits = 0
    told = False


def end_on_signals() -> None:
    """Raise `Interrupted` on SIGINT, SIGTERM and SIGHUP, but for those that are ignored, as by `nohup`."""
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    # Once is enough: a second Ctrl-C shall not cut off the stopping of what was started.
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    _Signals.told = True
    _raise_if_told()


def _raise_if_told() -> None:
    if _Signals.told and not _Signals.waits:
        _Signals.told = False
        raise Interrupted


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Inside `with`, `Interrupted` waits for the end of the block, or for `with interruptible()`, which is yielded.

    Only the main thread is ever interrupted; in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield contextlib.nullcontext
        return
    _Signals.waits += 1
    try:
        yield _interruptible
    finally:
        _Signals.waits -= 1
        _raise_if_told()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    _Signals.waits -= 1
    try:
        _raise_if_told()
        yield
    finally:
        _Signals.waits += 1


@contextlib.contextmanager
def temporary_directory(prefix: str, place: Path | None = None) -> Iterator[Path]:
    """A directory inside `with`, below `place` or where temporary files go; raises OSError where it cannot be made."""
    with uninterrupted() as may_end, tempfile.TemporaryDirectory(prefix=prefix, dir=place) as name, may_end():
        yield Path(name)
