"""The comparison that says `exact`, and the plan's table at several widths."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from legion_iot.cli.demo_tables import plan_table
from legion_iot.lab.report import AgentReport, BlockReport, DemoReport, PlanningReport, TileReport, TurnReport, compare


def array(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_equal_to_the_bit() -> None:
    assert compare([(array(1, 2),), (array(1, 2),)], [array(1, 2)]) == (True, 0.0, 0.0)
    assert compare([(array(np.nan, np.inf),)], [array(np.nan, np.inf)]) == (True, 0.0, 0.0)


def test_differences_are_named() -> None:
    exact, absolute, relative = compare([(array(1, 2),), (array(1, 2.5),)], [array(1, 2)])
    assert (exact, absolute, relative) == (False, 0.5, 0.25)
    assert compare([(array(-0.0),)], [array(0.0)]) == (False, 0.0, 0.0)


def test_what_cannot_be_compared_is_infinitely_wrong() -> None:
    assert compare([(array(1, 2, 3),)], [array(1, 2)]) == (False, float("inf"), float("inf"))
    assert compare([(array(np.nan),)], [array(1)]) == (False, float("inf"), float("inf"))


def report(agents: int) -> DemoReport:
    names = [f"agent-{n}" for n in range(1, agents + 1)]
    tiles = tuple(TileReport(name, (100 * n, 100 * n + 100), 1234.5, 123_456_789) for n, name in enumerate(names))
    block, tail = BlockReport((0, 107), (1, 112, 112, 1024), tiles), TileReport(names[-1], (0, 0), 0.2, 4000)
    return DemoReport(
        model="net", image="cat.jpg", broker="embedded 0.1.0",
        agents=tuple(AgentReport(name, 1, "litert", 1.0, 1) for name in names),
        planner="balanced", planning=PlanningReport(2, 6, 0.1, 4, 0, 1.5),
        turns=(TurnReport((block,) * 3, tail, 1),), answer=(), exact=True,
        max_abs_error=0.0, max_rel_error=0.0,
        latencies_ms=(1.0,), single_device_ms=1.0, picture=None,
        trunk_ended_by="",
    )  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("agents", [1, 3, 5, 9, 32])
def test_the_plan_is_whole_at_every_width(agents: int, width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    console.print(plan_table(report(agents), console))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    assert text.count("123.5 MB") == 3 * agents
    assert text.count("whole") == 1
    if agents == 3:
        assert any(all(f"agent-{n}" in line for n in (1, 2, 3)) for line in lines)


@pytest.mark.parametrize("width", [80, 200])
def test_parts_gathering_and_replicas_are_shown(width: int) -> None:
    plain = report(3)
    block = plain.turns[0].blocks[0]
    tiles = (dataclasses.replace(block.tiles[0], parts=3), *block.tiles[1:])
    gathered = dataclasses.replace(block, tiles=tiles, gathered=TileReport("agent-2", (0, 0), 0.0, 77_000))
    turns = (TurnReport((gathered,), plain.turns[0].tail, 4), TurnReport((block,), None, 1))
    console = Console(width=width, file=io.StringIO())
    console.print(plan_table(dataclasses.replace(plain, turns=turns), console))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("3 parts") == 1
    assert text.count("gathered") == 1
    assert text.count("77.0 kB") == 1
    for title in ("replica 1", "4 requests", "replica 2"):
        assert text.count(title) == 1
