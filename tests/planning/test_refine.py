"""Changes keep a plan sound, within memory, and never make it slower by the estimate."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.planning.hub import hub_plan, strips_of_speeds
from legion_iot.planning.links import Link
from legion_iot.planning.memory import fits, plan_memory_bytes
from legion_iot.planning.plan import Block, Plan, check
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.refine import refined, refined_division
from legion_iot.planning.strips import map_height, strip_tiles, strips
from legion_iot.planning.whole import whole_plan
from tests.planning.problems import Case, case, cases
from tests.planning.test_balanced import divisions
from tests.planning.test_halo_search import five_units
from tests.runtime.networks import NETWORKS


def random_strips(given_case: Case, draw: random.Random) -> Plan:
    """Blocks of random length, in strips of random heights."""
    network, names = given_case.problem.network, given_case.problem.group.names
    count = len(network.units)
    if not count:
        return whole_plan("random", network, names[0])
    ends = [*sorted(draw.sample(range(1, count), draw.randrange(count))), count]
    blocks, first = [], 0
    for end in ends:
        rows = strips(map_height(network, end - 1), {name: draw.random() + 1e-3 for name in names})
        blocks.append(Block(first, end - 1, strip_tiles(network, end - 1, rows)))
        first = end
    return Plan("random", tuple(blocks), draw.choice(names))


@settings(max_examples=60, deadline=None)
@given(given_case=cases(), seed=st.integers(0, 1000))
def test_a_refined_plan_is_sound_and_not_slower(given_case: Case, seed: int) -> None:
    plan = random_strips(given_case, random.Random(seed))
    better = refined(Ranking(given_case.problem, given_case.costs), plan)
    check(better, given_case.problem.network)
    assert given_case.seconds(better) <= given_case.seconds(plan)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_plan_that_fits_still_fits(seed: int) -> None:
    network, speeds = NETWORKS["residual"], {"ant": 3e7, "bee": 1e7, "cat": 1e7}
    plan = random_strips(case(network, speeds), random.Random(seed))
    limited = case(network, speeds, memory=dict(plan_memory_bytes(network, plan)))
    better = refined(Ranking(limited.problem, limited.costs), plan)
    assert fits(network, better, limited.problem.group)


@pytest.mark.parametrize("seed", range(4))
def test_a_refined_division_is_as_good_as_any_with_one_change(seed: int) -> None:
    """From a random division of five units; in the end no cut more, less or moved by a unit is better."""
    network, draw = five_units(), random.Random(seed)
    given_case = case(network, {"ant": 3e6, "bee": 1e6}, lambda name: Link(1e-3, 1e6, 1e6))
    rows = strips_of_speeds(given_case.problem, {"ant": 3.0, "bee": 1.0})
    ranking = Ranking(given_case.problem, given_case.costs)

    def seconds(division: list[tuple[int, int]]) -> float:
        return ranking.seconds(hub_plan("test", given_case.problem, "ant", rows, tuple(division)))

    every = list(divisions(5))
    start = draw.choice(every)
    plan = refined_division(
        ranking, lambda changed: hub_plan("test", given_case.problem, "ant", rows, changed), tuple(start)
    )
    found = [(block.first, block.last) for block in plan.blocks]
    assert seconds(found) <= seconds(start)
    cuts = {last for _, last in found[:-1]}
    near = [d for d in every if len({last for _, last in d[:-1]} ^ cuts) <= 1]
    assert seconds(found) <= min(seconds(division) for division in near)
