"""The model files an agent holds, by SHA-256 of their content.

A file being fetched has the suffix `.part`; only when its hash matches does it get its name, in one rename, so a power
cut never leaves a model that is not what it says.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from legion_iot.errors import AgentError, InputError
from legion_iot.files import sha256_of

_NAME = re.compile(r"([0-9a-f]{64})\.tflite")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelStore:
    """Model files below `directory`, which is made where it is missing; raises InputError where it cannot be."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for part in directory.glob("*.part"):
                part.unlink()
        except OSError as error:
            raise InputError(f"{directory}: cannot be used ({error.strerror}); choose another --state-dir") from None

    def held(self) -> tuple[str, ...]:
        """SHA-256 of every model held, as hexadecimal digits."""
        names = (_NAME.fullmatch(path.name) for path in sorted(self._directory.iterdir()))
        return tuple(match[1] for match in names if match)

    def path(self, sha256: str) -> Path:
        """Where the model is, or would be; raises AgentError for anything but a SHA-256, which could name any file."""
        return self._file(sha256, "tflite")

    def write(self, sha256: str, offset: int, body: memoryview) -> None:
        """Put a chunk of a model being fetched in its place; raises AgentError where the disk refuses."""
        part = self._part(sha256)
        try:
            with part.open("r+b" if part.exists() else "w+b") as file:
                file.seek(offset)
                file.write(body)
        except OSError as error:
            raise AgentError(f"a model cannot be stored in {self._directory} ({error.strerror})") from None

    def finish(self, sha256: str, size: int) -> None:
        """Take a fetched model in; raises AgentError, and keeps nothing, where its content is not what was asked."""
        part = self._part(sha256)
        try:
            if part.stat().st_size != size or sha256_of(part) != sha256:
                part.unlink()
                raise AgentError("the model that was fetched does not match its SHA-256; it is not used")
            with part.open("rb") as file:
                os.fsync(file.fileno())  # else the name may outlive a power cut, and the content not
            os.replace(part, self.path(sha256))
        except OSError as error:
            raise AgentError(f"a model cannot be stored in {self._directory} ({error.strerror})") from None

    def _part(self, sha256: str) -> Path:
        return self._file(sha256, "part")

    def _file(self, sha256: str, suffix: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise AgentError(f"{sha256!r:.80} is no SHA-256 of a model; update the older side")
        return self._directory / f"{sha256}.{suffix}"
