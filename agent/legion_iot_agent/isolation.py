"""Run a function in a process of its own, so that a crash of the TFLite runtime is an error and not our end.

The runtime trusts model files: one with flipped bytes can make it read where nothing is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from legion_iot.errors import LegionError, ModelError

Progress = Callable[[str, float | None], None]
_Result = TypeVar("_Result")


def run_isolated(
    function: Callable[..., _Result], arguments: tuple[Any, ...], progress: Progress, seconds: float
) -> _Result:
    """The result of `function(*arguments, progress)`, computed in a child process.

    `function`, its arguments and its result have to be picklable. Errors of ours are raised here as there; ModelError
    where the child crashes or takes longer than `seconds`.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(theirs, function, arguments), daemon=True)
    child.start()
    theirs.close()
    deadline = time.monotonic() + seconds
    try:
        while ours.poll(max(0.0, deadline - time.monotonic())):
            kind, *content = ours.recv()
            if kind == "progress":
                progress(*content)
            elif kind == "error":
                raise content[0]
            else:
                result: _Result = content[0]
                return result
        raise ModelError(f"the TFLite runtime did not end within {seconds:g} s on this model; use a smaller one")
    except EOFError:
        child.join(5.0)
        raise ModelError(
            f"the TFLite runtime crashed on this model ({_cause(child.exitcode)}); it is damaged"
        ) from None
    finally:
        child.kill()
        child.join()


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _end_with_parent() -> None:
    """However the parent ends, nothing of it goes on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The parent says what a crash means; the runtime's own last words would only stand in between.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with contextlib.suppress(BrokenPipeError):  # the parent has gone
        try:
            result = function(*arguments, lambda text, fraction: pipe.send(("progress", text, fraction)))
        except LegionError as error:
            pipe.send(("error", error))
        else:
            pipe.send(("result", result))
