"""The store of models: whatever ends the process, whenever, each name means a whole file or is not given."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.errors import InputError
from legion_iot.orchestrator.model_store import ModelStore, Refusal, StoreLimits

FILES = [bytes([seed]) * size for seed, size in ((1, 700), (2, 1000), (3, 1))]
NAMES = ["cats", "dogs", "v1.2_x"]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def upload(store: ModelStore, content: bytes, piece: int = 300) -> None:
    """All of a file, from where an earlier upload has ended."""
    offset = store.begin(sha(content), len(content))
    while offset < len(content):
        body = content[offset : offset + piece]
        store.write(sha(content), offset, memoryview(body))
        offset += len(body)
    store.finish(sha(content), len(content))


def check(store: ModelStore) -> None:
    for sha256 in store.names.values():
        assert store.holds(sha256)
        assert sha(store.path(sha256).read_bytes()) == sha256


def test_what_is_kept_is_there_for_the_next_run(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, "kitchen/legion")
    upload(store, FILES[0])
    store.keep("cats", sha(FILES[0]))
    again = ModelStore(tmp_path, "kitchen/legion")
    assert dict(again.names) == {"cats": sha(FILES[0])}
    check(again)
    other = ModelStore(tmp_path, "kitchen.legion/x")
    assert dict(other.names) == {}
    other.keep("mine", sha(FILES[0]))
    again.forget("cats")
    check(other)  # the other group's file is not removed with ours
    other.forget("mine")
    assert not other.holds(sha(FILES[0]))


ACTIONS = st.one_of(
    st.tuples(st.just("upload"), st.integers(0, 2)),
    st.tuples(st.just("keep"), st.integers(0, 2), st.sampled_from(NAMES)),
    st.tuples(st.just("forget"), st.sampled_from(NAMES)),
    st.tuples(st.just("open")),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=25))
def test_any_order_of_actions(tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[object, ...]]) -> None:
    directory = tmp_path_factory.mktemp("store")
    store, expected = ModelStore(directory, "legion"), dict[str, str]()
    for action in actions:
        match action:
            case ("upload", int(number)):
                upload(store, FILES[number])
            case ("keep", int(number), str(name)) if store.holds(sha(FILES[number])):
                store.keep(name, sha(FILES[number]))
                expected[name] = sha(FILES[number])
            case ("forget", str(name)) if name in expected:
                store.forget(name)
                assert store.holds(expected[name]) == (expected.pop(name) in expected.values())
            case ("open",):
                store = ModelStore(directory, "legion")
        assert dict(store.names) == expected
        check(store)


def until_it_dies(work: Callable[[], None], calls: int) -> bool:
    """Do it in a process that ends at once, as by SIGKILL, before its n-th call on a file; whether it got so far."""
    child = os.fork()
    if child == 0:
        left = calls

        def audit(event: str, arguments: object) -> None:
            nonlocal left
            if event in ("open", "os.rename", "os.remove"):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(audit)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_killed_before_any_of_its_calls(tmp_path: Path) -> None:
    """Replace one model by another, and die at each place in turn."""
    for calls in range(200):
        directory = tmp_path / str(calls)
        store = ModelStore(directory, "legion")
        upload(store, FILES[0])
        store.keep("cats", sha(FILES[0]))

        def replace(store: ModelStore = store) -> None:
            upload(store, FILES[1])
            store.keep("cats", sha(FILES[1]))
            store.discard(sha(FILES[0]))

        died = until_it_dies(replace, calls)
        after = ModelStore(directory, "legion")
        assert after.names["cats"] in (sha(FILES[0]), sha(FILES[1]))
        check(after)
        upload(after, FILES[1])  # goes on where it was
        after.keep("cats", sha(FILES[1]))
        check(after)
        if not died:
            assert calls > 8, "it died nowhere"
            return
    raise AssertionError("it always dies")


@pytest.fixture
def full(tmp_path: Path) -> ModelStore:
    """A store whose disk takes no further piece of the second file."""
    store = ModelStore(tmp_path, "legion")
    upload(store, FILES[0])
    store.keep("cats", sha(FILES[0]))
    (tmp_path / f"{sha(FILES[1])}.part").symlink_to("/dev/full")
    return store


def test_a_full_disk_is_said_and_harms_nothing(full: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert full.begin(sha(FILES[1]), len(FILES[1])) == 0
    with pytest.raises(Refusal, match="disk is full") as caught:
        full.write(sha(FILES[1]), 0, memoryview(FILES[1]))
    assert caught.value.code == "disk"

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("legion_iot.orchestrator.model_store.replace_file", no_space)
    for change in (lambda: full.keep("dogs", sha(FILES[0])), lambda: full.forget("cats")):
        with pytest.raises(Refusal, match="disk is full"):
            change()
        assert dict(full.names) == {"cats": sha(FILES[0])}
        check(full)


def test_a_disk_without_room_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no room") as caught:
        ModelStore(tmp_path, "legion", StoreLimits(bytes=1 << 60, file_bytes=1 << 60)).begin("ab" * 32, 1 << 59)
    assert caught.value.code == "disk"


def test_what_does_not_match_its_hash_is_never_kept(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, "legion")
    wrong = sha(b"something else")
    store.begin(wrong, 3)
    store.write(wrong, 0, memoryview(b"abc"))
    with pytest.raises(Refusal, match="does not match"):
        store.finish(wrong, 3)
    assert not store.holds(wrong)
    assert store.begin(wrong, 3) == 0


def test_limits(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, "legion", StoreLimits(models=2, bytes=2000, file_bytes=1000, parts=2))
    for size, code in ((0, "too-large"), (1001, "too-large")):
        with pytest.raises(Refusal) as caught:
            store.begin("ab" * 32, size)
        assert caught.value.code == code
    upload(store, FILES[0])
    upload(store, FILES[1])
    with pytest.raises(Refusal) as caught:
        store.begin("ab" * 32, 400)
    assert caught.value.code == "no-space"
    store.keep("a", sha(FILES[0]))
    store.keep("b", sha(FILES[1]))
    store.keep("b", sha(FILES[0]))
    with pytest.raises(Refusal) as caught:
        store.keep("c", sha(FILES[0]))
    assert caught.value.code == "too-many"


@pytest.mark.parametrize("look", [1, 2])
def test_a_part_becomes_a_model_while_another_one_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """As it does in the background, and by an orchestrator of another group; at any look at the file."""
    store, model = ModelStore(tmp_path, "legion"), sha(FILES[0])
    store.begin(model, len(FILES[0]))
    store.write(model, 0, memoryview(FILES[0]))
    part, looks, stat = tmp_path / f"{model}.part", itertools.count(1), Path.stat

    def renamed_before(path: Path, **options: bool) -> os.stat_result:
        if path == part and next(looks) == look:
            part.rename(store.path(model))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", renamed_before)
    assert store.begin(sha(FILES[1]), len(FILES[1])) == 0
    assert store.holds(model)


def test_of_parts_that_nobody_goes_on_with_the_oldest_go(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, "legion", StoreLimits(parts=2))
    for number, digit in enumerate("abc"):
        store.begin(digit * 64, 10)
        store.write(digit * 64, 0, memoryview(b"x"))
        os.utime(tmp_path / f"{digit * 64}.part", (number, number))
    assert store.begin("c" * 64, 10) == 1
    assert store.begin("a" * 64, 10) == 0
    assert len(list(tmp_path.glob("*.part"))) <= 2
    ModelStore(tmp_path, "legion")  # they are older than a day
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"../../x": "ab"}', b'{"cats": 1}', b'{"cats": "../../x"}', b"\xff"]
)
def test_a_file_of_names_that_is_none_names_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "legion.json").write_bytes(content)
    assert dict(ModelStore(tmp_path, "legion").names) == {}


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--state-dir"):
        ModelStore(tmp_path / "file" / "store", "legion")
