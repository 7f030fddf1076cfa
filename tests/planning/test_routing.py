"""Brute force, element by element: what a step needs comes once, from whoever made it before; nothing else is sent."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from legion_iot.model.blocks import Network
from legion_iot.model.cut import cut_tail, cut_tile
from legion_iot.model.geometry import Region
from legion_iot.planning.plan import Plan, check
from legion_iot.planning.routing import ORCHESTRATOR, Routing, Work, route
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
    for number in range(len(plan.turns)):
        _check_turn(network, routing, [work for work in routing.works if work.replica == number])
    steps = [work.step for work in routing.works]
    assert steps == sorted(steps)
    targets = {(work.step, work.agent) for work in routing.works}
    assert {(part.step, part.target) for part in routing.transfers} <= targets


def _check_turn(network: Network, routing: Routing, works: list[Work]) -> None:
    made: dict[Element, tuple[int, str]] = {}  # who made it or gathered it last, in which step
    for tensor in network.graph.inputs:
        made |= dict.fromkeys(whole(network, tensor), (-1, ORCHESTRATOR))
    for work in works:
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
        for tensor, region in work.outputs.items():
            for element in elements(tensor, region):
                assert (element in made) == work.gathers, "made twice, or gathered before it was made"
                made[element] = (work.step, work.agent)


def _check_work(network: Network, plan: Plan, routing: Routing) -> None:
    """Inputs are those of the sub-models that devices will cut; the last works collect the network's outputs."""
    for work in routing.works:
        turn = plan.turns[work.replica]
        if work.agent == ORCHESTRATOR:
            continue
        if work.gathers:
            assert work.agent == turn.hub
            assert work.inputs == work.outputs
            continue
        if work.units is not None:
            assert work.block is not None
            assert work.units == (turn.blocks[work.block].first, turn.blocks[work.block].last)
            sub = cut_tile(network, network.block_ops(*work.units), work.outputs)
        else:
            assert (work.block, work.agent) == (None, turn.tail_agent)
            sub = cut_tail(network)
        assert dict(sub.inputs) == dict(work.inputs)
        assert dict(sub.outputs) == dict(work.outputs)
    assert [answer.replica for answer in routing.answers] == list(range(len(plan.turns)))
    for answer in routing.answers:
        assert answer.outputs == {}
        collected = {e for tensor, region in answer.inputs.items() for e in elements(tensor, region)}
        assert collected == {e for tensor in network.graph.outputs for e in whole(network, tensor)}
    tails = [work for work in routing.works if work.block is None and work.agent != ORCHESTRATOR]
    assert len(tails) == bool(network.tail) * len(plan.turns)


def test_a_hub_is_between_all_others() -> None:
    """With a hub, agents other than it get nothing from each other."""
    network = NETWORKS["scales"]
    plans = [random_plan(network, random.Random(seed)) for seed in range(40)]
    for plan in (p for p in plans if p.hub and not p.replicas and p.hub == p.tail_agent):
        parties = {plan.hub, ORCHESTRATOR}
        assert all(
            t.source in parties or t.target in parties or t.source == t.target for t in route(network, plan).transfers
        )


def test_one_agent_keeps_everything() -> None:
    """With a single device only the input and the answer travel."""
    network = NETWORKS["residual"]
    draw = random.Random(4)
    while True:
        plan = random_plan(network, draw)
        if len(plan.blocks) > 1 and len(plan.agents) == 1 and not plan.replicas:
            break
    travels = [t for t in route(network, plan).transfers if t.source != t.target]
    assert {(t.source, t.target) for t in travels} == {(ORCHESTRATOR, plan.tail_agent), (plan.tail_agent, ORCHESTRATOR)}


def test_agents_of_random_plans_are_not_all_alike() -> None:
    """The plans above would show little if they were."""
    plans = [random_plan(NETWORKS["scales"], random.Random(seed)) for seed in range(25)]
    assert {len(plan.blocks) for plan in plans} >= {1, 2, 3, 4}
    assert any(set(plan.agents) < set(AGENTS) for plan in plans)
    assert any(t.region.columns.start for plan in plans for block in plan.blocks for t in block.tiles)
