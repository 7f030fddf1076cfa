"""Wild cards: which plan is worth a real run, because its result could change the decision.

A candidate's time is uncertain by what it does not share with the best one: blocks that both have are wrong alike, and
so are the messages between them. Its *optimistic* time is a standard deviation below the predicted one. The most
promising card is the candidate of the least optimistic time; when no optimistic time is clearly below the best one,
nothing is left to be gained: that is saturation.

One device alone shares neither messages nor waiting with a group's plan, and where groups were measured, predictions
were off by a tenth as a rule, and by a quarter at worst. So a small lead of a group is no lead before both were run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from legion_iot.planning.costs import Predictor
from legion_iot.planning.plan import Block, Plan
from legion_iot.planning.problem import Reading, TileRun
from legion_iot.planning.ranking import Ranking

WORTH_TILE = 0.04  # of the plan's time: less uncertain tiles are not run
WORTH = 0.05  # of the best time: less is not worth a run
STRANGE = 0.1  # of what a plan does not share with the best one: how far its messages and its waiting may be off
LEAD = 0.3  # of the time of one device alone: a group's plan that promises less is run, and so is the device


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a plan takes by all that is known: measured, or predicted with a standard deviation."""

    plan: Plan
    seconds: float
    deviation: float
    is_measured: bool

    @property
    def optimistic(self) -> float:
        """What it may well take if it is better than expected."""
        return self.seconds - self.deviation


def outlooks(
    ranking: Ranking, predictor: Predictor, plans: Sequence[Plan], measured: Mapping[Plan, float]
) -> list[Outlook]:
    """The plans, best first. Predictions are scaled by what measured plans took beyond or below their own.

    Those of one device are scaled by plans of one device alone, and the others by the others: what a group takes beyond
    its prediction goes into messages and waiting, of which one device has next to none.
    """
    factors = {alone: _factor(ranking, measured, alone) for alone in (False, True)}
    expected = {plan: measured.get(plan, ranking.seconds(plan) * factors[plan.is_alone]) for plan in plans}
    best = min(plans, key=lambda plan: expected[plan])
    found = []
    for plan in plans:
        relative = _relative_deviation(predictor, plan, best)
        is_measured = plan in measured
        found.append(Outlook(plan, expected[plan], 0.0 if is_measured else relative * expected[plan], is_measured))
    return sorted(found, key=lambda outlook: outlook.seconds)


def next_card(found: Sequence[Outlook]) -> Plan | None:
    """The plan whose run promises most; None where nothing promises enough. `found` is the best plan first.

    Before any run, a plan that leads is run itself when another one may be better: a lead that is not measured is none,
    and least of all one over a plan that is measured.
    """
    best = found[0]
    if not best.is_measured and any(outlook.is_measured for outlook in found):
        return best.plan
    if (alone := _close_alone(found)) is not None:
        return alone.plan if best.is_measured else best.plan
    open_ones = [outlook for outlook in found[1:] if not outlook.is_measured]
    promising = min(open_ones, key=lambda outlook: outlook.optimistic, default=None)
    if promising is None or promising.optimistic > best.seconds * (1 - WORTH):
        return None
    return promising.plan if best.is_measured else best.plan


def _close_alone(found: Sequence[Outlook]) -> Outlook | None:
    """The best device alone, where it was not run and a group's plan leads over it by too little."""
    best = found[0]
    alone = next((outlook for outlook in found if outlook.plan.is_alone), best)
    is_close = not alone.is_measured and alone.seconds * (1 - LEAD) <= best.seconds
    return alone if is_close and not best.plan.is_alone else None


def next_tile(predictor: Predictor, plan: Plan, seconds: float) -> TileRun | None:
    """The tile of fused units whose run tells most about a plan that takes so many seconds; None where none tells much.

    It is the one with the most uncertain time, of those whose block has not been run on such a board at any height.
    """
    best, most = None, WORTH_TILE * seconds
    for block in _blocks(plan):
        for tile in block.tiles if block.last > block.first else ():
            run = TileRun(tile.agent, block.first, block.last, tile.region)
            deviation = predictor.tile_estimate(tile.agent, block.first, block.last, tile.region).deviation
            if deviation > most and not _is_known(predictor, run):
                best, most = run, deviation
    return best


def _is_known(predictor: Predictor, run: TileRun) -> bool:
    """Whether the block of a run was measured on such a board."""
    sample = predictor.sample(run, Reading(1.0))
    assert sample is not None, "a tile's run is a sample"
    return any(known.units == sample.units for known in predictor.samples.of_board(sample.board))


def _relative_deviation(predictor: Predictor, plan: Plan, best: Plan) -> float:
    """Of the plan's time beside that of the best plan: both have the errors of the blocks they share, at any height.

    The slowest tile of a block stands for it; blocks err independently of each other.
    """
    mine, others = _by_units(plan), _by_units(best)
    total = sum(_slowest(predictor, block)[0] for block in mine.values())
    if not total:
        return 0.0
    apart = [_slowest(predictor, block) for key, block in mine.items() if key not in others]
    missing = [_slowest(predictor, block) for key, block in others.items() if key not in mine]
    strange = 0.0 if plan.is_alone and best.is_alone else STRANGE * sum(seconds for seconds, _ in apart)
    return math.hypot(strange, *(deviation for _, deviation in (*apart, *missing))) / total


def _factor(ranking: Ranking, measured: Mapping[Plan, float], alone: bool) -> float:
    """What measured plans, of one device or of several, took over what was predicted."""
    ratios = [seconds / ranking.seconds(plan) for plan, seconds in measured.items() if plan.is_alone == alone]
    return statistics.median(ratios or [1.0])


def _by_units(plan: Plan) -> dict[tuple[object, ...], Block]:
    """The blocks of a plan, by what they are alike in with those of another one: their units, and their agents."""
    return {(block.first, block.last, frozenset(t.agent for t in block.tiles)): block for block in _blocks(plan)}


def _blocks(plan: Plan) -> tuple[Block, ...]:
    return tuple(block for turn in plan.turns for block in turn.blocks)


def _slowest(predictor: Predictor, block: Block) -> tuple[float, float]:
    """Seconds and standard deviation of a block's slowest tile."""
    estimates = (predictor.tile_estimate(t.agent, block.first, block.last, t.region) for t in block.tiles)
    return max((estimate.seconds, estimate.deviation) for estimate in estimates)
