"""Small networks of every kind: a chain, residual blocks, outputs at several scales, with and without a tail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.graph import Graph


def chain() -> Graph:
    """Convolutions and a pool, no tail: the trunk's last map is the answer."""
    net = GraphBuilder("chain")
    x = net.conv2d(net.input((1, 13, 9, 3)), 4, 3, activation="relu")
    x = net.conv2d(net.max_pool(x, 2), 5, 3)
    return net.finish(net.conv2d(x, 2, 3, stride=2))


def residual() -> Graph:
    """Two residual blocks and a classifier: halos on both branches, and a tail."""
    net = GraphBuilder("residual")
    x = net.conv2d(net.input((1, 16, 12, 3)), 4, 3, activation="relu")
    x = net.add(net.conv2d(net.conv2d(x, 4, 3, activation="relu"), 4, 3), x, "relu")
    y = net.conv2d(x, 6, 3, stride=2, activation="relu")
    x = net.add(net.conv2d(y, 6, 3), net.conv2d(x, 6, 1, stride=2), "relu")
    return net.finish(net.softmax(net.fully_connected(net.global_mean(x), 5)))


def scales() -> Graph:
    """Outputs of two sizes and a skip that reaches far: what one block makes, a much later one reads."""
    net = GraphBuilder("scales")
    fine = net.conv2d(net.input((1, 16, 10, 2)), 3, 3, activation="relu")
    x = fine
    for _ in range(11):
        x = net.conv2d(x, 3, 1, activation="relu")
    coarse = net.conv2d(net.max_pool(x, 2), 4, 3)
    grown = net.resize_bilinear(coarse, 16, 10)
    return net.finish(coarse, net.conv2d(net.concat((grown, fine)), 2, 3))


def mixed() -> Graph:
    """One output from the trunk, one from the tail, which also reads the trunk's first map."""
    net = GraphBuilder("mixed")
    first = net.conv2d(net.input((1, 11, 11, 2)), 3, 3)
    second = net.conv2d(first, 4, 3, stride=2)
    tail = net.fully_connected(net.reshape(net.global_mean(first), (1, 3)), 4)
    return net.finish(second, tail)


def flat() -> Graph:
    """No feature map at all: everything is tail."""
    net = GraphBuilder("flat")
    return net.finish(net.softmax(net.fully_connected(net.input((1, 7)), 4)))


GRAPHS: Mapping[str, Callable[[], Graph]] = MappingProxyType(
    {"chain": chain, "residual": residual, "scales": scales, "mixed": mixed, "flat": flat}
)
NETWORKS: Mapping[str, Network] = MappingProxyType({name: divide(make()) for name, make in GRAPHS.items()})
