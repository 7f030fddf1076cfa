"""What a machine may lack, and what it is told to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from legion_iot.doctor import machine
from legion_iot.doctor.machine import BUILT, LITTLE_MEMORY


def test_this_machine_computes(tmp_path: Path) -> None:
    found = {finding.check: finding for finding in machine.examine(tmp_path / "none" / "yet")}
    assert list(found) == ["version", "runtime", "clock", "memory", "disk", "mdns"]
    assert found["runtime"].level == "ok"
    assert "computes" in found["runtime"].found
    assert {finding.about for finding in found.values()} == {"machine"}


def test_a_runtime_for_another_numpy_is_named() -> None:
    there = {"tflite-runtime": "2.14.0", "numpy": "2.4.6"}
    finding = machine.runtime(there.get)
    assert finding.level == "failure"
    assert finding.cure == "pip install 'numpy<2'"


def test_a_runtime_that_computes_wrongly_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_computes", lambda: False)
    assert machine.runtime(machine.installed).level == "failure"


@pytest.mark.parametrize(
    ("now", "synchronised", "level"),
    [(BUILT + 1, True, "ok"), (BUILT + 1, None, "ok"), (BUILT + 1, False, "warning"), (0.0, True, "failure")],
)
def test_a_clock_that_is_wrong_or_may_become_so(now: float, synchronised: bool | None, level: str) -> None:
    finding = machine.clock(now, synchronised)
    assert finding.level == level
    assert bool(finding.cure) == (level != "ok")


def test_little_memory_is_a_warning() -> None:
    assert machine.memory(LITTLE_MEMORY).level == "ok"
    assert machine.memory(LITTLE_MEMORY - 1).level == "warning"


def test_a_place_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.disk(tmp_path).level in ("ok", "warning")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    finding = machine.disk(tmp_path / "state")
    assert finding.level == "failure"
    assert "--state-dir" in finding.cure
