"""Memory is counted from the tensors that the sub-models really have."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.model.blocks import Network
from legion_iot.model.cut import cut_tail, cut_tile, tile_regions
from legion_iot.model.geometry import Interval, Region
from legion_iot.model.graph import Graph, Op
from legion_iot.planning.memory import (
    REQUESTS,
    Footprint,
    fits,
    footprint,
    plan_memory_bytes,
    tail_memory_bytes,
    tile_memory_bytes,
    weight_bytes,
)
from legion_iot.planning.plan import Block, Plan, Tile, tile_outputs
from legion_iot.planning.strips import whole_map
from legion_iot.runtime.requests import WINDOW
from tests.planning.problems import case, networks
from tests.runtime.networks import NETWORKS


def tensors_of(graph: Graph) -> tuple[int, list[int]]:
    """Bytes of the constants, and the sizes of all maps, of a sub-model as it is cut."""
    constants = sum(t.nbytes for t in graph.tensors if t.is_constant)
    return constants, [t.nbytes for t in graph.tensors if not t.is_constant]


def most_pointers(graph: Graph, op: Op) -> int:
    """Bytes of one pointer for each element of the window of each pixel that an op makes."""
    area = math.prod(graph.tensors[op.outputs[0]].shape[:3])
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        return 8 * area * math.prod(graph.tensors[op.inputs[1]].shape[1:3])
    if op.kind == "RESIZE_BILINEAR":
        return 8 * area * 5
    return 8 * area * int(op.options.get("filter_height", 0)) * int(op.options.get("filter_width", 0))


@settings(max_examples=60, deadline=None)
@given(network=networks(), pick=st.randoms(use_true_random=False))
def test_a_tile_needs_its_weights_and_at_least_its_largest_map(network: Network, pick: st.DataObject) -> None:
    if not network.units:
        return
    last = pick.randrange(len(network.units))
    first = pick.randrange(last + 1)
    whole = whole_map(network, last)
    top = pick.randrange(len(whole.rows))
    region = Region(Interval(top, pick.randrange(top, len(whole.rows)) + 1), whole.columns)
    ops = network.block_ops(first, last)
    wanted = {t: r for t, r in tile_outputs(network, Block(first, last, ()), region).items() if r.area}
    if not wanted:
        return
    graph = cut_tile(network, ops, wanted).graph
    _, maps = tensors_of(graph)
    pointers = sum(most_pointers(graph, op) for op in graph.ops)
    regions = tile_regions(network, ops, wanted)
    weights = weight_bytes(network, [op for op in ops if not regions.keys().isdisjoint(network.graph.ops[op].outputs)])
    needed = tile_memory_bytes(network, first, last, region)
    assert needed - weights <= sum(maps) + pointers
    outputs = sum(
        r.area * network.graph.tensors[t].shape[-1] * network.graph.tensors[t].numpy_dtype.itemsize
        for t, r in wanted.items()
    )
    assert needed >= weights + outputs


def test_a_convolution_holds_its_weights_input_and_output() -> None:
    """Unit 0 of the chain: 3×3 of 3 to 4 channels on 13×9; rows 2 to 5 need rows 1 to 6."""
    network = NETWORKS["chain"]
    weights = 4 * (3 * 3 * 3 * 4 + 4)
    rows = Region(Interval(2, 6), Interval(0, 9))
    maps = 4 * 9 * (6 * 3 + 4 * 4)
    assert tile_memory_bytes(network, 0, 0, rows) == weights + maps + 4 * 9 * 9 * 8, "and 9 pointers for each pixel"
    ops = network.block_ops(0, 0)
    wanted = {network.units[0].reference: rows}
    copied = footprint(network, ops, wanted, xnnpack=False)
    assert copied == Footprint(weights + maps + 4 * 9 * 9 * 3 * 4, maps), "the builtin kernel copies 9 pixels for each"


def test_a_tail_holds_its_weights() -> None:
    network = NETWORKS["residual"]
    constants, maps = tensors_of(cut_tail(network).graph)
    assert constants < tail_memory_bytes(network) <= constants + sum(maps)


def test_a_plan_needs_the_sum_of_its_tiles_on_each_agent_replicas_and_parts_included() -> None:
    network = NETWORKS["chain"]
    whole = whole_map(network, 3)
    upper, lower = (Region(Interval(a, b), whole.columns) for a, b in ((0, 1), (1, len(whole.rows))))
    alone = Plan("test", (Block(0, 3, (Tile("ant", whole),)),), "ant")
    parted = Plan("test", (Block(0, 3, (Tile("bee", whole, (lower, upper)),)),), "bee", replicas=(alone,))
    needed = plan_memory_bytes(network, parted)
    moving = 4 * (13 * 9 * 3 + 3 * 2 * 2)
    assert needed["ant"] == tile_memory_bytes(network, 0, 3, whole) + REQUESTS * moving
    ops, tensor = network.block_ops(0, 3), network.units[3].reference
    parts = [footprint(network, ops, {tensor: part}) for part in (upper, lower)]
    assert needed["bee"] == sum(p.loaded for p in parts) + REQUESTS * max(p.moving for p in parts)


def test_as_many_requests_are_counted_as_may_be_under_way() -> None:
    assert REQUESTS == WINDOW


@pytest.mark.parametrize("spare", [-1, 0])
def test_a_limit_is_kept_to_the_byte(spare: int) -> None:
    network = NETWORKS["chain"]
    plan = Plan("test", (Block(0, 3, (Tile("ant", whole_map(network, 3)),)),), "ant")
    limit = plan_memory_bytes(network, plan)["ant"] + spare
    group = case(network, {"ant": 1e9}, memory={"ant": limit}).problem.group
    assert fits(network, plan, group) == (spare >= 0)
