"""Clocks that are set, by hand or by NTP, change nothing: who runs in a group reads no wall clock, but where listed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNNING = ("legion_iot/model", "legion_iot/planning", "legion_iot/wire", "legion_iot/runtime", "legion_iot/transport",
           "legion_iot/orchestrator", "agent/legion_iot_agent")  # fmt: skip
WALL = {"time", "time_ns", "localtime", "gmtime", "ctime", "now", "utcnow", "today"}
LISTED = {
    # The first epoch of a process, which lies above the journal's last one even when the clock was set back.
    ("legion_iot/orchestrator/service.py", "time.time"),
    # The age of files that an upload has left; when the clock is set, they stay longer, or go and are sent again.
    ("legion_iot/orchestrator/model_store.py", "time.time"),
}


def _wall_clocks(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            yield from (f"from {node.module} import {name.name}" for name in node.names if name.name in WALL)
        match node:
            case ast.Attribute(value=ast.Name(id="time" | "datetime" | "date" as module), attr=attr) if attr in WALL:
                yield f"{module}.{attr}"


def test_only_what_is_listed_reads_the_wall_clock() -> None:
    found = {
        (str(path.relative_to(ROOT)), clock)
        for package in RUNNING
        for path in (ROOT / package).rglob("*.py")
        for clock in _wall_clocks(path)
    }
    assert found == LISTED
