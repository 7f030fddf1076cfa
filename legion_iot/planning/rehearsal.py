"""What planners' wishes would be answered with, if given costs were true: planning without a group."""

from __future__ import annotations

from collections.abc import Mapping

from legion_iot.planning.plan import Plan, check
from legion_iot.planning.problem import Costs, Planner, PlanRun, Problem, Reading, TailRun, TileRun, Wish, carry_out
from legion_iot.planning.ranking import Ranking


class Rehearsal:
    """A problem with costs that are taken to be true; `ranking` estimates plans by them."""

    def __init__(self, problem: Problem, costs: Costs) -> None:
        self.problem, self.costs = problem, costs
        self.ranking = Ranking(problem, costs)

    def plan(self, planner: Planner) -> Plan:
        """The planner's plan. Raises AgentError where it finds none."""
        plan = carry_out(planner(self.problem), self.answers)
        check(plan, self.problem.network)
        return plan

    def answers(self, wishes: tuple[Wish, ...]) -> Mapping[Wish, Reading]:
        """What a planner is told."""
        return {wish: Reading(self._seconds(wish)) for wish in wishes}

    def _seconds(self, wish: Wish) -> float:
        match wish:
            case TileRun(device, first, last, region):
                return self.costs.tile_seconds(device, first, last, region)
            case TailRun(device):
                return self.costs.tail_seconds(device)
            case PlanRun(plan):
                return self.ranking.seconds(plan)
