"""The model store holds what a SHA-256 says, or nothing; it keeps its budget, and only a SHA-256 names a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.errors import AgentError, InputError
from legion_iot.files import sha256_of
from legion_iot_agent.store import MOST_AHEAD, RECENT, ModelStore

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


def test_a_fetch_goes_on_after_a_restart_where_it_was_cut(tmp_path: Path) -> None:
    first = ModelStore(tmp_path)
    assert first.make_room(SHA256, len(CONTENT)) == (0, ())
    for offset in (0, 1000, 3000):  # the one at 2000 is under way
        first.write(SHA256, offset, memoryview(CONTENT)[offset : offset + 1000])
    again = ModelStore(tmp_path)
    assert again.held() == ()
    there, _ = again.make_room(SHA256, len(CONTENT))
    assert there == 2000
    for offset in range(there, len(CONTENT), 700):
        again.write(SHA256, offset, memoryview(CONTENT)[offset : offset + 700])
    again.finish(SHA256, len(CONTENT))
    assert again.path(SHA256).read_bytes() == CONTENT
    assert ModelStore(tmp_path).held() == (SHA256,)


@pytest.mark.parametrize("left", [b"\0" * 3000, CONTENT + b"x"], ids=["zeros after a power cut", "too long"])
def test_what_cannot_be_completed_is_dropped_and_fetched_from_the_beginning(tmp_path: Path, left: bytes) -> None:
    (tmp_path / f"{SHA256}.part").write_bytes(left)
    store = ModelStore(tmp_path)
    there, _ = store.make_room(SHA256, len(CONTENT))
    assert there == (3000 if len(left) == 3000 else 0)
    if there:
        store.write(SHA256, there, memoryview(CONTENT)[there:])
        with pytest.raises(AgentError, match="SHA-256"):
            store.finish(SHA256, len(CONTENT))
        assert store.make_room(SHA256, len(CONTENT)) == (0, ())
    store.write(SHA256, 0, memoryview(CONTENT))
    store.finish(SHA256, len(CONTENT))
    assert store.held() == (SHA256,)


def test_chunks_that_come_in_no_order_take_bounded_memory(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    chunk = memoryview(bytes(MOST_AHEAD // 4))
    for number in range(1, 5):
        store.write(SHA256, number * len(chunk), chunk)
    with pytest.raises(AgentError, match="no order"):
        store.write(SHA256, 5 * len(chunk), chunk)
    assert list(tmp_path.iterdir()) == []


# --- bits that are lost ---


def held(directory: Path, *contents: bytes) -> list[str]:
    """Models that an earlier process has fetched, the one used longest ago first."""
    names = []
    for number, content in enumerate(contents):
        names.append(hashlib.sha256(content).hexdigest())
        path = directory / f"{names[-1]}.tflite"
        path.write_bytes(content)
        os.utime(path, (1000 + number, 1000 + number))
    return names


def test_a_model_that_has_lost_a_bit_is_removed_at_start(tmp_path: Path) -> None:
    sound, broken = held(tmp_path, CONTENT, b"other")
    (tmp_path / f"{broken}.tflite").write_bytes(b"othes")
    assert ModelStore(tmp_path).held() == (sound,)
    assert [p.stem for p in tmp_path.iterdir()] == [sound]


@pytest.mark.parametrize("change", ["bit", "cut", "gone"])
def test_a_model_that_changes_under_way_is_not_used(tmp_path: Path, change: str) -> None:
    (name,) = held(tmp_path, CONTENT)
    store = ModelStore(tmp_path)
    assert store.use(name).read_bytes() == CONTENT
    path = tmp_path / f"{name}.tflite"
    match change:
        case "bit":
            path.write_bytes(b"\1" + CONTENT[1:])
        case "cut":
            path.write_bytes(CONTENT[:-1])
        case _:
            path.unlink()
    with pytest.raises(AgentError, match="not used"):
        store.use(name)
    assert store.held() == ()
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_hashed_once_while_it_does_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = held(tmp_path, CONTENT)
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return sha256_of(path)

    monkeypatch.setattr("legion_iot_agent.store.sha256_of", counted)
    store = ModelStore(tmp_path)
    for _ in range(3):
        store.use(name)
    assert len(hashed) == 1


def test_a_model_that_is_not_held_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="not used"):
        ModelStore(tmp_path).use(SHA256)


# --- the budget ---


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_models_used_longest_ago_make_room(tmp_path: Path) -> None:
    a, b, c = held(tmp_path, b"a" * 40, b"b" * 40, b"c" * 40)
    store = ModelStore(tmp_path, 150)
    assert store.make_room(SHA256, 30) == (0, ()), "it fits as it is"
    assert store.make_room(SHA256, 60) == (0, (a,))
    assert store.held() == tuple(sorted((b, c)))
    assert store.make_room(SHA256, 100) == (0, (b,))


def test_a_model_that_was_used_or_is_needed_stays(tmp_path: Path) -> None:
    a, b, c = held(tmp_path, b"a" * 40, b"b" * 40, b"c" * 40)
    clock = Clock()
    store = ModelStore(tmp_path, 120, clock)
    store.use(a)
    assert store.make_room(SHA256, 40, {b}) == (0, (c,))
    with pytest.raises(AgentError) as caught:
        store.make_room(SHA256, 80, {b})
    assert str(caught.value).startswith("a model of 0.0 MB has no room: models may take 0.0 MB")
    assert "--model-disk-mb" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.held() == tuple(sorted((a, b))), "nothing is removed for what does not fit"
    clock.now = RECENT + 1
    assert store.make_room(SHA256, 80, {b}) == (0, (a,))


def test_the_order_of_use_outlives_the_process(tmp_path: Path) -> None:
    a, b = held(tmp_path, b"a" * 40, b"b" * 40)
    ModelStore(tmp_path, 100).use(a)
    assert ModelStore(tmp_path, 100).make_room(SHA256, 50) == (0, (b,))


def test_parts_of_other_models_go_before_models(tmp_path: Path) -> None:
    held(tmp_path, b"a" * 40)
    (tmp_path / f"{'0' * 64}.part").write_bytes(bytes(40))
    store = ModelStore(tmp_path, 100)
    assert store.make_room(SHA256, 60) == (0, ())
    assert len(list(tmp_path.iterdir())) == 1


def test_a_part_counts_once(tmp_path: Path) -> None:
    (tmp_path / f"{SHA256}.part").write_bytes(CONTENT[:4000])
    assert ModelStore(tmp_path, len(CONTENT)).make_room(SHA256, len(CONTENT)) == (4000, ())


@pytest.mark.parametrize("free", [100, 0])
def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(ModelStore, "_free", lambda self: free)
    with pytest.raises(AgentError, match="of the disk are free"):
        ModelStore(tmp_path, 1 << 30).make_room(SHA256, 101)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_happens_the_store_keeps_its_budget_and_serves_only_what_is_sound(data: st.DataObject) -> None:
    budget = data.draw(st.integers(20, 120))
    contents = [bytes([number]) * size for number, size in enumerate((10, 20, 30, 45, 60))]
    by_name = {hashlib.sha256(content).hexdigest(): content for content in contents}
    with tempfile.TemporaryDirectory() as name:
        directory, clock = Path(name), Clock()
        store = ModelStore(directory, budget, clock)
        for _ in range(data.draw(st.integers(1, 12))):
            clock.now += data.draw(st.sampled_from([1.0, RECENT + 1]))
            if data.draw(st.booleans()):
                store = ModelStore(directory, budget, clock)  # a restart
            sha256 = data.draw(st.sampled_from(sorted(by_name)))
            content, needed = by_name[sha256], set(data.draw(st.lists(st.sampled_from(sorted(by_name)), max_size=2)))
            before = set(store.held())
            if sha256 in before:
                assert store.use(sha256).read_bytes() == content
                continue
            with contextlib.suppress(AgentError):
                there, removed = store.make_room(sha256, len(content), needed)
                assert set(store.held()) == before - set(removed)
                assert not needed & set(removed)
                for offset in range(there, data.draw(st.sampled_from([len(content), there + 7])), 7):
                    store.write(sha256, offset, memoryview(content)[offset : offset + 7])
                store.finish(sha256, len(content))
            assert sum(path.stat().st_size for path in directory.iterdir()) <= budget
            assert {path.stem for path in directory.glob("*.tflite")} == set(store.held())
            for each in store.held():
                assert store.path(each).read_bytes() == by_name[each]


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
        store.make_room(name, 1)
    with pytest.raises(AgentError):
        store.use(name)
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
