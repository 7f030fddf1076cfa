"""What must be computed for what: chains against the regions of real tiles."""

from __future__ import annotations

import random

import pytest

from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.cut import tile_regions
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.chains import chains
from legion_iot.planning.plan import Block, tile_outputs
from tests.model.random_networks import RandomNetwork
from tests.planning.plans import cuts
from tests.runtime.networks import NETWORKS


def chain_of(*layers: tuple[int, int]) -> Network:
    """Convolutions of a kernel and a stride, on 16 rows and columns."""
    net = GraphBuilder("layers")
    x = net.input((1, 16, 16, 2))
    for kernel, stride in layers:
        x = net.conv2d(x, 2, kernel, stride=stride)
    return divide(net.finish(x))


def test_maps_that_halve_lose_nothing() -> None:
    found = chains(chain_of((3, 1), (3, 2), (5, 1), (3, 2)))
    assert found.portion.tolist() == [1.0] * 5
    assert found.links == ((1,), (2,), (3,), (), (0,))
    assert all(found.covered[j, k] for j in range(4) for k in range(j + 1))


def test_rows_that_a_window_skips_are_on_no_chain() -> None:
    found = chains(chain_of((3, 1), (1, 2)))
    assert found.links == ((1,), (), (0,))
    assert found.portion.tolist() == [0.25] * 3  # every second row, and column


def test_a_window_that_skips_most_rows_breaks_the_link() -> None:
    found = chains(chain_of((3, 1), (1, 4)))
    assert found.links == ((), (), (0,))
    assert found.portion.tolist() == [1.0] * 3
    assert not found.covered[1, 0]


@pytest.mark.parametrize("name", [*NETWORKS, *range(20)])
def test_the_tiles_of_a_block_compute_what_the_chains_say(name: str | int) -> None:
    """All together at least the portion of each covered unit; linked maps are read by the unit they are linked to."""
    network = NETWORKS[name] if isinstance(name, str) else divide(RandomNetwork(name).graph())
    if not network.units:
        return
    found, graph, draw = chains(network), network.graph, random.Random(str(name))
    for j, end in enumerate(network.units):
        shape = graph.tensors[end.reference].shape
        tiles = [Region(r, c) for r in cuts(shape[1], 3, draw) for c in cuts(shape[2], 2, draw)]
        for first in range(j + 1):
            ops = network.block_ops(first, j)
            computed = dict.fromkeys(range(first, j + 1), 0)
            for tile in tiles:
                outputs = tile_outputs(network, Block(first, j, ()), tile)
                regions = tile_regions(network, ops, {t: region for t, region in outputs.items() if region.area})
                for k in computed:
                    computed[k] += regions.get(network.units[k].reference, Region(Interval(0, 0), Interval(0, 0))).area
            for k, area in computed.items():
                if found.covered[j, k] and all(found.covered[j, m] for m in range(k, j + 1)):
                    whole = Region.whole(graph.tensors[network.units[k].reference])
                    assert area >= found.portion[k] * whole.area * (1 - 1e-12)
