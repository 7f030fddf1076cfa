"""What is broken on purpose: whole processes on a Mosquitto, under load, and what becomes of every request.

`LEGION_FAULTS=all` runs those that take longer, too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from legion_iot.bench.faults.bench import WARM_UP, end_in_order
from legion_iot.bench.faults.group import Group, running_group
from legion_iot.bench.faults.kinds import FAULTS, Fault
from legion_iot.bench.faults.network import prepare
from legion_iot.bench.faults.programs import Figures
from legion_iot.bench.faults.trial import QUICK, run_trial, warm_up
from legion_iot.runtime.requests import REQUEST_TIMEOUT

from .conftest import require_mosquitto

LONG = {
    "cut-link-long", "delay", "late-fragments", "poison-malformed", "kill-broker-30s", "kill-broker-1s-kept",
    "kill-broker-30s-kept", "kill-all-agents", "stop-orchestrator", "kill-orchestrator-and-broker",
}  # fmt: skip
RUN = [fault for fault in FAULTS if fault.name not in LONG or os.environ.get("LEGION_FAULTS") == "all"]


class Groups:
    """At most one group at a time: that of the last test goes on, unless the next one needs another broker."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._kept: tuple[bool, Group, dict[str, Figures]] | None = None

    def get(self, persistent: bool | None) -> tuple[Group, dict[str, Figures]]:
        """One of that kind, None for any, and what its processes took before the first test."""
        if self._kept is None or persistent not in (None, self._kept[0]):
            self.close()
            # Not below pytest's own directory: that one is closed to the account Mosquitto changes to.
            directory = Path(tempfile.mkdtemp(prefix="legion-test-"))
            self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
            group = self._stack.enter_context(running_group(prepare(directory), directory, bool(persistent)))
            self._kept = bool(persistent), group, warm_up(group, WARM_UP)
        return self._kept[1], self._kept[2]

    def close(self) -> None:
        self._stack.close()
        self._kept = None


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    require_mosquitto()
    made = Groups()
    yield made
    made.close()


@pytest.mark.parametrize("fault", RUN, ids=lambda fault: fault.name)
def test_every_request_ends_once_and_right(groups: Groups, fault: Fault) -> None:
    if reason := fault.needs():
        pytest.skip(reason)
    group, figures = groups.get(fault.persistent)
    try:
        trial = run_trial(group, fault, figures, QUICK)
    except BaseException:
        groups.close()  # whatever is left of it is nothing for the next test
        raise
    assert trial.ok > 0
    assert (trial.lost, trial.wrong, trial.twice) == (0, 0, 0)
    assert trial.slowest < REQUEST_TIMEOUT + 5
    assert trial.orphans == 0
    assert trial.grown == {}
    allowed = {
        "kill-orchestrator": {"restarted"},
        "kill-orchestrator-and-broker": {"restarted"},
        "kill-all-agents": {"no-agents"},
        "overload": {"busy"},
    }
    assert trial.failed.keys() <= allowed.get(fault.name, set())


def test_nothing_stays_when_all_are_told_to_end(groups: Groups) -> None:
    group, _ = groups.get(None)
    assert end_in_order(group) == ([], [])
    groups.close()
