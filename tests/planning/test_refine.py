"""Changes keep a plan sound, within memory, and never make it slower by the estimate."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from legion_iot.planning.memory import fits, plan_memory_bytes
from legion_iot.planning.plan import Block, Plan, check
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.refine import refined
from legion_iot.planning.strips import map_height, strip_tiles, strips
from legion_iot.planning.whole import whole_plan
from tests.planning.problems import Case, case, cases
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
