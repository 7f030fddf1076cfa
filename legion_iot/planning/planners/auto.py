"""Planner `auto`: the best plan of all kinds by the estimate, and a few real runs where they could change the choice.

Candidates are the plans of `single`, `frames`, `halo`, and of the published kinds: `layerwise`, `deepthings`, `aofl`,
and Legion's with the predicted cost matrix. At most `CARDS` things are really run (`wildcard`): first tiles of fused
units on which the leading plan's time hangs, each followed by a new search; then whole plans, the most promising first,
each of which corrects the predictions of the others, up to `MORE_CARDS` more in a group. As one device alone is a
candidate, the choice is never one that is known, or thought, to be slower; and one device with fewer blocks is taken
where no plan promises `GAIN` over it.

Spends: what `learn` asks, then at most `CARDS` runs, and `MORE_CARDS` in a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from legion_iot.errors import AgentError
from legion_iot.planning.hub import Strips, fastest, hub_costs, hub_plan, strips_by_speed, strips_of_speeds
from legion_iot.planning.learning import learn
from legion_iot.planning.memory import fits, too_little_memory
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners.aofl import aofl_plan
from legion_iot.planning.planners.deepthings import deepthings_plan
from legion_iot.planning.planners.frames import frames_plan
from legion_iot.planning.planners.halo import coarse_halo_plan
from legion_iot.planning.planners.layerwise import layerwise_plan
from legion_iot.planning.planners.legion import board_speeds, merged
from legion_iot.planning.planners.single import single, single_plan
from legion_iot.planning.problem import Planning, PlanRun, Problem
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.refine import refined, refined_division
from legion_iot.planning.shortest_path import best_division
from legion_iot.planning.tables import StripTables
from legion_iot.planning.wildcard import Outlook, next_card, next_tile, outlooks

CARDS = 3  # the last one is kept for a whole plan
MORE_CARDS = 2  # for whole plans, where there are several devices: messages and waiting are what is known worst
GAIN = 0.03  # of the time of one device with fewer blocks: a plan that promises less may well take longer

Proposal = Callable[[Ranking], Sequence[Plan]]
Refinement = Callable[[Ranking, Plan], Plan]  # small changes to the best plan, kept where they help


def auto(problem: Problem) -> Planning:
    """Raises AgentError where no plan is found that fits the devices' memory."""
    return chosen_among(problem, candidates, _refined_halo)


def auto_within_fss(problem: Problem) -> Planning:
    """The same with only the plans that `fss` chooses among: to see what is lost by not running everything."""
    if not problem.network.units:
        return (yield from single(problem))
    speeds = yield from board_speeds(problem)
    hub, rows = max(speeds, key=lambda name: speeds[name]), strips_of_speeds(problem, speeds)
    return (
        yield from chosen_among(
            problem,
            lambda ranking: hub_candidates(ranking, hub, rows),
            lambda ranking, plan: _recut(ranking, plan, rows),
        )
    )


def chosen_among(problem: Problem, propose: Proposal, refine: Refinement) -> Planning:
    """The best of the proposed plans, by estimate and a few real runs: of tiles, then of whole plans."""
    predictor = yield from learn(problem)
    cards = CARDS
    while True:
        ranking = Ranking(problem, predictor)
        plans = list(dict.fromkeys(propose(ranking)))
        best = ranking.best(plans)
        tile = next_tile(predictor, best, ranking.seconds(best)) if cards > 1 else None
        if tile is None:
            break
        predictor = predictor.with_readings((yield (tile,)))
        cards -= 1
    plans[plans.index(best)] = refine(ranking, best)
    measured: dict[Plan, float] = {}
    for _ in range(cards + (MORE_CARDS if len(problem.group.devices) > 1 else 0)):
        card = next_card(outlooks(ranking, predictor, plans, measured))
        if card is None:
            break
        seconds = (yield (PlanRun(card),))[PlanRun(card)].seconds
        if not seconds > 0:
            break
        measured[card] = seconds
    return _simplest(outlooks(ranking, predictor, plans, measured)).plan


def _simplest(found: Sequence[Outlook]) -> Outlook:
    """The best plan, or the one of fewest blocks on one device that is nearly as good. `found` is the best plan first.

    Predictions may be off by as much as `GAIN`, and one device with one block has none of the risks of a group.
    """
    alone = [outlook for outlook in found if outlook.plan.is_alone]
    near = [outlook for outlook in alone if outlook.seconds * (1 - GAIN) <= found[0].seconds]
    return min(near, key=lambda outlook: len(outlook.plan.blocks), default=found[0])


def candidates(ranking: Ranking) -> list[Plan]:
    """The plans of every kind that fit the devices' memory. Raises AgentError where there is none."""
    problem, found = ranking.problem, []
    for make in (single_plan, frames_plan, coarse_halo_plan):
        try:
            found.append(make(ranking))
        except AgentError:  # this kind needs more memory than there is
            continue
    if len(problem.group.devices) > 1:
        plans = [layerwise_plan(problem, ranking.costs), deepthings_plan(ranking), aofl_plan(problem, ranking.costs)]
        hub, rows = fastest(problem, ranking.costs), strips_by_speed(problem, ranking.costs)
        plans += hub_candidates(ranking, hub, rows)
        found += [plan for plan in plans if fits(problem.network, plan, problem.group)]
    if not found:
        raise too_little_memory(problem.network)
    return found


def hub_candidates(ranking: Ranking, hub: str, rows: Sequence[Strips]) -> list[Plan]:
    """The division of least predicted cost, and the next one by merging two of its blocks."""
    problem = ranking.problem
    costs = hub_costs(problem, StripTables(problem, ranking.costs), hub, rows)
    division = best_division(costs)
    divisions = [division, merged(costs, division)] if len(division) > 1 else [division]
    return [hub_plan("legion", problem, hub, rows, division) for division in divisions]


def _refined_halo(ranking: Ranking, plan: Plan) -> Plan:
    """Plans of other kinds stay what they are."""
    return refined(ranking, plan) if plan.planner == "halo" else plan


def _recut(ranking: Ranking, plan: Plan, rows: Sequence[Strips]) -> Plan:
    """The plan with the best cuts by the estimate, in the same strips."""
    division = tuple((block.first, block.last) for block in plan.blocks)
    return refined_division(
        ranking, lambda changed: hub_plan(plan.planner, ranking.problem, plan.hub, rows, changed), division
    )
