"""Planner `frames`: each request goes whole to one device, and the devices take turns.

No feature map travels and nothing is computed twice, so nothing answers more requests in the same time where every
device holds the network; one request takes as long as on one device. Spends: what `learn` asks.
"""

from __future__ import annotations

import dataclasses

from legion_iot.planning.learning import learn
from legion_iot.planning.memory import fits, too_little_memory
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Planning, Problem
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.whole import whole_plan


def frames(problem: Problem) -> Planning:
    """Raises AgentError where no device has the memory."""
    costs = yield from learn(problem)
    return frames_plan(Ranking(problem, costs))


def frames_plan(ranking: Ranking) -> Plan:
    """A replica on every device that has the memory for it and raises the rate; the quickest device first."""
    problem = ranking.problem

    def interval(plan: Plan) -> float:
        return ranking.seconds(plan, "throughput")

    plans = [whole_plan("frames", problem.network, name) for name in problem.group.names]
    able = sorted((plan for plan in plans if fits(problem.network, plan, problem.group)), key=interval)
    if not able:
        raise too_little_memory(problem.network)
    best = able[0]
    for plan in able[1:]:
        # A device that only crowds the others' links is left out.
        more = dataclasses.replace(best, replicas=(*best.replicas, plan))
        best = min(best, more, key=interval)
    return best
