"""A package index that is a local directory, and wheels made on the spot."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from legion_iot.zoo.download import Wheel

MakeWheel = Callable[..., Wheel]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory pip takes wheels from; there is nothing else."""
    directory = tmp_path / "index"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return directory


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "legion-iot" / "zoo"


@pytest.fixture
def make_wheel(index: Path) -> MakeWheel:
    """Puts a wheel with the given files into the index, and returns its pin."""

    def make(files: dict[str, bytes], project: str = "legion-test-weights", tag: str = "py3-none-any") -> Wheel:
        stem = f"{project.replace('-', '_')}-1.0"
        info = f"{stem}.dist-info"
        path = index / f"{stem}-{tag}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
            archive.writestr(f"{info}/RECORD", "")
        content = path.read_bytes()
        return Wheel(project, "1.0", hashlib.sha256(content).hexdigest(), len(content))

    return make
