"""Clocks that nobody compares, one time axis, and a latency of which every millisecond is somewhere."""

from __future__ import annotations

import dataclasses
import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.routing import ORCHESTRATOR, Routing, Transfer, Work
from legion_iot.tracing.alignment import Message, align
from legion_iot.tracing.chrome import chrome_trace
from legion_iot.tracing.summary import request_trace
from legion_iot.tracing.timeline import Timeline, TracedRequest, possible
from legion_iot.tracing.times import InputSend, RequestTimes
from legion_iot.wire import codec
from legion_iot.wire.messages import Heard, Result, TileTiming
from legion_iot.wire.trace import RequestTrace, TraceTask

ROW = Region(Interval(0, 1), Interval(0, 1))


def two_agents() -> Routing:
    """The input goes to both; bee needs a row of ant's for the tail."""
    works = (
        Work(0, "ant", (0, 0), {0: ROW}, {1: ROW}, block=0),
        Work(0, "bee", (0, 0), {0: ROW}, {1: ROW}, block=0),
        Work(1, "bee", None, {1: ROW}, {2: ROW}),
        Work(2, ORCHESTRATOR, None, {2: ROW}, {}),
    )
    transfers = (
        Transfer(0, 0, ROW, ORCHESTRATOR, "ant"),
        Transfer(0, 0, ROW, ORCHESTRATOR, "bee"),
        Transfer(1, 1, ROW, "ant", "bee", 0),
        Transfer(1, 1, ROW, "bee", "bee", 0),
        Transfer(2, 2, ROW, "bee", ORCHESTRATOR, 1),
    )
    return Routing(works, transfers)


def one_request(name: str, start: float, clocks: dict[str, float]) -> TracedRequest:
    """A request that arrives at `start`; the agents' clocks show so much less than the orchestrator's.

    Sent 0 to 1 ms, in transit for 2 ms, received within 1 ms; ant computes for 20 ms, bee for 10; sends take 1 ms.
    """

    def timing(step: int, agent: str, begun: float, receiving: float, queued: float, seconds: float) -> TileTiming:
        ours = (start + begun) - clocks[agent]
        peers = {(0, "ant"): ORCHESTRATOR, (0, "bee"): ORCHESTRATOR, (1, "bee"): "ant"}
        last = receiving if (step, agent) != (1, "bee") else 0.013
        heard = (Heard(peers[step, agent], last if step else 0.0, last),)
        return TileTiming(1, name, step, seconds, 100, 50, ours, receiving, queued, 0.001, heard)

    times = RequestTimes(start - 0.005, start, ended=start + 0.034, bytes_received=40)
    times.outputs["bee"] = (start + 0.034, start + 0.034)
    times.sends += [InputSend("ant", start, start + 0.001, 60), InputSend("bee", start, start + 0.001, 60)]
    times.published = start + 0.035
    timings = {
        (0, "ant"): timing(0, "ant", 0.003, 0.001, 0.0, 0.020),  # computed at 24 ms
        (0, "bee"): timing(0, "bee", 0.003, 0.001, 0.0, 0.010),  # computed at 14 ms, and keeps its row
        (1, "bee"): timing(1, "bee", 0.014, 0.013, 0.001, 0.003),  # ant's row is there at 27 ms; computed at 31 ms
    }
    return TracedRequest(name, times, timings)


@pytest.fixture
def trace() -> dict[str, Any]:
    clocks = {"ant": 5000.0, "bee": -70.0}
    requests = [one_request("r-1", 100.0, clocks), one_request("r-2", 100.1, clocks)]
    timeline = Timeline(two_agents(), requests)
    traces = [request_trace(timeline, each, Result(each.request, True, "cats", 1, 34.0)) for each in requests]
    made: dict[str, Any] = json.loads(json.dumps(chrome_trace(traces, 0, "a test")))
    return made


def test_every_millisecond_is_accounted_for(trace: dict[str, Any]) -> None:
    requests = [e for e in trace["traceEvents"] if e.get("cat") == "latency" and e["ph"] == "b"]
    assert [e["args"]["request"] for e in requests] == ["r-1", "r-2"]
    for event in requests:
        account = event["args"]
        assert account["latency_ms"] == pytest.approx(34.0)
        assert sum(account["critical_path_ms"].values()) == pytest.approx(34.0)
        # Along ant: sent, in transit, computed; sent to bee, in transit, the tail; sent, in transit.
        assert account["critical_path_ms"]["computing"] == pytest.approx(23.0, abs=0.01)
        assert account["critical_path_ms"]["sending"] == pytest.approx(3.0, abs=0.01)
        assert account["covered"] + account["missing_ms"] / account["latency_ms"] == pytest.approx(1.0, abs=1e-3)
        assert len(account["missing"]) == 2
        assert "in transit after bee: send tail, before orchestrator: receive outputs" in " ".join(account["missing"])


def test_what_of_the_transfers_overlaps_with_computing() -> None:
    """Ant's row travels to bee for about 3 ms; bee waits for it, or is still computing for the first 2 of them."""
    clocks = {"ant": 5000.0, "bee": -70.0}
    waiting = one_request("r", 100.0, clocks)
    account = Timeline(two_agents(), [waiting]).account(waiting)
    assert account.transferring == pytest.approx(0.014, abs=0.003)  # 4 + 4 + 3 + 3 ms
    assert account.overlapping == pytest.approx(0.0, abs=1e-6)
    late = dataclasses.replace(waiting.timings[0, "bee"], seconds=0.022)
    busy = dataclasses.replace(waiting, timings={**waiting.timings, (0, "bee"): late})
    assert 0 < Timeline(two_agents(), [busy]).account(busy).overlapping <= 0.003  # as far as clocks can be aligned


def test_an_agents_row_is_tiled_and_never_overlaps(trace: dict[str, Any]) -> None:
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert sorted(names.values()) == ["ant", "bee", "orchestrator"]
    for pid, name in names.items():
        if name == ORCHESTRATOR:
            continue
        slices = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["pid"] == pid]
        slices.sort(key=lambda e: float(e["ts"]))
        for before, after in pairwise(slices):
            assert before["ts"] + before["dur"] <= after["ts"] + 0.01
        for request in ("r-1", "r-2"):
            spent = sum(e["dur"] for e in slices if e["args"]["request"] == request)
            assert spent == pytest.approx(34_000, abs=1)


def test_what_is_measured_and_what_is_aligned_is_said(trace: dict[str, Any]) -> None:
    about = trace["otherData"]
    assert "own monotonic clock" in about["measured"]
    assert "Clocks are not compared" in about["aligned"]
    assert 0 < about["uncertainty_ms"]["ant"] < 10
    assert about["requests"] == 2


def test_no_message_arrives_before_it_was_sent() -> None:
    clocks = {"ant": 5000.0, "bee": -70.0}
    timeline = Timeline(two_agents(), [one_request("r", 100.0, clocks)])
    ends = {(s.who, s.step, s.kind): s for s in timeline.spans(timeline.requests[0])}
    assert ends["ant", 0, "computing"].end <= ends["bee", 1, "receiving"].end
    assert ends["ant", 0, "receiving"].start >= 100.0
    assert ends["bee", 1, "computing"].end <= 100.034


@given(st.integers(0, 2**32))
def test_true_offsets_lie_within_the_uncertainty(seed: int) -> None:
    draw = random.Random(seed)
    names = [ORCHESTRATOR, *(f"agent-{number}" for number in range(draw.randint(1, 5)))]
    offsets = {name: 0.0 if name == ORCHESTRATOR else draw.uniform(-1e4, 1e4) for name in names}
    messages = []
    for number in range(60):
        sender, receiver = names[number % len(names)], draw.choice(names)
        now, transit = draw.uniform(0, 10), draw.uniform(0.001, 0.5)
        messages.append(Message(sender, now - offsets[sender], receiver, now + transit - offsets[receiver]))
    aligned = align(messages, ORCHESTRATOR)
    for name, alignment in aligned.items():
        if alignment.uncertainty is not None:
            assert abs(alignment.offset - offsets[name]) <= alignment.uncertainty + 1e-6
    for message in messages:
        ends = [aligned.get(message.sender), aligned.get(message.receiver)]
        if all(end is not None and end.uncertainty is not None for end in ends):
            sent = message.sent + aligned[message.sender].offset
            assert sent <= message.received + aligned[message.receiver].offset + 1e-6


@pytest.mark.parametrize("field", ["begun", "receiving", "queued", "seconds", "sending"])
@pytest.mark.parametrize("seconds", [-0.001, 1e300])
def test_what_no_clock_can_have_measured_is_left_out(field: str, seconds: float) -> None:
    sound = TileTiming(1, "r", 0, 0.1, 100)
    assert possible(sound)
    assert not possible(dataclasses.replace(sound, **{field: seconds}))


def told(traced: TracedRequest, result: Result) -> RequestTrace:
    """What is told of a request, as it comes out of a message."""
    trace = request_trace(Timeline(two_agents(), [traced]), traced, result)
    return codec.from_json(RequestTrace, codec.to_json(trace))


def test_the_kinds_of_the_path_and_what_is_covered_sum_to_the_latency() -> None:
    trace = told(one_request("r", 100.0, {"ant": 5000.0, "bee": -70.0}), Result("r", True, "cats", 1, 34.0))
    assert trace.latency_ms == pytest.approx(34.0)
    assert sum(share.ms for share in trace.path) == pytest.approx(34.0, abs=0.01)
    transit = trace.latency_ms - trace.covered_ms
    assert sum(gap.end_ms - gap.start_ms for gap in trace.gaps) == pytest.approx(transit, abs=0.01)
    assert {(tile.agent, tile.step) for tile in trace.tiles} == {("ant", 0), ("bee", 0), ("bee", 1)}
    starts = [tile.begun_ms + tile.receiving_ms + tile.queued_ms for tile in trace.tiles]
    assert starts == sorted(starts)
    assert (trace.reading_ms, trace.publishing_ms) == (pytest.approx(5.0), pytest.approx(1.0))
    assert trace.label_of[1] == "tail"
    assert trace.missing == trace.waited_for == ()


def test_of_a_failed_request_is_told_who_was_waited_for() -> None:
    whole = one_request("r", 100.0, {"ant": 5000.0, "bee": -70.0})
    times = RequestTimes(99.995, 100.0, begun=100.0, sends=whole.times.sends, ended=100.5)
    timings = {(0, "bee"): whole.timings[0, "bee"]}
    failed = dataclasses.replace(whole, times=times, timings=timings, ok=False)
    trace = told(failed, Result("r", False, "cats", 1, 500.0, error="agent-lost", reason="ant went offline"))
    assert trace.waited_for == (TraceTask("ant", 0),)
    assert trace.missing == (TraceTask("ant", 0), TraceTask("bee", 1))
    assert (trace.path, trace.outputs_ms, trace.error) == ((), None, "agent-lost")
    gaps = sum(gap.end_ms - gap.start_ms for gap in trace.gaps)
    assert trace.covered_ms + gaps == pytest.approx(500.0, abs=0.2)
    json.dumps(chrome_trace([trace], 0, "a test"), allow_nan=False)


def test_a_request_that_never_began_was_queued_all_the_time() -> None:
    times = RequestTimes(99.0, 100.0, ended=101.0)
    traced = TracedRequest("r", times, {}, ok=False)
    trace = told(traced, Result("r", False, "cats", 0, 1000.0, error="deadline", reason="the group was not ready"))
    assert (trace.covered_ms, trace.gaps, trace.tiles) == (1000.0, (), ())


def test_earlier_attempts_have_their_part_of_the_path() -> None:
    whole = one_request("r", 100.0, {"ant": 5000.0, "bee": -70.0})
    times = dataclasses.replace(whole.times, taken=99.0, arrived=99.5, attempt=2, begun=100.0)
    trace = told(dataclasses.replace(whole, times=times), Result("r", True, "cats", 1, 534.0))
    path = {share.kind: share.ms for share in trace.path}
    assert path["earlier attempts"] == pytest.approx(500.0)
    assert sum(path.values()) == pytest.approx(534.0, abs=0.01)
    assert trace.attempts == 2


@given(st.integers(0, 2**32))
def test_whatever_timings_are_there_every_millisecond_is_accounted_for(seed: int) -> None:
    """Some reports lost, and clocks anywhere: what is covered and what is not sum to the latency."""
    draw = random.Random(seed)
    whole = one_request("r", 100.0, {"ant": draw.uniform(-1e4, 1e4), "bee": draw.uniform(-1e4, 1e4)})
    timings = {key: timing for key, timing in whole.timings.items() if draw.random() < 0.6}
    traced = dataclasses.replace(whole, timings=timings, ok=draw.random() < 0.5)
    timeline = Timeline(two_agents(), [traced, *([whole] if draw.random() < 0.5 else [])])
    account = timeline.account(traced)
    gaps = sum(gap.end - gap.start for gap in account.gaps)
    assert account.covered + gaps == pytest.approx(account.latency)
    assert 0 <= account.overlapping <= account.transferring + 1e-9
    complete = traced.ok and len(timings) == len(whole.timings)
    assert sum(account.path.values()) == pytest.approx(account.latency if complete else 0.0)
    assert set(timeline.waited_for(traced)) <= set(timeline.missing(traced))


def test_one_who_only_received_is_aligned_without_a_bound() -> None:
    aligned = align([Message(ORCHESTRATOR, 1.0, "ant", 5.0)], ORCHESTRATOR)
    assert aligned["ant"].offset == pytest.approx(-4.0)
    assert aligned["ant"].uncertainty is None
