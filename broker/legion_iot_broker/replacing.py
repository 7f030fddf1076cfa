"""Files that are replaced in one step, with their rights and owner."""

from __future__ import annotations

import contextlib
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path


def replace_file(path: Path, content: bytes, mode: int, owner: pwd.struct_passwd | None = None) -> None:
    """Write a file whole or not at all, in the place of another one; raises OSError."""
    with _beside(path, content, mode, owner) as temporary:
        os.rename(temporary, path)


def create_file(path: Path, content: bytes, mode: int) -> None:
    """Write a new file whole or not at all; raises OSError, FileExistsError where there is one already."""
    with _beside(path, content, mode, None) as temporary:
        os.link(temporary, path)


@contextlib.contextmanager
def _beside(path: Path, content: bytes, mode: int, owner: pwd.struct_passwd | None) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), owner.pw_uid, owner.pw_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
