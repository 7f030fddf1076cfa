"""The model store holds what a SHA-256 says, or nothing; and only a SHA-256 names a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from legion_iot.errors import AgentError, InputError
from legion_iot_agent.store import ModelStore

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def fill(store: ModelStore, content: bytes = CONTENT, chunk: int = 1000) -> None:
    """Chunks come in any order, and may come twice."""
    offsets = list(range(0, len(content), chunk))
    for offset in [*reversed(offsets), offsets[0]]:
        store.write(SHA256, offset, memoryview(content)[offset : offset + chunk])


def test_a_fetched_model_is_held_under_its_hash(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    fill(store)
    assert store.held() == ()
    store.finish(SHA256, len(CONTENT))
    assert store.held() == (SHA256,)
    assert store.path(SHA256).read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "models").iterdir()] == [f"{SHA256}.tflite"]
    assert ModelStore(tmp_path / "models").held() == (SHA256,)


@pytest.mark.parametrize(
    "content",
    [CONTENT[:-1], CONTENT + b"x", b"\1" + CONTENT[1:], CONTENT[:-1] + b"\0"],
    ids=["short", "long", "first", "last"],
)
def test_content_that_is_not_what_was_asked_for_is_not_kept(tmp_path: Path, content: bytes) -> None:
    store = ModelStore(tmp_path)
    fill(store, content)
    with pytest.raises(AgentError, match="SHA-256"):
        store.finish(SHA256, len(CONTENT))
    assert store.held() == ()
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_size_than_told_is_not_kept(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    fill(store)
    with pytest.raises(AgentError):
        store.finish(SHA256, len(CONTENT) + 1)
    assert list(tmp_path.iterdir()) == []


def test_after_a_mismatch_the_model_can_be_fetched_again(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    fill(store, CONTENT[::-1])
    with pytest.raises(AgentError):
        store.finish(SHA256, len(CONTENT))
    fill(store)
    store.finish(SHA256, len(CONTENT))
    assert store.held() == (SHA256,)


def test_what_an_ended_fetch_left_behind_is_removed_at_start(tmp_path: Path) -> None:
    fill(ModelStore(tmp_path))
    (tmp_path / "notes.txt").write_text("mine")
    assert len(list(tmp_path.iterdir())) == 2
    ModelStore(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_files_that_are_no_models_are_not_held(tmp_path: Path) -> None:
    for name in ("model.tflite", f"{SHA256}.tflite.bak", f"{SHA256[:-1]}.tflite", f"{SHA256.upper()}.tflite"):
        (tmp_path / name).write_bytes(CONTENT)
    assert ModelStore(tmp_path).held() == ()


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/passwd",
        "",
        ".",
        SHA256 + "/x",
        SHA256[:-1],
        SHA256 + "0",
        SHA256.upper(),
        SHA256 + "\n",
        "\0",
    ],
)
def test_a_path_is_never_built_from_anything_but_a_hash(tmp_path: Path, name: str) -> None:
    store = ModelStore(tmp_path / "models")
    with pytest.raises(AgentError):
        store.write(name, 0, memoryview(b"x"))
    with pytest.raises(AgentError):
        store.finish(name, 1)
    with pytest.raises(AgentError):
        store.path(name)
    assert list(tmp_path.rglob("*")) == [tmp_path / "models"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    store = ModelStore(tmp_path)
    (tmp_path / f"{SHA256}.part").symlink_to("/dev/full")
    with pytest.raises(AgentError, match="No space left") as caught:
        store.write(SHA256, 0, memoryview(CONTENT))
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_be_put_in_place_is_one_line(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    fill(store)
    (tmp_path / f"{SHA256}.tflite").mkdir()
    with pytest.raises(AgentError):
        store.finish(SHA256, len(CONTENT))


def test_finishing_what_was_never_fetched_is_an_error_of_the_agent(tmp_path: Path) -> None:
    with pytest.raises(AgentError):
        ModelStore(tmp_path).finish(SHA256, 1)


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = os.replace

    def named(part: Path, model: Path) -> None:
        order.append("name")
        replace(part, model)

    monkeypatch.setattr(os, "fsync", lambda file: order.append("sync"))
    monkeypatch.setattr(os, "replace", named)
    store = ModelStore(tmp_path)
    fill(store)
    store.finish(SHA256, len(CONTENT))
    assert order == ["sync", "name"]


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="--state-dir"):
        ModelStore(tmp_path / "file" / "models")
    with pytest.raises(InputError, match="--state-dir"):
        ModelStore(tmp_path / "file")
