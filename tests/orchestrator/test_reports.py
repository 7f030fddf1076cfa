"""What agents report, as the orchestrator reads it."""

from __future__ import annotations

import pytest

from legion_iot.errors import ProtocolError
from legion_iot.orchestrator.service import _reported
from legion_iot.runtime import orchestrator as machine
from legion_iot.wire import codec
from legion_iot.wire.messages import TileTiming, Timings

TIMINGS = tuple(TileTiming(7, "r", step, 0.1 * step, 0) for step in range(3))


def test_timings_that_share_a_message_are_what_they_are_alone() -> None:
    together = _reported("ant", "timings", codec.to_json(Timings(TIMINGS)))
    alone = [event for each in TIMINGS for event in _reported("ant", "timing", codec.to_json(each))]
    assert list(together) == alone == [machine.ReportArrived("ant", each) for each in TIMINGS]


def test_a_report_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ProtocolError):
        _reported("ant", "another", b"{}")
