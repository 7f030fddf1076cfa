"""Planner `single`: one device runs everything, the one that is best at it.

Spends: what `learn` asks. It is what every other plan has to beat.
"""

from __future__ import annotations

from legion_iot.planning.learning import learn
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Planning, Problem
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.whole import whole_plan


def single(problem: Problem) -> Planning:
    """Raises AgentError where no device has the memory."""
    costs = yield from learn(problem)
    return single_plan(Ranking(problem, costs))


def single_plan(ranking: Ranking) -> Plan:
    """The best device by the estimate; the first of several that are alike."""
    problem = ranking.problem
    return ranking.best_fitting([whole_plan("single", problem.network, name) for name in problem.group.names])
