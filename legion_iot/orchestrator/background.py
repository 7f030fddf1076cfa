"""What takes long, one thing after the other in a thread of its own: messages do not wait for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from legion_iot.errors import LegionError, RequestError

log = logging.getLogger("legion-orchestrator")

T = TypeVar("T")


class Background:
    """The thread; `wake` is called in it when something is done."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._jobs: queue.SimpleQueue[Callable[[], Callable[[], None]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], T], done: Callable[[T | LegionError], None]) -> None:
        """Do the job; `deliver` hands what it returns, or the error it ends with, to `done`."""

        def run() -> Callable[[], None]:
            outcome: T | LegionError
            try:
                outcome = job()
            except LegionError as error:
                outcome = error
            except Exception as error:  # a mistake in one job must not end the serving of requests
                log.exception("a job failed")
                outcome = RequestError(f"it failed: {type(error).__name__}: {error}")
            return lambda: done(outcome)

        self._jobs.put(run)

    def deliver(self) -> None:
        """Hand over what has been done, in the thread that calls this."""
        while not self._done.empty():
            self._done.get()()

    def stop(self) -> None:
        """Begin nothing more; what is being done is not waited for."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._done.put(job())
            self._wake()
