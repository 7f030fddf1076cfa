"""What `legion trace` shows: no line is wider than the terminal, and the figures are those of the trace."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.cli.trace_view import COLUMNS, gantt, rows, text_before, text_behind
from legion_iot.wire.messages import Result
from tests.orchestrator.test_traces import CLOCKS
from tests.tracing.test_tracing import one_request, told

TRACE = told(one_request("r-7", 100.0, CLOCKS), Result("r-7", True, "cats", 1, 34.0))


def test_rows_are_in_order_of_time_and_follow_each_other() -> None:
    shown = list(rows(TRACE))
    assert all(len(row) == len(COLUMNS) for row in shown)
    starts = [float(row[0]) for row in shown]
    assert starts == sorted(starts)
    (tail,) = [dict(zip(COLUMNS, row, strict=True)) for row in shown if row[2] == "tail"]
    assert (tail["agent"], tail["compute"], tail["send"], tail["out"]) == ("bee", "3.0", "1.0", "0.1")


@given(st.integers(40, 160))
def test_the_chart_is_as_wide_as_the_terminal(width: int) -> None:
    lines = list(gantt(TRACE, width))
    assert [line.split()[0] for line in lines[:3]] == ["orchestrator", "ant", "bee"]
    assert {len(line) for line in lines[:3]} == {width}
    assert all(len(line) <= max(width, 52) for line in lines)
    ant = lines[1]
    # It computes for 20 of 34 ms; a column more or less at each end.
    assert ant.count("█") == pytest.approx((width - 14) * 20 / 34, abs=2)


def test_a_request_without_any_time_is_shown_all_the_same() -> None:
    empty = dataclasses.replace(TRACE, latency_ms=0.0, tiles=(), sends=(), flows=(), path=(), gaps=(), covered_ms=0.0)
    assert [*rows(empty), *gantt(empty, 80), *text_behind(empty)]


def test_what_is_said_of_a_failed_one() -> None:
    whole = one_request("r", 100.0, CLOCKS)
    failed = dataclasses.replace(whole, timings={(0, "bee"): whole.timings[0, "bee"]}, ok=False)
    trace = told(failed, Result("r", False, "cats", 1, 34.0, error="agent-lost", reason="ant went offline"))
    text = "\n".join(text_before(trace))
    assert "failed with agent-lost after 34.0 ms" in text
    assert "reason: ant went offline" in text
    assert "waited for ant (block 1 (unit 0))" in text


def test_the_parts_that_are_shown_are_those_of_the_latency() -> None:
    text = list(text_behind(TRACE))
    shares = [float(line.split()[-3]) for line in text if line.startswith("  ") and line.endswith("%")]
    assert sum(shares) == pytest.approx(34.0, abs=0.3)
