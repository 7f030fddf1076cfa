"""What several packages do with files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

_CHUNK = 1 << 20


def state_directory() -> Path:
    """Where this user's programs keep what is to outlive them; systemd may say where."""
    home = os.environ.get("STATE_DIRECTORY") or os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "legion-iot"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in the place of another in one go, so that a power cut leaves the one or the other; raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
