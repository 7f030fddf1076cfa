"""The model files an agent holds, by SHA-256 of their content.

A file being fetched has the suffix `.part` and grows from its beginning on: its size says what is there, also after a
cut or a restart. Only when its hash matches does it get its name, in one rename, so that a power cut never leaves a
model that is not what it says. What is there at start is hashed, and so is a file that has changed since: a disk may
lose bits, and a model with a flipped one is never loaded.

The store keeps within a budget. Where a new model needs room, parts of others go first, then the models that were used
longest ago; never one that is needed, or was used a moment ago: the orchestrator may just be about to assign it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from legion_iot.errors import AgentError, InputError
from legion_iot.files import sha256_of

log = logging.getLogger("legion-agent")

DISK_SHARE = 0.5  # of what is free at start, for models, where no budget is given
RECENT = 180.0  # seconds after its last use in which a model is not removed
MOST_AHEAD = 8 << 20  # bytes of a model held in memory because those before them have not come yet

_NAME = re.compile(r"([0-9a-f]{64})\.tflite")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_Identity = tuple[int, int, int]  # of a file's content: size, time of change in ns, number on the disk


@dataclass(slots=True)
class _Part:
    """A model being fetched: how much of its beginning is on the disk, and what has come ahead, by offset."""

    there: int
    ahead: dict[int, bytes] = field(default_factory=dict)


class ModelStore:
    """Model files below `directory`, which is made where it is missing; raises InputError where it cannot be.

    `budget` are the bytes that models may take; None is what they take, and half of what is free. `clock` is monotonic.
    """

    def __init__(self, directory: Path, budget: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._clock = directory, clock
        self._sound: dict[str, _Identity] = {}
        self._used: dict[str, float] = {}
        self._parts: dict[str, _Part] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for path in directory.iterdir():
                if match := _NAME.fullmatch(path.name):
                    self._verify(match[1])
            self._budget = self._bytes() + int(DISK_SHARE * self._free()) if budget is None else budget
        except OSError as error:
            raise InputError(f"{directory}: cannot be used ({error.strerror}); choose another --state-dir") from None

    def held(self) -> tuple[str, ...]:
        """SHA-256 of every model held, as hexadecimal digits."""
        return tuple(sorted(self._sound))

    def path(self, sha256: str) -> Path:
        """Where the model is, or would be; raises AgentError for anything but a SHA-256, which could name any file."""
        return self._file(sha256, "tflite")

    def use(self, sha256: str) -> Path:
        """The file of a model that is to be read now; raises AgentError where it is not, or no longer, what it says."""
        path = self.path(sha256)
        if sha256 not in self._sound or not self._verify(sha256):
            raise AgentError(f"model {sha256:.12} is not what its SHA-256 says any more, or gone; it is not used")
        self._used[sha256] = self._clock()
        with contextlib.suppress(OSError):  # a disk that is read-only keeps no order
            os.utime(path)  # the order of use outlives the process
            self._sound[sha256] = _identity(path)
        return path

    # --- room ---

    def make_room(self, sha256: str, size: int, needed: Collection[str] = ()) -> tuple[int, tuple[str, ...]]:
        """Before a model of `size` bytes is fetched: how many are there from before, and what was removed for it.

        Those `needed` (SHA-256) are never removed. Raises AgentError where the model does not fit; nothing is removed.
        """
        own = self._file(sha256, "part")
        try:
            there = own.stat().st_size if own.is_file() else 0
            if there > size:
                own.unlink()
                there = 0
            self._parts = {sha256: _Part(there)}
            free, taken = self._free(), self._bytes()
            spare = min(free, self._budget - taken)
            chosen: list[Path] = []
            for path in self._removable(own, needed):
                if spare >= size - there:
                    break
                chosen.append(path)
                spare += path.stat().st_size
            if spare < size - there:
                kept = taken - there - sum(path.stat().st_size for path in chosen)
                raise AgentError(
                    f"a model of {_mb(size)} has no room: models may take {_mb(self._budget)}, those in use take "
                    f"{_mb(kept)}, and {_mb(free)} of the disk are free; free the disk, or raise --model-disk-mb"
                )
            for path in chosen:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._refused(error) from None
        removed = tuple(path.stem for path in chosen if path.suffix == ".tflite")
        for gone in removed:
            log.info("removed model %.12s to make room", gone)
            del self._sound[gone]
        return there, removed

    def _removable(self, own: Path, needed: Collection[str]) -> list[Path]:
        """Other parts, then models that nobody needs; of each, the one used longest ago first."""
        before = self._clock() - RECENT
        models = [each for each in self._sound if each not in needed and self._used.get(each, -math.inf) < before]
        parts = [path for path in self._directory.glob("*.part") if path != own]
        return sorted(parts, key=_age) + sorted(map(self.path, models), key=_age)

    def _free(self) -> int:
        return shutil.disk_usage(self._directory).free

    def _bytes(self) -> int:
        """What all models and parts take on the disk."""
        paths = [path for kind in ("tflite", "part") for path in self._directory.glob(f"*.{kind}")]
        return sum(path.stat().st_size for path in paths)

    # --- fetching ---

    def write(self, sha256: str, offset: int, body: memoryview) -> None:
        """Take a chunk of a model being fetched; it may come twice, and a little ahead of others.

        Raises AgentError where the disk refuses, and keeps nothing of the model then.
        """
        path = self._file(sha256, "part")
        part = self._parts.setdefault(sha256, _Part(0))
        if offset >= part.there:
            part.ahead[offset] = bytes(body)
        if sum(map(len, part.ahead.values())) > MOST_AHEAD:
            self._drop(sha256)
            raise AgentError("a model came in no order; it is not stored")
        try:
            with path.open("r+b" if part.there else "wb") as file:
                file.seek(part.there)
                while part.there in part.ahead:
                    part.there += file.write(part.ahead.pop(part.there))
        except OSError as error:
            self._drop(sha256)
            raise self._refused(error) from None

    def finish(self, sha256: str, size: int) -> None:
        """Take a fetched model in; raises AgentError, and keeps nothing, where its content is not what was asked."""
        path = self._file(sha256, "part")
        try:
            if path.stat().st_size != size or sha256_of(path) != sha256:
                raise AgentError("the model that was fetched does not match its SHA-256; it is not used")
            with path.open("rb") as file:
                os.fsync(file.fileno())  # else the name may outlive a power cut, and the content not
            os.replace(path, self.path(sha256))
            self._sound[sha256] = _identity(self.path(sha256))
        except OSError as error:
            raise self._refused(error) from None
        finally:
            self._drop(sha256)
        self._used[sha256] = self._clock()

    def _drop(self, sha256: str) -> None:
        self._parts.pop(sha256, None)
        with contextlib.suppress(OSError):
            self._file(sha256, "part").unlink(missing_ok=True)

    # --- what is sound ---

    def _verify(self, sha256: str) -> bool:
        """Whether a model's file is what its name says; it is hashed when it is new or has changed, else removed."""
        path = self.path(sha256)
        try:
            found = _identity(path)
            if self._sound.get(sha256) == found:
                return True
            if sha256_of(path) == sha256:
                self._sound[sha256] = found
                return True
            path.unlink()
        except OSError as error:
            log.error("model %.12s cannot be read (%s)", sha256, error.strerror)
        else:
            log.error("model %.12s is not what its SHA-256 says any more; it is removed", sha256)
        self._sound.pop(sha256, None)
        return False

    def _refused(self, error: OSError) -> AgentError:
        return AgentError(
            f"a model cannot be stored in {self._directory} ({error.strerror}); free the disk or choose another "
            "--state-dir"
        )

    def _file(self, sha256: str, suffix: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise AgentError(f"{sha256!r:.80} is no SHA-256 of a model; update the older side")
        return self._directory / f"{sha256}.{suffix}"


def _identity(path: Path) -> _Identity:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
