"""A real run is spent where it can change the choice, and not where it cannot."""

from __future__ import annotations

import dataclasses

import pytest

from legion_iot.planning.costs import Predictor
from legion_iot.planning.plan import Plan
from legion_iot.planning.planners.auto import CARDS, MORE_CARDS, chosen_among
from legion_iot.planning.planners.layerwise import layerwise_plan
from legion_iot.planning.problem import PlanRun, Reading, Wish, carry_out
from legion_iot.planning.ranking import Ranking
from legion_iot.planning.whole import whole_plan
from legion_iot.planning.wildcard import Outlook, next_card, next_tile, outlooks
from tests.planning.problems import Case, Recorder, case
from tests.runtime.networks import NETWORKS

SPEEDS = {"ant": 1e7, "bee": 1.02e7, "cat": 0.98e7}
GIVEN = case(NETWORKS["residual"], SPEEDS)
PLANS = [whole_plan(name, NETWORKS["residual"], name) for name in SPEEDS]


def outlook(place: int, seconds: float, deviation: float = 0.0, is_measured: bool = False) -> Outlook:
    return Outlook(PLANS[place], seconds, deviation, is_measured)


def test_a_clear_lead_is_not_run() -> None:
    assert next_card([outlook(0, 1.0), outlook(1, 1.5, 0.1), outlook(2, 2.0, 0.9)]) is None
    assert next_card([outlook(0, 1.0)]) is None


def test_a_lead_in_doubt_is_run_and_then_who_may_beat_it_by_most() -> None:
    assert next_card([outlook(0, 1.0), outlook(1, 1.1, 0.3), outlook(2, 1.2, 0.6)]) == PLANS[0]
    assert next_card([outlook(0, 1.0, 0, True), outlook(1, 1.1, 0.3), outlook(2, 1.2, 0.6)]) == PLANS[2]


def test_saturation_nothing_left_can_win_by_more_than_it_is_worth() -> None:
    assert next_card([outlook(0, 1.0, 0, True), outlook(1, 1.1, 0.12), outlook(2, 1.2, 0, True)]) is None


def test_what_runs_took_beyond_their_prediction_corrects_the_others() -> None:
    predictor = Predictor.of(GIVEN.problem)
    ranking = Ranking(GIVEN.problem, predictor)
    before = {o.plan: o.seconds for o in outlooks(ranking, predictor, PLANS, {})}
    after = {o.plan: o.seconds for o in outlooks(ranking, predictor, PLANS, {PLANS[0]: 2 * before[PLANS[0]]})}
    assert all(abs(after[plan] / before[plan] - 2) < 1e-9 for plan in PLANS)


def test_runs_of_one_device_say_nothing_of_groups_nor_the_other_way_round() -> None:
    predictor = Predictor.of(GIVEN.problem)
    ranking = Ranking(GIVEN.problem, predictor)
    alone, group = PLANS[0], dataclasses.replace(PLANS[0], tail_agent="bee")
    others = [PLANS[1], dataclasses.replace(PLANS[1], tail_agent="cat")]
    for measured, other in ((alone, others[0]), (group, others[1])):
        plans = [alone, group, *others]
        before = {plan: ranking.seconds(plan) for plan in plans}
        after = {o.plan: o.seconds for o in outlooks(ranking, predictor, plans, {measured: 3 * before[measured]})}
        tripled = {plan for plan in plans if after[plan] == pytest.approx(3 * before[plan])}
        assert tripled == {measured, other}
        assert all(after[plan] == before[plan] for plan in plans if plan not in tripled)


def test_an_unmeasured_lead_over_a_measured_plan_is_run() -> None:
    assert next_card([outlook(0, 1.0), outlook(1, 1.1, 0, True), outlook(2, 1.2, 0.01)]) == PLANS[0]


def test_a_small_lead_of_a_group_over_one_device_is_run_and_so_is_the_device() -> None:
    group = dataclasses.replace(PLANS[0], tail_agent="bee")

    def lead(seconds: float, is_measured: bool, alone_is_measured: bool = False) -> Plan | None:
        return next_card([Outlook(group, seconds, 0.0, is_measured), outlook(1, 1.0, 0.0, alone_is_measured)])

    assert lead(0.9, is_measured=False) == group
    assert lead(0.9, is_measured=True) == PLANS[1]
    assert lead(0.9, is_measured=True, alone_is_measured=True) is None
    assert lead(0.75, is_measured=True) == PLANS[1]
    assert lead(0.65, is_measured=False) is None
    assert lead(0.65, is_measured=True) is None


def test_plans_are_as_uncertain_as_what_they_do_not_share() -> None:
    """A plan that differs only in who runs the tail shares all blocks with the best one: nothing is uncertain."""
    other = dataclasses.replace(PLANS[0], tail_agent="bee")
    predictor = Predictor.of(GIVEN.problem)
    ranking = Ranking(GIVEN.problem, predictor)
    found = {o.plan: o for o in outlooks(ranking, predictor, [PLANS[0], other, PLANS[1]], {})}
    best = min(found.values(), key=lambda o: o.seconds)
    assert found[best.plan].deviation == 0
    assert found[other].deviation == 0
    assert found[PLANS[1]].deviation > 0


def test_what_a_group_does_not_share_with_one_device_is_uncertain_for_its_messages_too() -> None:
    """All of its blocks are computed by several devices, so it shares none with the best one."""
    predictor = Predictor.of(GIVEN.problem)
    ranking = Ranking(GIVEN.problem, predictor)
    group = layerwise_plan(GIVEN.problem, ranking.costs)
    alone = min(PLANS, key=ranking.seconds)
    best, other = sorted([group, alone], key=ranking.seconds)
    found = {o.plan: o for o in outlooks(ranking, predictor, [group, alone], {})}
    assert found[best].deviation == 0
    assert found[other].deviation >= 0.1 * found[other].seconds


def run_among(given: Case, surprise: dict[Plan, float]) -> tuple[Plan, list[Wish]]:
    """What is chosen among `PLANS` where the plans in `surprise` really take so long."""
    recorder = Recorder(given)

    def answer(wishes: tuple[Wish, ...]) -> dict[Wish, Reading]:
        readings = recorder.answer(wishes)
        told = {w: Reading(surprise[w.plan]) for w in wishes if isinstance(w, PlanRun) and w.plan in surprise}
        # Runs of tiles scatter so much that they leave everything open.
        return {wish: Reading(reading.seconds, reading.seconds) for wish, reading in readings.items()} | told

    plan = carry_out(chosen_among(given.problem, lambda ranking: PLANS, lambda ranking, plan: plan), answer)
    return plan, [wish for wish in recorder.asked if isinstance(wish, PlanRun)]


def test_the_most_uncertain_fused_tile_is_run_once_on_a_board() -> None:
    """Whole plans of one fused block: its tile decides; once its block was run, nothing is left to be asked."""
    predictor = Predictor.of(GIVEN.problem)
    seconds = Ranking(GIVEN.problem, predictor).seconds(PLANS[0])
    run = next_tile(predictor, PLANS[0], seconds)
    assert run is not None
    assert (run.device, run.first, run.last) == ("ant", 0, len(NETWORKS["residual"].units) - 1)
    assert next_tile(predictor, PLANS[0], seconds * 1e6) is None, "a tile too short to matter"
    assert next_tile(predictor.with_readings(GIVEN.answer((run,))), PLANS[0], seconds) is None


def test_of_what_was_run_the_quickest_is_chosen() -> None:
    """Three devices all but alike: whatever the prediction, runs decide."""
    won = 0
    for winner in range(3):
        surprise = {plan: 1.0 if number == winner else 2.0 for number, plan in enumerate(PLANS)}
        plan, runs = run_among(GIVEN, surprise)
        assert 0 < len(runs) <= CARDS + MORE_CARDS
        if PLANS[winner] in [run.plan for run in runs if isinstance(run, PlanRun)]:
            assert plan == PLANS[winner]
            won += 1
    assert won


def test_a_run_that_answers_nonsense_is_not_believed() -> None:
    for nonsense in (0.0, -1.0, float("nan")):
        plan, runs = run_among(GIVEN, dict.fromkeys(PLANS, nonsense))
        assert plan in PLANS
        assert len(runs) == 1
