"""What a journal says after the process that wrote it has died, at any byte."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest

from legion_iot.errors import InputError
from legion_iot.orchestrator import journal as module
from legion_iot.orchestrator.journal import Journal, OpenRequest


def request(number: int) -> OpenRequest:
    return OpenRequest(f"r-{number}", "vgg16", f"answers/me/{number}", f"{number:08x}")


def test_what_is_open_is_left_and_what_has_ended_is_not(tmp_path: Path) -> None:
    path = tmp_path / "state" / "requests.jsonl"
    first = Journal(path)
    assert (first.left, first.epoch) == ((), 0)
    for number in range(4):
        first.opened(request(number))
    first.ended("r-1")
    first.ended("r-never")
    first.begun(77)
    first.begun(12)
    first.close()
    second = Journal(path)
    assert second.left == (request(0), request(2), request(3))
    assert second.epoch == 77
    for each in second.left:
        second.ended(each.request)
    second.close()
    assert Journal(path).left == ()


def _write_and_die(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    journal = Journal(path)
    for number in range(1000):
        journal.opened(request(number))
        if number % 2:
            journal.ended(f"r-{number}")
    ready.set()
    signal.pause()


def test_a_killed_process_has_lost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=_write_and_die, args=(path, ready), daemon=True)
    child.start()
    assert ready.wait(60)
    with pytest.raises(InputError, match="another orchestrator"):
        Journal(path)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(20)
    assert Journal(path).left == tuple(request(number) for number in range(0, 1000, 2))


@pytest.mark.parametrize("seed", range(30))
def test_a_file_cut_or_damaged_anywhere_is_read_as_far_as_it_goes(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    path = tmp_path / "requests.jsonl"
    journal = Journal(path)
    for number in range(30):
        journal.opened(request(number))
    journal.close()
    content = bytearray(path.read_bytes())
    damaged = draw.randrange(len(content))
    content[damaged] = draw.randrange(256)
    cut = draw.randrange(len(content))
    path.write_bytes(content[:cut])
    whole = content[:cut].split(b"\n")[:-1]
    # The first line is the epoch's, and one byte spoils two lines at most.
    assert len(Journal(path).left) >= len(whole) - 3


@pytest.mark.parametrize(
    "noise", [b"\xff" * 1000, b"[" * 100_000, b'{"open": 3}\n{"open": {"request": "a", "model": 1}}\n']
)
def test_noise_is_passed_over(noise: bytes, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(noise)
    assert Journal(path).left == ()


def test_the_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 10_000)
    path = tmp_path / "requests.jsonl"
    journal = Journal(path)
    journal.opened(request(0))
    for number in range(1, 2000):
        journal.opened(request(number))
        journal.ended(f"r-{number}")
    assert path.stat().st_size < 11_000
    journal.close()
    assert Journal(path).left == (request(0),)


def test_where_no_file_can_be_opened_nothing_is_written_into_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 300)
    journal = Journal(tmp_path / "requests.jsonl")
    open_file = os.open

    def none_left(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_APPEND:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(path, flags, mode)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", none_left)
        for number in range(20):
            journal.opened(request(number))
    with (tmp_path / "other").open("wb"):  # takes the number of a descriptor that is free
        for number in range(20, 40):
            journal.opened(request(number))
    assert (tmp_path / "other").read_bytes() == b""
    journal.close()
    assert len(Journal(tmp_path / "requests.jsonl").left) == 40


def test_no_more_is_noted_than_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OPEN", 3)
    journal = Journal(tmp_path / "requests.jsonl")
    for number in range(5):
        journal.opened(request(number))
    journal.close()
    assert len(Journal(tmp_path / "requests.jsonl").left) == 3


def test_without_a_file_nothing_is_kept() -> None:
    journal = Journal()
    journal.opened(request(1))
    journal.begun(5)
    journal.ended("r-1")
    journal.close()
    assert journal.left == ()


def test_a_directory_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--state-dir"):
        Journal(tmp_path / "file" / "requests.jsonl")
