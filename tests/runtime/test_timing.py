"""What an agent says a step took: every moment from its first input to its last send, on the agent's own clock."""

from __future__ import annotations

import numpy as np
import pytest

from legion_iot.runtime import agent as machine
from legion_iot.runtime.arrivals import MAX_STEPS, Arrivals
from legion_iot.runtime.attempts import StepRun
from legion_iot.runtime.exchange import TensorForm
from legion_iot.wire.messages import (
    AssignedStep,
    Assignment,
    Fragment,
    Heard,
    ModelReference,
    PeerRegion,
    RegionBounds,
    TensorRegion,
)

MODEL = ModelReference("small", "a" * 64, 1000)
STEPS = (
    AssignedStep(0, (0, 0), (TensorRegion(0, (0, 4, 0, 3)),), (TensorRegion(1, (0, 4, 0, 3)),)),
    AssignedStep(1, (1, 1), (TensorRegion(1, (0, 4, 0, 3)),), (TensorRegion(2, (0, 4, 0, 3)),)),
)
ASSIGNMENT = Assignment(
    7,
    MODEL,
    STEPS,
    (PeerRegion(0, 0, (0, 2, 0, 3), "bee"), PeerRegion(0, 0, (2, 4, 0, 3), "orchestrator")),
    (PeerRegion(1, 1, (0, 4, 0, 3), "ant"), PeerRegion(2, 2, (0, 4, 0, 3), "orchestrator")),
    report_within=0.25,
)


def fragment(region: RegionBounds) -> tuple[Fragment, memoryview]:
    values = np.zeros((region[1] - region[0], region[3] - region[2], 1), np.float32)
    return Fragment("r", 1, 7, 0, 0, region, 1, "float32"), memoryview(values.tobytes())


def test_a_steps_time_has_no_gap() -> None:
    state = machine.State("ant", {MODEL.sha256})
    machine.step(state, machine.AssignmentArrived(ASSIGNMENT), 90.0)
    machine.step(state, machine.Loaded(7, {t: TensorForm(1, "float32") for t in range(3)}), 100.0)
    assert machine.step(state, machine.FragmentArrived("bee", *fragment((0, 2, 0, 3))), 102.0) == []
    assert machine.step(state, machine.FragmentArrived("orchestrator", *fragment((2, 4, 0, 3))), 105.0) == []
    (compute,) = machine.step(state, machine.Idle(), 105.5)
    assert isinstance(compute, machine.Compute)

    outputs = {1: np.zeros((4, 3, 1), np.float32)}
    (report,) = machine.step(state, machine.StepDone(7, "r", 1, 0, outputs, 2.0, 108.0), 108.5)
    (own,) = machine.step(state, machine.Idle(), 108.5)
    assert isinstance(own, machine.Compute)
    assert own.step == 1
    assert isinstance(report, machine.ReportTiming)
    assert not report.is_last
    assert report.computed == 108.0  # the sender of the report adds what passed since as `sending`
    timing = report.timing
    assert (timing.begun, timing.receiving, timing.queued, timing.seconds) == pytest.approx((2.0, 3.0, 1.0, 2.0))
    assert (timing.bytes_received, timing.bytes_sent) == (48, 0)
    assert timing.heard == (Heard("bee", 0.0, 0.0), Heard("orchestrator", 3.0, 3.0))

    outputs = {2: np.zeros((4, 3, 1), np.float32)}
    send, report = machine.step(state, machine.StepDone(7, "r", 1, 1, outputs, 1.0, 110.0), 110.0)
    assert isinstance(send, machine.SendRegion)
    assert isinstance(report, machine.ReportTiming)
    assert report.is_last
    assert report.within == ASSIGNMENT.report_within
    timing = report.timing
    assert (timing.begun, timing.receiving, timing.queued, timing.seconds) == pytest.approx((8.5, 0.0, 0.5, 1.0))
    assert (timing.bytes_received, timing.bytes_sent) == (0, 48)
    assert not len(state.arrivals)


def test_arrivals_of_requests_that_never_run_are_bounded() -> None:
    arrivals = Arrivals()
    for number in range(3 * MAX_STEPS):
        arrivals.note(StepRun(1, f"r{number}", 1, 0), float(number), "bee", 10)
    assert len(arrivals) == MAX_STEPS
    assert arrivals.take(StepRun(1, "r0", 1, 0)) is None
    newest = arrivals.take(StepRun(1, f"r{3 * MAX_STEPS - 1}", 1, 0))
    assert newest is not None
    assert newest.bytes_received == 10
