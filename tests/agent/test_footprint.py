"""What an assignment is said to need is what a process really grows by when it loads it."""

from __future__ import annotations

import itertools
import multiprocessing
from pathlib import Path

import pytest

from legion_iot.files import sha256_of
from legion_iot.model import tflite
from legion_iot.model.blocks import divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.geometry import Interval, Region
from legion_iot.model.graph import Graph
from legion_iot.planning.memory import footprint, tail_footprint
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.routing import route
from legion_iot.planning.strips import whole_map
from legion_iot.runtime.assignment import assignments_of
from legion_iot.wire.messages import Assignment, ModelReference
from legion_iot.wire.tensors import region_of
from legion_iot_agent.engine import Engine
from legion_iot_agent.executor import Executor
from legion_iot_agent.interpreter import runtime_info
from legion_iot_agent.limits import Memory, give_back_memory

pytest.importorskip("ai_edge_litert.interpreter")


def heavy() -> Graph:
    """Mostly weights: 19 MB of them, and a tail."""
    net = GraphBuilder("heavy")
    x = net.conv2d(net.input((1, 32, 32, 3)), 64, 3, activation="relu")
    x = net.conv2d(net.max_pool(x, 2), 512, 3, activation="relu")
    return net.finish(net.fully_connected(net.global_mean(net.conv2d(net.max_pool(x, 2), 900, 3)), 500))


def wide() -> Graph:
    """Mostly feature maps and windows, a depthwise one and one that enlarges included."""
    net = GraphBuilder("wide")
    fine = net.conv2d(net.input((1, 256, 256, 3)), 16, 3, activation="relu")
    x = net.conv2d(net.depthwise_conv2d(fine, 3), 16, 1, activation="relu")
    x = net.resize_bilinear(net.conv2d(net.max_pool(x, 2), 16, 5), 256, 256)
    return net.finish(net.conv2d(net.concat((x, fine)), 4, 3))


NETWORKS = {"heavy": heavy, "wide": wide}


def assignment(graph: Graph, model: Path, blocks: int) -> Assignment:
    """All rows but a few at the end, in so many blocks."""
    network = divide(graph)
    count = len(network.units)
    edges = [round(number * count / blocks) for number in range(blocks + 1)]
    plan = []
    for first, end in itertools.pairwise(edges):
        whole = whole_map(network, end - 1)
        cut = max(1, len(whole.rows) - 2)
        mine, rest = (Region(Interval(a, b), whole.columns) for a, b in ((0, cut), (cut, len(whole.rows))))
        plan.append(Block(first, end - 1, (Tile("ant", mine), *((Tile("bee", rest),) if rest.area else ()))))
    reference = ModelReference(graph.name, sha256_of(model), model.stat().st_size)
    return assignments_of(5, reference, route(network, Plan("test", tuple(plan), "ant")))["ant"]


def growth(model: Path, told: Assignment, directory: Path, xnnpack: bool) -> tuple[int, int]:
    """Bytes that this process grows by when it loads the assignment, and is still larger by after it is freed."""
    runtime_info()
    memory = Memory(machine=directory / "none")
    for _ in range(2):  # what the runtime allocates once and keeps is not the assignment's
        executor = Executor(directory / "plan", Engine(1, xnnpack))
        give_back_memory()
        before = memory.left()
        executor.load(model, told)
        loaded = memory.left()
        executor.close()
    return before - loaded, before - memory.left()


@pytest.mark.parametrize(("name", "blocks", "xnnpack"), [("heavy", 1, True), ("wide", 1, True), ("wide", 3, True),
                                                         ("wide", 1, False)])  # fmt: skip
def test_the_estimate_is_what_a_process_grows_by(tmp_path: Path, name: str, blocks: int, xnnpack: bool) -> None:
    """On an x86-64: 20.7 MB for 21.3, 36.0 for 36.1, 52.6 for 52.8, and 85.1 for 85.2."""
    graph = NETWORKS[name]()
    model = tmp_path / "model.tflite"
    tflite.write_file(graph, model)
    told, network = assignment(graph, model, blocks), divide(tflite.open_file(model))
    needed = 0
    for step in told.steps:
        if step.units is None:
            needed += 0 if step.gathers else tail_footprint(network).loaded
            continue
        wanted = {output.tensor: region_of(output.region) for output in step.outputs}
        needed += footprint(network, network.block_ops(*step.units), wanted, xnnpack=xnnpack).loaded
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        grown, left = pool.apply(growth, (model, told, tmp_path, xnnpack))
    assert 0.9 * grown - 1e6 < needed < 1.15 * grown + 1e6
    assert needed > 10e6, "else nothing is shown"
    assert left < 1.5e6, "all of it is given back"
