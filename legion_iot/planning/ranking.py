"""Which of several plans is best for an objective, by the estimate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from legion_iot.planning.estimate import Estimate, Estimator
from legion_iot.planning.memory import fits, too_little_memory
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Costs, Objective, Problem
from legion_iot.planning.routing import Router
from legion_iot.planning.whole import whole_plan


@dataclass(frozen=True, slots=True)
class Alone:
    """What a device takes for the whole model alone."""

    device: str
    seconds: float


class Ranking:
    """Seconds of plans for one problem: latency, or the time between answers; lower is better.

    Plans and tiles are remembered, so planners whose plans are compared share one.
    """

    def __init__(self, problem: Problem, costs: Costs) -> None:
        self.problem = problem
        self.costs = costs
        self._estimator = Estimator(problem.network, problem.group, costs, problem.wire)
        self._seconds: dict[tuple[object, ...], tuple[float, float]] = {}

    @property
    def router(self) -> Router:
        """That of the estimates, which remembers their tiles."""
        return self._estimator.router

    def seconds(self, plan: Plan, objective: Objective | None = None) -> float:
        """What the problem's objective counts, unless another one is given."""
        key = (plan.blocks, plan.tail_agent, plan.hub, plan.replicas)
        seconds = self._seconds.get(key)
        if seconds is None:
            estimate = self._estimator.estimate(plan)
            seconds = self._seconds[key] = estimate.latency, estimate.interval
        return seconds[(objective or self.problem.objective) == "throughput"]

    def estimate(self, plan: Plan) -> Estimate:
        """What a plan takes, in full."""
        return self._estimator.estimate(plan)

    def alone(self) -> list[Alone]:
        """What each device takes for the whole model, of those that have the memory for it, the fastest first."""
        problem = self.problem
        plans = [whole_plan("single", problem.network, name) for name in problem.group.names]
        fitting = [plan for plan in plans if fits(problem.network, plan, problem.group)]
        return sorted((Alone(plan.tail_agent, self.seconds(plan)) for plan in fitting), key=lambda each: each.seconds)

    def best(self, plans: Iterable[Plan]) -> Plan:
        """The first of the plans that take least. Raises ValueError without one."""
        return min(plans, key=self.seconds)

    def best_fitting(self, plans: Iterable[Plan]) -> Plan:
        """The best of the plans that every agent has memory for. Raises AgentError where there is none."""
        fitting = [plan for plan in plans if fits(self.problem.network, plan, self.problem.group)]
        if not fitting:
            raise too_little_memory(self.problem.network)
        return self.best(fitting)
