"""Every kind of plan on agents that are processes of their own, with the whole model's bits and a trace."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from legion_iot.lab.demonstration import DemoOptions, run_demo
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.planners.balanced import balanced

from .networks import residual_classifier

AGENTS = ("agent-1", "agent-2", "agent-3")
REQUESTS = 6


def shared(network: Network) -> Plan:
    return balanced(network, dict.fromkeys(AGENTS, 1.0), least_blocks=3)


def with_hub(network: Network) -> Plan:
    return dataclasses.replace(shared(network), hub="agent-2")


def in_parts(network: Network) -> Plan:
    """First row, last row, and what lies between them."""
    blocks = []
    for block in shared(network).blocks:
        tiles = tuple(dataclasses.replace(tile, parts=_parts(tile.region)) for tile in block.tiles)
        blocks.append(dataclasses.replace(block, tiles=tiles))
    return dataclasses.replace(shared(network), blocks=tuple(blocks))


def _parts(region: Region) -> tuple[Region, ...]:
    first, last = region.rows.start, region.rows.stop
    inner = sorted({first, min(first + 1, last), max(first, last - 1), last})
    rows = [Interval(a, b) for a, b in itertools.pairwise(inner)]
    return tuple(Region(interval, region.columns) for interval in (rows[:1] + rows[:0:-1]))


def with_replicas(network: Network) -> Plan:
    """Whole requests on one agent each, or shared by all."""
    last = len(network.units) - 1
    whole = Region.whole(network.graph.tensors[network.units[last].reference])
    alone = [Plan("alone", (Block(0, last, (Tile(agent, whole),)),), agent) for agent in AGENTS[:2]]
    return dataclasses.replace(shared(network), replicas=tuple(alone))


@pytest.mark.parametrize(
    ("make", "said"), [(with_hub, "gathered"), (in_parts, "part 3"), (with_replicas, "of replica 3")]
)
def test_it_runs_exactly_and_is_traced(
    make: Callable[[Network], Plan], said: str, photograph: Path, tmp_path: Path
) -> None:
    report = run_demo(
        DemoOptions(
            residual_classifier(tmp_path / "small.tflite"), "small", photograph, requests=REQUESTS, broker="embedded",
            traced=True, make_plan=lambda network, speeds: make(network),
        )
    )  # fmt: skip
    assert report.exact
    assert sum(turn.requests for turn in report.turns) == REQUESTS
    assert all(turn.requests for turn in report.turns)
    blocks = report.turns[0].blocks
    assert all((block.gathered is not None) == (make is with_hub) for block in blocks)
    assert max(tile.parts for block in blocks for tile in block.tiles) == (3 if make is in_parts else 1)
    trace: dict[str, Any] = report.trace or {}
    about = trace["otherData"]
    assert about["requests"] + about["requests_left_out_for_lost_timings"] == REQUESTS
    assert about["requests"]
    assert 0 <= about["overlap"] <= 1
    names = {event["name"] for event in trace["traceEvents"]}
    assert any(said in name for name in names), names
    for event in trace["traceEvents"]:
        if event.get("cat") == "latency" and event["ph"] == "b":
            assert abs(sum(event["args"]["critical_path_ms"].values()) - event["args"]["latency_ms"]) < 0.05
