"""docs/resilience.md names tests and rows of the bench that there are, and every code with which a request may end."""

from __future__ import annotations

import re
from pathlib import Path

from legion_iot.bench.faults.kinds import FAULTS
from legion_iot.wire.request_errors import REQUEST_ERRORS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "resilience.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 20
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def test_every_row_of_the_bench_holds_a_promise_and_the_other_way_round() -> None:
    promises = TEXT.partition("## Promises")[2].partition("## Not promised")[0]
    rows = {name for text in re.findall(r"\| rows? ([^;|]+)", promises) for name in re.findall(r"`([\w-]+)`", text)}
    assert rows == {fault.name for fault in FAULTS}


def test_every_code_has_its_advice() -> None:
    codes = re.findall(r"^\| `([\w-]+)` \|", TEXT.partition("## How requests end")[2], re.MULTILINE)
    assert codes == list(REQUEST_ERRORS)
