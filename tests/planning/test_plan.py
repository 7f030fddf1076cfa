"""A plan is checked before it is believed, and its tiles divide every output of their block."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable

import numpy as np
import pytest

from legion_iot.errors import ModelError
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.plan import Block, Plan, Tile, check, tile_outputs, to_json
from tests.planning.plans import random_plan
from tests.runtime.networks import NETWORKS

CHAIN = NETWORKS["chain"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(30))
def test_sound_plans_pass_and_their_tiles_divide_every_output(name: str, seed: int) -> None:
    network = NETWORKS[name]
    plan = random_plan(network, random.Random(seed))
    check(plan, network)
    for block in plan.blocks:
        counts: dict[int, np.ndarray] = {}
        for tile in block.tiles:
            for tensor, region in tile_outputs(network, block, tile.region).items():
                shape = network.graph.tensors[tensor].shape
                count = counts.setdefault(tensor, np.zeros(shape[1:3], int))
                count[region.rows.start : region.rows.stop, region.columns.start : region.columns.stop] += 1
        assert set(counts) == set(_read_later(network, block))
        assert all((count == 1).all() for count in counts.values())


def _read_later(network: Network, block: Block) -> set[int]:
    """Tensors the block makes and something outside it reads, straight from the graph."""
    graph = network.graph
    inside = {op for unit in network.units[block.first : block.last + 1] for op in unit.ops}
    made = {t for op in inside for t in graph.ops[op].outputs}
    wanted = {t for op in set(range(len(graph.ops))) - inside for t in graph.ops[op].inputs} | set(graph.outputs)
    return made & wanted


def _with_tiles(plan: Plan, change: Callable[[list[Tile]], list[Tile]]) -> Plan:
    block = plan.blocks[0]
    return dataclasses.replace(
        plan, blocks=(dataclasses.replace(block, tiles=tuple(change(list(block.tiles)))), *plan.blocks[1:])
    )


def _sound() -> Plan:
    """Units 0–1 on the 7×5 map of unit 1 in two strips, units 2–3 on one device."""
    maps = [CHAIN.graph.tensors[CHAIN.units[i].reference].shape for i in (1, 3)]
    (_, rows, columns, _), (_, rows2, columns2, _) = maps
    return Plan(
        "hand",
        (
            Block(0, 1, (Tile("ant", _region(0, 2, 0, columns)), Tile("bee", _region(2, rows, 0, columns)))),
            Block(2, 3, (Tile("ant", _region(0, rows2, 0, columns2)),)),
        ),
        "bee",
    )


def _region(top: int, bottom: int, left: int, right: int) -> Region:
    return Region(Interval(top, bottom), Interval(left, right))


def _retile(number: int, region: Region) -> Callable[[Plan], Plan]:
    def change(tiles: list[Tile]) -> list[Tile]:
        tiles[number] = Tile(tiles[number].agent, region)
        return tiles

    return lambda plan: _with_tiles(plan, change)


BROKEN: dict[str, Callable[[Plan], Plan]] = {
    "no block": lambda p: dataclasses.replace(p, blocks=()),
    "first block missing": lambda p: dataclasses.replace(p, blocks=p.blocks[1:]),
    "last block missing": lambda p: dataclasses.replace(p, blocks=p.blocks[:1]),
    "block twice": lambda p: dataclasses.replace(p, blocks=(p.blocks[0], *p.blocks)),
    "blocks swapped": lambda p: dataclasses.replace(p, blocks=p.blocks[::-1]),
    "units overlap": lambda p: dataclasses.replace(p, blocks=(p.blocks[0], dataclasses.replace(p.blocks[1], first=1))),
    "units skipped": lambda p: dataclasses.replace(p, blocks=(p.blocks[0], dataclasses.replace(p.blocks[1], first=3))),
    "block inside out": lambda p: dataclasses.replace(
        p, blocks=(Block(0, -1, p.blocks[0].tiles), *p.blocks)
    ),
    "no tiles": lambda p: _with_tiles(p, lambda tiles: []),
    "tile missing": lambda p: _with_tiles(p, lambda tiles: tiles[:1]),
    "tile twice": lambda p: _with_tiles(p, lambda tiles: [tiles[0], *tiles]),
    "one agent, two tiles": lambda p: _with_tiles(p, lambda tiles: [Tile("ant", tile.region) for tile in tiles]),
    "gap": _retile(1, _region(3, 6, 0, 4)),
    "overlap": _retile(1, _region(1, 6, 0, 4)),
    "overlap that makes up for a gap": _retile(1, _region(0, 4, 0, 4)),
    "above the map": _retile(0, _region(-1, 2, 0, 4)),
    "below the map": _retile(1, _region(2, 7, 0, 4)),
    "beside the map": _retile(1, _region(2, 6, 0, 5)),
    "empty tile beside full ones": lambda p: _with_tiles(p, lambda tiles: [*tiles, Tile("cat", _region(2, 2, 0, 4))]),
}  # fmt: skip


def test_the_plan_that_is_broken_below_is_sound() -> None:
    assert CHAIN.graph.tensors[CHAIN.units[1].reference].shape[1:3] == (6, 4), "the regions below are for this map"
    check(_sound(), CHAIN)


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
def test_every_kind_of_broken_plan_is_refused(damage: Callable[[Plan], Plan]) -> None:
    with pytest.raises(ModelError):
        check(damage(_sound()), CHAIN)


def test_units_beyond_the_trunk_are_refused_as_an_error_of_the_model() -> None:
    plan = _sound()
    with pytest.raises(ModelError):
        check(dataclasses.replace(plan, blocks=(plan.blocks[0], dataclasses.replace(plan.blocks[1], last=4))), CHAIN)


def test_agents_in_order_of_appearance() -> None:
    assert _sound().agents == ("ant", "bee")
    assert dataclasses.replace(_sound(), tail_agent="cat").agents == ("ant", "bee", "cat")


def test_json_form() -> None:
    document = json.loads(json.dumps(to_json(_sound())))
    assert document["tail_agent"] == "bee"
    assert document["blocks"][0]["units"] == [0, 1]
    assert document["blocks"][0]["tiles"][0] == {"agent": "ant", "rows": [0, 2], "columns": [0, 4], "parts": []}
