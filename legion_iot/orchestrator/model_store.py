"""The models an orchestrator is to serve whenever it runs: files by SHA-256 of their content, and names for them.

Theory. A file that is being uploaded has the suffix `.part`; it gets its name, in one rename, when all of it is on the
disk and its hash matches. A name is given to a file that is there already, by replacing the small file of all names.
So whenever the process or the machine ends, each name means a whole file or is not given; what a power cut does to a
file afterwards shows in its hash, which whoever serves it compares. Files without a name, and parts that nobody has
gone on with for a day, are removed at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from legion_iot.errors import InputError, RequestError
from legion_iot.files import replace_file, sha256_of
from legion_iot.wire.messages import MAX_MODEL
from legion_iot.wire.topics import is_model_name

_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNUSED_SECONDS = 24 * 3600.0  # after which what has no name is removed


class Refusal(RequestError):
    """What an operator asks for cannot be done; `code` is for programs."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How many names there may be, bytes of all files, bytes of one, and parts at the same time."""

    models: int = 64
    bytes: int = 32 << 30
    file_bytes: int = MAX_MODEL
    parts: int = 4


class ModelStore:
    """The store in `directory`, which is made where it is missing; names are those of one `group` (a base topic).

    Several orchestrators may share a directory, and even a group: what others write is not undone. Raises InputError
    where it cannot be used.
    """

    def __init__(self, directory: Path, group: str, limits: StoreLimits = StoreLimits()) -> None:
        self._directory, self._limits = directory, limits
        self._names_file = directory / f"{group.replace('/', '.')}.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._names = _read_names(self._names_file)
            self._tidy_up()
        except OSError as error:
            raise InputError(f"{directory}: cannot be used ({error.strerror}); choose another --state-dir") from None

    @property
    def names(self) -> Mapping[str, str]:
        """SHA-256 of the model by name."""
        return self._names

    def path(self, sha256: str) -> Path:
        """Where the file is, or would be."""
        assert _SHA256.fullmatch(sha256), "it becomes a file's name"
        return self._directory / f"{sha256}.tflite"

    def holds(self, sha256: str) -> bool:
        """Whether the whole file is there."""
        return self.path(sha256).is_file()

    # --- names ---

    def keep(self, name: str, sha256: str) -> None:
        """Give a name to a file that is there, in the place of another one. Raises Refusal where the disk is full."""
        assert is_model_name(name)
        assert self.holds(sha256)
        self.check_room(name)
        self._write_names({**_read_names(self._names_file), name: sha256})

    def check_room(self, name: str) -> None:
        """Raises Refusal where there are too many other names for one more."""
        if len(self._names.keys() | {name}) > self._limits.models:
            reason = f"{self._limits.models} models are kept already; remove one: legion model remove NAME"
            raise Refusal("too-many", reason)

    def forget(self, name: str) -> None:
        """Take a name back, and remove its file where it has no other. Raises Refusal where the disk is full."""
        sha256, names = self._names[name], _read_names(self._names_file)
        names.pop(name, None)
        self._write_names(names)
        self.discard(sha256)

    def _write_names(self, names: dict[str, str]) -> None:
        try:
            replace_file(self._names_file, json.dumps(names, indent=1).encode())
        except OSError as error:
            self._refuse(error)
        self._names = names

    # --- files ---

    def begin(self, sha256: str, size: int) -> int:
        """How many bytes of an upload are there already. Raises Refusal where there is no room for the rest."""
        if not 0 < size <= self._limits.file_bytes:
            reason = f"the model has {size} bytes, and {self._limits.file_bytes} are allowed"
            raise Refusal("too-large", reason)
        part = self._part(sha256)
        there = _size(part)
        if there > size:
            part.unlink(missing_ok=True)
            there = 0
        used = sum(map(_size, self._directory.iterdir()))
        if used + size - there > self._limits.bytes:
            reason = f"the orchestrator keeps {used >> 20} MB of models, and {self._limits.bytes >> 20} MB are allowed"
            raise Refusal("no-space", f"{reason}; remove one: legion model remove NAME")
        if shutil.disk_usage(self._directory).free < size - there:
            raise Refusal("disk", f"the orchestrator's disk has no room for {(size - there) >> 20} MB more")
        self._make_room_for(part)
        return there

    def write(self, sha256: str, offset: int, body: memoryview) -> None:
        """Put a piece of an upload after those that are there. Raises Refusal where the disk is full."""
        try:
            with open(self._part(sha256), "ab", opener=_for_owner) as file:
                assert file.tell() == offset
                file.write(body)
        except OSError as error:
            self._refuse(error)

    def finish(self, sha256: str, size: int) -> None:
        """Take an uploaded file in. Raises Refusal, and keeps nothing, where its content is not what it was said to be.

        Takes as long as reading the file does; may be called from any thread.
        """
        part = self._part(sha256)
        try:
            with part.open("rb") as file:
                os.fsync(file.fileno())  # else the name may outlive a power cut, and the content not
            if part.stat().st_size != size or sha256_of(part) != sha256:
                part.unlink()
                raise Refusal("damaged", "what was uploaded does not match its SHA-256; add the model again")
            os.replace(part, self.path(sha256))
        except OSError as error:
            self._refuse(error)

    def discard(self, sha256: str) -> None:
        """Remove a file, unless it has a name."""
        with contextlib.suppress(OSError):  # a later start tries again
            if sha256 not in self._all_names():
                self.path(sha256).unlink(missing_ok=True)

    def _part(self, sha256: str) -> Path:
        return self.path(sha256).with_suffix(".part")

    def _make_room_for(self, part: Path) -> None:
        """Of the parts that nobody goes on with, the oldest go."""
        others = [each for each in self._directory.glob("*.part") if each != part]
        others.sort(key=_changed)
        for each in others[: max(0, len(others) + 1 - self._limits.parts)]:
            each.unlink(missing_ok=True)

    def _tidy_up(self) -> None:
        named = self._all_names()
        for path in self._directory.iterdir():
            unnamed = path.suffix == ".tflite" and path.stem not in named
            unused = unnamed or path.suffix == ".part" or path.name.startswith(".")  # a dot: half of a file of names
            if unused and time.time() - _changed(path) > _UNUSED_SECONDS:
                path.unlink(missing_ok=True)

    def _all_names(self) -> set[str]:
        """SHA-256 of all models that have a name, in any group."""
        return {sha256 for file in self._directory.glob("*.json") for sha256 in _read_names(file).values()}

    def _refuse(self, error: OSError) -> NoReturn:
        what = "its disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror)
        raise Refusal("disk", f"the orchestrator cannot store it in {self._directory}: {what}") from None


def _for_owner(path: str, flags: int) -> int:
    """Opens a file that, where it is new, is for its owner only."""
    return os.open(path, flags, 0o600)


def _size(path: Path) -> int:
    """In bytes; 0 for a file that is gone. Parts become models meanwhile, in other threads and by other groups."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _changed(path: Path) -> float:
    """When it was written last; 0 for a file that is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read_names(file: Path) -> dict[str, str]:
    """What a file of names holds; empty where it is none of this version, since nothing else can be made of it."""
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: sha256
        for name, sha256 in found.items()
        if is_model_name(name) and isinstance(sha256, str) and _SHA256.fullmatch(sha256)
    }
