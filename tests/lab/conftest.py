"""Labs of a test's own: a runtime directory that nobody else uses, and programs that are found again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import Stage


@pytest.fixture
def stage(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    # Not below pytest's own directory: that one is closed to the account Mosquitto changes to.
    temporary = Path(tempfile.mkdtemp(prefix="legion-test-"))
    temporary.chmod(0o755)
    made = Stage(tmp_path_factory.getbasetemp() / "lab-cache", temporary)
    made.environment["XDG_RUNTIME_DIR"] = str(temporary)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(temporary))
    try:
        yield made
    finally:
        made.run("lab", "down")
        made.close()
        shutil.rmtree(temporary, ignore_errors=True)
