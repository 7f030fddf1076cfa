"""Brute force, element by element: what a step needs comes once, from whoever made it before; nothing else is sent."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from legion_iot.model.blocks import Network
from legion_iot.model.cut import cut_tail, cut_tile
from legion_iot.model.geometry import Region
from legion_iot.planning.plan import Plan, check
from legion_iot.planning.routing import ORCHESTRATOR, Routing, route
from tests.planning.plans import AGENTS, random_plan
from tests.runtime.networks import NETWORKS

Element = tuple[int, int, int]  # tensor, row, column


def elements(tensor: int, region: Region) -> Iterator[Element]:
    for row in range(region.rows.start, region.rows.stop):
        for column in range(region.columns.start, region.columns.stop):
            yield tensor, row, column


def whole(network: Network, tensor: int) -> Iterator[Element]:
    """Rows and columns of a map of batch one; one row of elements for anything else."""
    shape = network.graph.tensors[tensor].shape
    rows, columns = (shape[1], shape[2]) if len(shape) == 4 else (1, _product(shape))
    return ((tensor, row, column) for row in range(rows) for column in range(columns))


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(25))
def test_each_needed_element_comes_once_from_its_maker(name: str, seed: int) -> None:
    network = NETWORKS[name]
    plan = random_plan(network, random.Random(seed))
    check(plan, network)
    routing = route(network, plan)
    _check_work(network, plan, routing)
    made: dict[Element, tuple[int, str]] = {}  # who made it, in which step
    for tensor in network.graph.inputs:
        made |= dict.fromkeys(whole(network, tensor), (-1, ORCHESTRATOR))
    for work in routing.works:
        for tensor, region in work.outputs.items():
            for element in elements(tensor, region):
                assert element not in made, "made twice"
                made[element] = (work.step, work.agent)
    for work in routing.works:
        needed = {e for tensor, region in work.inputs.items() for e in elements(tensor, region)}
        sent = [
            (element, part.source)
            for part in routing.transfers
            if (part.step, part.target) == (work.step, work.agent)
            for element in elements(part.tensor, part.region)
        ]
        assert len(sent) == len(needed), "something is sent twice, or not, or without need"
        assert {element for element, _ in sent} == needed
        for element, source in sent:
            step, maker = made[element]
            assert maker == source
            assert step < work.step
    targets = {(work.step, work.agent) for work in routing.works}
    assert {(part.step, part.target) for part in routing.transfers} <= targets


def _check_work(network: Network, plan: Plan, routing: Routing) -> None:
    """Inputs are those of the sub-models that devices will cut; the last work collects the network's outputs."""
    for work in routing.works[:-1]:
        if work.units is not None:
            assert work.units == (plan.blocks[work.step].first, plan.blocks[work.step].last)
            sub = cut_tile(network, network.block_ops(*work.units), work.outputs)
        else:
            assert (work.step, work.agent) == (len(plan.blocks), plan.tail_agent)
            sub = cut_tail(network)
        assert dict(sub.inputs) == dict(work.inputs)
        assert dict(sub.outputs) == dict(work.outputs)
    answer = routing.works[-1]
    assert (answer.agent, answer.step, answer.outputs) == (ORCHESTRATOR, routing.answer_step, {})
    collected = {e for tensor, region in answer.inputs.items() for e in elements(tensor, region)}
    assert collected == {e for tensor in network.graph.outputs for e in whole(network, tensor)}
    assert sum(work.units is None for work in routing.works[:-1]) == bool(network.tail)


def test_one_agent_keeps_everything() -> None:
    """With a single device only the input and the answer travel."""
    network = NETWORKS["residual"]
    draw = random.Random(4)
    while True:
        plan = random_plan(network, draw)
        if len(plan.blocks) > 1 and len(plan.agents) == 1:
            break
    travels = [t for t in route(network, plan).transfers if t.source != t.target]
    assert {(t.source, t.target) for t in travels} == {(ORCHESTRATOR, plan.tail_agent), (plan.tail_agent, ORCHESTRATOR)}


def test_agents_of_random_plans_are_not_all_alike() -> None:
    """The plans above would show little if they were."""
    plans = [random_plan(NETWORKS["scales"], random.Random(seed)) for seed in range(25)]
    assert {len(plan.blocks) for plan in plans} >= {1, 2, 3, 4}
    assert any(set(plan.agents) < set(AGENTS) for plan in plans)
    assert any(t.region.columns.start for plan in plans for block in plan.blocks for t in block.tiles)
