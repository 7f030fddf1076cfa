"""Work in a process of its own: results and errors come back, crashes and hangs become errors."""

from __future__ import annotations

import os
import time

import pytest

from legion_iot.errors import ModelError, UsageError
from legion_iot_agent.isolation import Progress, run_isolated


def double(number: int, progress: Progress) -> int:
    progress("doubling", 0.5)
    return 2 * number


def refuse(progress: Progress) -> None:
    raise UsageError("--tiles is 0")


def crash(progress: Progress) -> None:
    os.abort()


def hang(progress: Progress) -> None:
    time.sleep(60)


def silent(text: str, fraction: float | None) -> None:
    """Progress for nobody."""


def test_results_and_progress_come_back() -> None:
    heard: list[tuple[str, float | None]] = []
    assert run_isolated(double, (21,), lambda text, fraction: heard.append((text, fraction)), 30.0) == 42
    assert heard == [("doubling", 0.5)]


def test_our_errors_are_raised_here() -> None:
    with pytest.raises(UsageError, match="--tiles is 0"):
        run_isolated(refuse, (), silent, 30.0)


def test_a_crash_is_an_error_with_the_signals_name() -> None:
    with pytest.raises(ModelError, match="SIGABRT"):
        run_isolated(crash, (), silent, 30.0)


def test_a_hang_ends_at_its_deadline() -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match="within 1 s"):
        run_isolated(hang, (), silent, 1.0)
    assert time.monotonic() - start < 30
