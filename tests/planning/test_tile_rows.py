"""Rows by table equal those of a walk over each tile, on random networks and published ones."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.model.blocks import Network, divide, region_flops
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.cut import tile_inputs, tile_regions
from legion_iot.model.geometry import Interval, Region
from legion_iot.model.synthetic import NETWORKS as PUBLISHED
from legion_iot.planning.plan import Block, tile_outputs
from legion_iot.planning.tile_rows import TileRows
from tests.model.random_networks import RandomNetwork
from tests.runtime.networks import NETWORKS


def walked_rows(network: Network, first: int, last: int, region: Region) -> list[float]:
    """Each unit's arithmetic in the tile over its arithmetic for a row of the whole."""
    graph, ops = network.graph, network.block_ops(first, last)
    regions = tile_regions(network, ops, tile_outputs(network, Block(first, last, ()), region))
    rows = []
    for unit in network.units[first : last + 1]:
        made = [(graph.ops[op], regions.get(graph.ops[op].outputs[0])) for op in unit.ops]
        flops = sum(region_flops(graph, op, part) for op, part in made if part is not None)
        rows.append(flops / unit.flops * graph.tensors[unit.reference].shape[1])
    return rows


def walked_bytes(network: Network, first: int, last: int, region: Region) -> list[int]:
    """What each unit reads of feature maps made before it, to make what the tile needs of it."""
    graph, ops = network.graph, network.block_ops(first, last)
    regions = tile_regions(network, ops, tile_outputs(network, Block(first, last, ()), region))
    sizes = []
    for unit in network.units[first : last + 1]:
        made = {t: regions[t] for op in unit.ops for t in graph.ops[op].outputs if t in regions}
        read = tile_inputs(network, unit.ops, made)
        pixels = {t: graph.tensors[t].shape[3] * graph.tensors[t].numpy_dtype.itemsize for t in read}
        sizes.append(sum(part.area * pixels[t] for t, part in read.items()))
    return sizes


def check_tile(tile_rows: TileRows, first: int, last: int, region: Region) -> None:
    network = tile_rows.network
    assert np.allclose(tile_rows.of_tile(first, last, region), walked_rows(network, first, last, region))
    assert tile_rows.input_bytes(first, last, region).tolist() == walked_bytes(network, first, last, region)


def random_region(draw: random.Random, whole: Region) -> Region:
    def part(size: int) -> Interval:
        start = draw.randrange(size)
        return Interval(start, draw.randrange(start + 1, size + 1))

    columns = whole.columns if draw.random() < 0.7 else part(len(whole.columns))
    return Region(part(len(whole.rows)), columns)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), dtype=st.sampled_from(["float32", "int8"]))
def test_any_tile_of_random_networks(seed: int, dtype: str) -> None:
    network, draw = divide(RandomNetwork(seed, dtype).graph()), random.Random(seed)
    tile_rows = TileRows(network)
    for _ in range(12):
        last = draw.randrange(len(network.units))
        check_tile(tile_rows, draw.randrange(last + 1), last, random_region(draw, tile_rows.whole(last)))


@pytest.mark.parametrize("name", ["chain", "residual", "scales", "mixed"])
def test_every_strip_of_every_block(name: str) -> None:
    network = NETWORKS[name]
    tile_rows = TileRows(network)
    for last in range(len(network.units)):
        whole = tile_rows.whole(last)
        strips = [Interval(a, b) for b in range(len(whole.rows) + 1) for a in range(b)]
        for first in range(last + 1):
            for rows in strips:
                check_tile(tile_rows, first, last, Region(rows, whole.columns))


@pytest.mark.parametrize("name", ["vgg16", "yolov2", "resnet18", "mobilenet-v2"])
def test_published_networks_need_no_walk(name: str) -> None:
    """All their blocks are in tables, and a unit of one op has the rows of its output."""
    network, draw = divide(PUBLISHED[name](0)), random.Random(name)
    tile_rows = TileRows(network)
    last = len(network.units) - 1
    assert tile_rows.table(last).valid_from == 0
    for _ in range(4):
        region = Region(random_region(draw, tile_rows.whole(last)).rows, tile_rows.whole(last).columns)
        check_tile(tile_rows, 0, last, region)
    assert tile_rows.of_tile(last, last, tile_rows.whole(last))[0] == pytest.approx(tile_rows.heights[last])


def test_pooling_that_the_image_clips_is_walked() -> None:
    net = GraphBuilder("clipped")
    x = net.conv2d(net.input((1, 15, 15, 3)), 4, 3)
    x = net.conv2d(net.max_pool(x, 3, 2, padding="same"), 4, 3)
    network = divide(net.finish(net.conv2d(x, 4, 3)))
    tile_rows = TileRows(network)
    last = len(network.units) - 1
    assert tile_rows.table(last).valid_from == 2
    whole = tile_rows.whole(last)
    for stop in range(1, len(whole.rows) + 1):
        for first in range(last + 1):
            check_tile(tile_rows, first, last, Region(Interval(stop // 2, stop), whole.columns))
