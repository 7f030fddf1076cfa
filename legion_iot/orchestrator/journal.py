"""The requests that were accepted and not answered, in a file that outlives the process.

Theory. An orchestrator that is killed has taken requests from the broker that nobody else knows of. So each is noted
before the broker is told that it has arrived, and noted as ended once the broker has its answer; after a restart, what
is still open is answered with an error. A process that dies between an answer and its note answers twice, with the same
request's name; none is forgotten.

A note is one line, appended by one write(2) without waiting for the disk: it survives the process, and a power cut may
take the last seconds. A torn line is passed over. The file is written anew, with what is open, when it has grown.

The highest epoch is noted likewise, so that the next process's lie above it even when the clock was set back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from legion_iot.errors import InputError
from legion_iot.files import replace_file

log = logging.getLogger("legion-orchestrator")

MOST_OPEN = 4096  # requests; more are accepted, but not noted
LARGEST = 1 << 20  # bytes, from which on the file is written anew,
MOST_READ = 64 << 20  # and of which no more are ever read
LONGEST_NOTE = 200_000  # bytes: what MQTT lets a requester attach is shorter


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request's name, its model, and where its answer goes: empty for the model's result topic."""

    request: str
    model: str
    response_topic: str = ""
    correlation: str = ""  # hexadecimal


class Journal:
    """Notes in the file at `path`; without a path, in memory only. May be used from several threads.

    `left` are the requests that the last process left open, `epoch` the highest one noted. Raises InputError where the
    file cannot be used, or another process uses it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._open: dict[str, OpenRequest] = {}
        self._file: int | None = None
        self._size = 0
        self.epoch = 0
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._guard = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._claim()
                self._read(path)
                self._write_anew(path)
            except OSError as error:
                raise InputError(f"{path}: cannot be used ({error.strerror}); choose another --state-dir") from None
        self.left = tuple(self._open.values())

    def opened(self, request: OpenRequest) -> None:
        """The request is accepted."""
        with self._lock:
            if len(self._open) < MOST_OPEN:
                self._open[request.request] = request
                self._note({"open": asdict(request)})

    def ended(self, request: str) -> None:
        """The request has been answered."""
        with self._lock:
            if self._open.pop(request, None) is not None:
                self._note({"end": request})

    def begun(self, epoch: int) -> None:
        """That epoch's number is used."""
        with self._lock:
            if epoch > self.epoch:
                self.epoch = epoch
                self._note({"epoch": epoch})

    def close(self) -> None:
        """Let others use the file."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                os.close(self._guard)
                self._file = None

    def _claim(self) -> None:
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._guard)
            raise InputError(
                f"{self._path}: another orchestrator serves this group from here; end it, or give this one a "
                "--base-topic or a --state-dir of its own"
            ) from None

    def _read(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            for line in file.read(MOST_READ).split(b"\n"):
                with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
                    self._replay(json.loads(line))

    def _replay(self, note: Any) -> None:
        match note:
            case {"open": {"request": str(name), **rest}} if len(self._open) < MOST_OPEN:
                model, topic, correlation = (rest.get(e, "") for e in ("model", "response_topic", "correlation"))
                if isinstance(model, str) and isinstance(topic, str) and isinstance(correlation, str):
                    bytes.fromhex(correlation)  # a ValueError is the caller's
                    self._open[name] = OpenRequest(name, model, topic, correlation)
            case {"end": str(name)}:
                self._open.pop(name, None)
            case {"epoch": int(epoch)}:
                self.epoch = max(self.epoch, epoch)

    def _note(self, note: dict[str, Any]) -> None:
        if self._file is None or self._path is None:
            return
        line = json.dumps(note, separators=(",", ":")).encode() + b"\n"
        if len(line) > LONGEST_NOTE:
            return
        try:
            self._size += os.write(self._file, line)
            if self._size > LARGEST:
                self._write_anew(self._path)
        except OSError as error:  # a full disk keeps nobody from being served
            log.warning("%s: cannot be written (%s): a restart will not remember every request", self._path, error)

    def _write_anew(self, path: Path) -> None:
        notes = [{"epoch": self.epoch}, *({"open": asdict(request)} for request in self._open.values())]
        content = b"".join(json.dumps(note, separators=(",", ":")).encode() + b"\n" for note in notes)
        replace_file(path, content, lasting=False)
        before, self._file = self._file, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if before is not None:
            os.close(before)
        self._size = len(content)
