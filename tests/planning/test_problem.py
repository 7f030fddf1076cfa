"""A group is checked, and a planner is carried out batch by batch."""

from __future__ import annotations

import pytest

from legion_iot.errors import AgentError
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Device, Group, Planning, Reading, TailRun, Wish, carry_out, measured_group

LINK = Link(1e-3, 12.5e6, 12.5e6)


def test_a_group_has_devices_of_different_names() -> None:
    with pytest.raises(AgentError, match="no agent is online"):
        Group((), LINK)
    with pytest.raises(AgentError, match="one name: ant, ant"):
        Group((Device("ant", "pi-4", LINK), Device("ant", "pi-3", LINK)), LINK)
    assert Group((Device("ant", "pi-4", LINK), Device("bee", "pi-3", LINK)), LINK)["bee"].board == "pi-3"


def test_devices_of_a_board_share_what_handling_messages_takes() -> None:
    """The median of what was found; who has found nothing has that of its like, and other boards have their own."""
    found = (("ant", "pi-4", 0.003, 2e-9), ("bee", "pi-4", 0.0, 0.0), ("cat", "pi-4", 0.001, 0.0),
             ("dog", "pi-3", 0.007, 5e-9), ("emu", "pi-4", 0.0015, 8e-9), ("fox", "pi-0", 0.0, 0.0))  # fmt: skip
    devices = [Device(name, board, Link(1e-3, 1e6 + n, 2e6, m, b)) for n, (name, board, m, b) in enumerate(found)]
    group = measured_group(devices, LINK)
    handling = {d.name: (d.link.message_seconds, d.link.byte_seconds) for d in group.devices}
    assert handling["dog"] == (0.007, 5e-9)
    assert handling["fox"] == (0.0, 0.0)
    assert {handling[name] for name in ("ant", "bee", "cat", "emu")} == {(0.0015, 2e-9)}
    assert [d.link.up for d in group.devices] == [1e6 + n for n in range(6)]
    assert group.orchestrator == LINK


def test_a_planner_gets_a_reading_for_each_wish_of_a_batch() -> None:
    asked: list[tuple[Wish, ...]] = []

    def planner() -> Planning:
        first = yield (TailRun("ant"), TailRun("bee"))
        second = yield (TailRun("cat"),)
        slowest = max({**first, **second}.items(), key=lambda item: item[1].seconds)[0]
        assert isinstance(slowest, TailRun)
        return Plan("test", (), slowest.device)

    def measure(wishes: tuple[Wish, ...]) -> dict[Wish, Reading]:
        asked.append(wishes)
        return {wish: Reading(len(asked) + index / 10) for index, wish in enumerate(wishes)}

    assert carry_out(planner(), measure).tail_agent == "cat"
    assert [len(batch) for batch in asked] == [2, 1]


def test_a_planner_without_wishes_is_done_at_once() -> None:
    def planner() -> Planning:
        yield from ()
        return Plan("test", (), "ant")

    assert carry_out(planner(), lambda wishes: {}).tail_agent == "ant"
