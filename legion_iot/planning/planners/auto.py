"""Planner `auto`: the best plan of all kinds by the estimate, and a few real runs where they could change the choice.

Candidates are the plans of `single`, `frames`, `halo`, and of the published kinds: `layerwise`, `deepthings`, `aofl`,
and Legion's with the predicted cost matrix. At most `CARDS` of them are really run (`wildcard`), the most promising
first; each run corrects the predictions of the others. As one device alone is a candidate, the choice is never one that
is known, or thought, to be slower.

Spends: what `learn` asks, then at most `CARDS` runs of whole plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from legion_iot.errors import AgentError
from legion_iot.planning.costs import Predictor
from legion_iot.planning.hub import fastest, hub_costs, hub_plan, strips_by_speed
from legion_iot.planning.learning import learn
from legion_iot.planning.memory import fits, too_little_memory
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners.aofl import aofl_plan
from legion_iot.planning.planners.deepthings import deepthings_plan
from legion_iot.planning.planners.frames import frames_plan
from legion_iot.planning.planners.halo import halo_plan
from legion_iot.planning.planners.layerwise import layerwise_plan
from legion_iot.planning.planners.legion import merged
from legion_iot.planning.planners.single import single_plan
from legion_iot.planning.problem import Planning, PlanRun, Problem
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.shortest_path import best_division
from legion_iot.planning.tables import StripTables
from legion_iot.planning.wildcard import next_card, outlooks

CARDS = 3

Proposal = Callable[[Ranking, Predictor], Sequence[Plan]]


def auto(problem: Problem) -> Planning:
    """Raises AgentError where no plan is found that fits the devices' memory."""
    return chosen_among(problem, candidates)


def auto_within_fss(problem: Problem) -> Planning:
    """The same with only the plans that `fss` chooses among: to see what is lost by not running everything."""
    return chosen_among(problem, lambda ranking, predictor: hub_candidates(ranking.problem, predictor))


def chosen_among(problem: Problem, propose: Proposal) -> Planning:
    """The best of the proposed plans, by estimate and a few real runs."""
    predictor = yield from learn(problem)
    ranking = Ranking(problem, predictor)
    plans = list(dict.fromkeys(propose(ranking, predictor)))
    measured: dict[Plan, float] = {}
    for _ in range(CARDS):
        card = next_card(outlooks(ranking, predictor, plans, measured))
        if card is None:
            break
        seconds = (yield (PlanRun(card),))[PlanRun(card)].seconds
        if not seconds > 0:
            break
        measured[card] = seconds
    return outlooks(ranking, predictor, plans, measured)[0].plan


def candidates(ranking: Ranking, predictor: Predictor) -> list[Plan]:
    """The plans of every kind that fit the devices' memory. Raises AgentError where there is none."""
    problem, found = ranking.problem, []
    for make in (single_plan, frames_plan, lambda ranking: halo_plan(problem, predictor, ranking)):
        try:
            found.append(make(ranking))
        except AgentError:  # this kind needs more memory than there is
            continue
    if len(problem.group.devices) > 1:
        plans = [layerwise_plan(problem, predictor), deepthings_plan(ranking), aofl_plan(problem, predictor)]
        plans += hub_candidates(problem, predictor)
        found += [plan for plan in plans if fits(problem.network, plan, problem.group)]
    if not found:
        raise too_little_memory(problem.network)
    return found


def hub_candidates(problem: Problem, predictor: Predictor) -> list[Plan]:
    """The division of least predicted cost, and the next one by merging two of its blocks."""
    hub, rows = fastest(problem, predictor), strips_by_speed(problem, predictor)
    costs = hub_costs(problem, StripTables(problem, predictor), hub, rows)
    division = best_division(costs)
    divisions = [division, merged(costs, division)] if len(division) > 1 else [division]
    return [hub_plan("legion", problem, hub, rows, division) for division in divisions]
