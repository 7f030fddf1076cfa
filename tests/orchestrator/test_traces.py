"""What is kept of requests: the last ones, with what was reported of their last attempt, before the end or after it."""

from __future__ import annotations

import dataclasses
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.orchestrator.traces import KEPT, Traces
from legion_iot.wire import codec
from legion_iot.wire.messages import Result
from legion_iot.wire.trace import PAGE, RequestTrace, TraceFlow, TraceTile, page, put_together
from tests.tracing.test_tracing import one_request, two_agents

CLOCKS = {"ant": 50.0, "bee": -70.0}


def run(traces: Traces, name: str, start: float, *, error: str = "", late: tuple[int, str] | None = None) -> None:
    """A request as in the tests of tracing, each thing when it happens; the report of a `late` step comes last."""
    seen = one_request(name, start, CLOCKS)
    traces.arrived(name, start - 0.005, start)
    traces.begun(name, 1, 1, two_agents(), 0, start)
    for send in seen.times.sends:
        traces.sent(name, send)
    for (step, agent), timing in seen.timings.items():
        if (step, agent) != late:
            traces.timed(agent, timing)
    if not error:
        traces.received(name, "bee", start + 0.034, 40)
    traces.ended(Result(name, not error, "cats", 1, 34.0, error=error, reason=error), 0.034)
    if late is not None:
        traces.timed(late[1], seen.timings[late])


def told(traces: Traces, name: str) -> RequestTrace:
    make = traces.of(name)
    assert make is not None
    return make()


@pytest.mark.parametrize("late", [None, (1, "bee")])
def test_a_request_is_told_of_with_what_is_reported_after_its_end(late: tuple[int, str] | None) -> None:
    traces = Traces()
    run(traces, "r-1", 100.0, late=late)
    trace = told(traces, "r-1")
    assert trace.missing == ()
    assert sum(share.ms for share in trace.path) == pytest.approx(trace.latency_ms, abs=0.01)
    assert trace.output_bytes == 40


def test_only_the_last_ones_are_kept_and_none_that_was_turned_away() -> None:
    traces = Traces()
    for number in range(KEPT + 10):
        run(traces, f"r-{number}", 100.0 + number)
        busy = f"busy-{number}"
        traces.arrived(busy, 100.0, 100.0)
        traces.ended(Result(busy, False, "cats", 1, 0.0, error="busy", reason="many wait"), 0.0)
    assert traces.names == tuple(f"r-{number}" for number in range(10, KEPT + 10))
    assert traces.of("r-9") is None
    assert told(traces, "r-10").request == "r-10"
    assert [traces.ended_at(a) < traces.ended_at(b) for a, b in pairwise(traces.names)] == [True] * (KEPT - 1)


def test_other_requests_by_the_same_plan_tell_more_of_the_clocks() -> None:
    """Their messages took other times, so what all of them allow is less than what one does."""
    traces = Traces()
    draw = random.Random(4)
    run(traces, "r-0", 100.0)
    alone = {clock.agent: clock.uncertainty_ms or 0.0 for clock in told(traces, "r-0").clocks}
    for number in range(1, 6):
        start = 100.0 + number
        run(traces, f"r-{number}", start)
        sends = traces._ended[f"r-{number}"].times.sends
        sends[:] = [dataclasses.replace(send, start=send.start + draw.uniform(0, 0.002)) for send in sends]
    assert all((clock.uncertainty_ms or 0.0) <= alone[clock.agent] for clock in told(traces, "r-0").clocks)
    assert any((clock.uncertainty_ms or 0.0) < alone[clock.agent] for clock in told(traces, "r-0").clocks)


def test_another_attempt_begins_anew_and_late_reports_of_the_first_do_not_count() -> None:
    traces = Traces()
    first, second = one_request("r", 100.0, CLOCKS), one_request("r", 103.0, CLOCKS)
    traces.arrived("r", 100.0, 100.0)
    traces.begun("r", 1, 1, two_agents(), 0, 100.0)
    traces.sent("r", first.times.sends[0])
    traces.timed("ant", first.timings[0, "ant"])
    traces.begun("r", 2, 1, two_agents(), 0, 103.0)
    for send in second.times.sends:
        traces.sent("r", send)
    traces.timed("bee", first.timings[0, "bee"])
    for (_, agent), timing in second.timings.items():
        traces.timed(agent, dataclasses.replace(timing, attempt=2))
    traces.received("r", "bee", 103.034, 40)
    traces.ended(Result("r", True, "cats", 1, 3034.0), 3.034)
    trace = told(traces, "r")
    assert (trace.attempts, trace.missing, len(trace.sends)) == (2, (), 2)
    assert {share.kind: share.ms for share in trace.path}["earlier attempts"] == pytest.approx(3000.0)


def test_strangers_change_nothing() -> None:
    traces = Traces()
    traces.timed("ant", one_request("r", 1.0, CLOCKS).timings[0, "ant"])
    traces.received("r", "ant", 1.0, 5)
    traces.begun("r", 1, 1, two_agents(), 0, 1.0)
    assert traces.ended(Result("r", False, "cats", 0, 0.0, error="bad-input", reason="no picture"), 0.0) is None
    assert traces.names == ()


@given(st.integers(0, 2 * PAGE + 3), st.integers(0, 2 * PAGE + 3))
def test_pages_hold_everything_once(tiles: int, flows: int) -> None:
    trace = RequestTrace(
        "r", "cats", True, 1, 0, 1, 5.0, 34.0, 1.0, 1.0,
        tiles=tuple(TraceTile("ant", step, 0.0, 0.0, 0.0, 1.0, 0.0, 5, 5) for step in range(tiles)),
        flows=tuple(TraceFlow("ant", None, "bee", step) for step in range(flows)),
    )  # fmt: skip
    pages, offset = [], 0
    while True:
        part, offset = page(trace, offset)
        pages.append(part)
        assert len(part.tiles) + len(part.flows) <= PAGE
        assert len(codec.to_json(part)) < 90_000
        if not offset:
            break
    assert put_together(pages) == trace
