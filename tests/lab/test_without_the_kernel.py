"""A lab where the kernel's means are missing, although this is root: the other way serves, and the state says why."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from legion_iot.errors import UsageError
from legion_iot.lab import keeper
from legion_iot.lab.keeper import Keeper, Request
from legion_iot.lab.spec import BOARDS, LabSpec
from legion_iot.lab.state import read_state

NO_TC = "tc not installed (apt install iproute2)"
NO_TBF = "this kernel cannot shape traffic (no tbf)"
NO_GROUPS = "no cgroups with a quota here"


def without_tc(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keeper.namespaces, "missing_tools", lambda: NO_TC)


def without_tbf(patch: pytest.MonkeyPatch) -> None:
    def make(network: object) -> None:
        raise UsageError(NO_TBF)

    patch.setattr(keeper.namespaces, "missing_tools", lambda: "")
    patch.setattr(keeper.namespaces.Network, "make", make)


@pytest.mark.parametrize(("take_away", "reason"), [(without_tc, NO_TC), (without_tbf, NO_TBF)])
def test_the_way_without_root_serves(
    take_away: Callable[[pytest.MonkeyPatch], None], reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_hierarchies(*places: Path) -> None:
        raise UsageError(NO_GROUPS)

    monkeypatch.setattr(keeper.os, "geteuid", lambda: 0)
    monkeypatch.setattr(keeper.cgroups, "find_hierarchies", no_hierarchies)
    take_away(monkeypatch)
    directory = tmp_path / "abcdef"
    directory.mkdir()
    spec = LabSpec("bare", (BOARDS["rk3399"],))
    with contextlib.ExitStack() as stack:
        Keeper(directory, Request("lab", spec, rootless=False, tied=True)).start(stack)
        state = read_state(directory)
        assert state.phase == "running"
        assert state.reasons == (f"links not by the kernel: {reason}", f"processors not by the kernel: {NO_GROUPS}")
        (device,) = state.devices
        assert (device.cpu_by, device.link_by, device.memory_by) == ("throttle", "proxy", "not held")
