"""Small networks, and records of them that follow a law."""

from __future__ import annotations

import random

from legion_iot.bench.planner.measure import outputs
from legion_iot.bench.planner.trace import KindRecord, Sample
from legion_iot.model.blocks import Network
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.cut import tile_flops
from legion_iot.model.geometry import Interval, Region
from legion_iot.model.graph import Graph


def small(name: str, seed: int, convolutions: int = 2, channels: int = 4) -> Graph:
    net = GraphBuilder(name, seed)
    x = net.input((1, 24, 24, 3))
    for _ in range(convolutions):
        x = net.conv2d(x, channels, 3, activation="relu")
    x = net.max_pool(x, 2)
    return net.finish(net.softmax(net.fully_connected(net.global_mean(x), 10)))


def made_up_record(network: Network, fixed: float, rate: float, noise: float = 0.0, seed: int = 0) -> KindRecord:
    """Tiles that take `fixed` seconds for each unit and `rate` for each operation, at four heights.

    With `noise`, each has three runs, of which the quickest obeys the law and the others are up to so much longer.
    """
    draw = random.Random(seed)
    found: dict[tuple[int, int], list[Sample]] = {}
    for last in range(len(network.units)):
        rows = len(Region.whole(network.graph.tensors[network.units[last].reference]).rows)
        for first in range(last + 1):
            for stop in sorted({max(1, rows // parts) for parts in (6, 3, 2, 1)}):
                wanted = outputs(network, first, last, Interval(0, stop))
                flops = tile_flops(network, network.block_ops(first, last), wanted)
                micros = round(1e6 * (fixed * (last - first + 1) + rate * flops))
                longer = [round(micros * (1 + noise * draw.random())) for _ in range(2 if noise else 0)]
                found.setdefault((first, last), []).append(Sample(0, stop, (micros, *longer)))
    trunk = max(sample.runs[0] for sample in found[0, len(network.units) - 1])
    return KindRecord((trunk + 5,), (5,), found)


def quiet(text: str, share: float | None) -> None:
    assert text
    assert share is None or 0 <= share <= 1
