"""What several packages do with files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def state_directory() -> Path:
    """Where this user's programs keep what is to outlive them; a systemd unit has a directory of its own."""
    if unit := os.environ.get("STATE_DIRECTORY"):
        return Path(unit)
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "legion-iot"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def replace_file(
    path: Path,
    content: bytes | Sequence[Any],
    mode: int = 0o600,
    owner: pwd.struct_passwd | None = None,
    *,
    lasting: bool = True,
) -> None:
    """Write a file whole or not at all, in the place of another one; raises OSError.

    `content` are bytes, or several bytes-like objects. `lasting` waits for the disk, so that a power cut leaves the one
    file or the other.
    """
    with _beside(path, content, mode, owner, lasting) as temporary:
        os.replace(temporary, path)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is to be."""

    path: Path
    content: bytes
    mode: int


def replace_files(files: Sequence[NewFile]) -> None:
    """Write several files, lastingly, each in the place of another one; raises OSError with all places as they were.

    Only where the disk breaks between two renames, some are new and some are old, each of them whole.
    """
    with contextlib.ExitStack() as stack:
        written = [
            (stack.enter_context(_beside(file.path, file.content, file.mode, None, lasting=True)), file.path)
            for file in files
        ]
        for temporary, path in written:
            os.replace(temporary, path)


def create_file(path: Path, content: bytes, mode: int) -> None:
    """Write a new file whole or not at all; raises OSError, FileExistsError where there is one already."""
    with _beside(path, content, mode, None, lasting=True) as temporary:
        os.link(temporary, path)


@contextlib.contextmanager
def _beside(
    path: Path, content: bytes | Sequence[Any], mode: int, owner: pwd.struct_passwd | None, lasting: bool
) -> Iterator[Path]:
    """A temporary file in the same directory, with its rights and owner; it is gone after the block."""
    chunks: list[Any] = [content] if isinstance(content, bytes) else list(content)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), owner.pw_uid, owner.pw_gid)
            file.writelines(chunks)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
