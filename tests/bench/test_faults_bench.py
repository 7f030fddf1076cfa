"""What `legion bench faults` counts as what, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from legion_iot.bench.faults.bench import chosen, creeping, run
from legion_iot.bench.faults.client import Asked, Asking
from legion_iot.bench.faults.kinds import FAULTS
from legion_iot.bench.faults.programs import Figures
from legion_iot.bench.faults.trial import QUICK, Trial, answered_twice, growth
from legion_iot.errors import UsageError
from legion_iot.wire.messages import Result

OK = Result("r-1", True, "faulted", 1, 5.0)
FAILED = replace(OK, ok=False, error="busy")
PLAIN = replace(FAULTS[0], mqtt_repeats=False, ends_reopened=False)


def asked(*answers: tuple[float, Result]) -> Asked:
    return Asked(0, [Asking(1.0, list(answers))])


def test_the_end_of_a_request_is_its_first_result() -> None:
    assert asked().end is None
    assert asked((2.0, FAILED)).end == (2.0, FAILED)
    assert asked((2.0, FAILED), (3.0, OK), (4.0, OK)).end == (3.0, OK)
    assert asked((3.0, OK)).latency == 2.0


def test_what_counts_as_ended_twice() -> None:
    assert answered_twice([asked((2.0, OK))], PLAIN) == 0
    again = asked((2.0, OK), (3.0, OK))
    assert answered_twice([again], PLAIN) == 1
    assert answered_twice([again], replace(PLAIN, mqtt_repeats=True)) == 0
    # One and the same request of the orchestrator's ends in one way, however often it is heard.
    both = asked((2.0, OK), (3.0, FAILED))
    assert answered_twice([both], replace(PLAIN, mqtt_repeats=True)) == 1
    assert answered_twice([both], replace(PLAIN, mqtt_repeats=True, ends_reopened=True)) == 0


def test_growth_is_what_exceeds_a_tenth_and_what_pools_keep() -> None:
    before = {"ant": Figures(7, 100 << 20, 20, 8)}
    assert growth(before, {"ant": Figures(7, 109 << 20, 22, 10)}) == {}
    assert growth(before, {"ant": Figures(7, 111 << 20, 20, 8)}) == {"ant": f"{100 << 20} to {111 << 20} bytes"}
    assert growth(before, {"ant": Figures(7, 100 << 20, 23, 8)}) == {"ant": "20 to 23 descriptors"}
    assert growth(before, {"ant": Figures(7, 100 << 20, 20, 11)}) == {"ant": "8 to 11 threads"}


def test_faults_by_name() -> None:
    assert [fault.name for fault in chosen(["delay", "overload"], True, 0)] == ["delay", "overload"]
    assert len(chosen([], False, 0)) == len(FAULTS) > len(chosen([], True, 0)) > 4
    with pytest.raises(UsageError, match="kill-agent"):
        chosen(["no-such"], False, 0)
    with pytest.raises(UsageError, match="--soak"):
        chosen([], False, -1)


def trial(**figures: Figures) -> Trial:
    return Trial("delay", 1, 1, {}, 0, 0, 0, 0, 0, 0.1, 0.1, 0.1, 0.1, 0.0, 0, figures, {})


def test_a_soak_compares_processes_that_live_on_with_themselves() -> None:
    trials = [trial(ant=Figures(7, 100 + number, 1, 1), bee=Figures(number, 500, 1, 1)) for number in range(9)]
    assert creeping(trials) == {"ant": 3}
    assert creeping(trials[:2]) == {}


def test_a_soak_leaves_the_orchestrator_alive() -> None:
    assert "kill-orchestrator" not in {fault.name for fault in chosen([], False, 1)}


def test_what_cannot_be_done_here_is_said() -> None:
    with pytest.raises(UsageError, match="no such thing here"):
        run([replace(PLAIN, needs=lambda: "no such thing here")], 0, QUICK, lambda text, fraction: None)
