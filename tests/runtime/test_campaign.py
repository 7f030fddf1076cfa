"""Campaigns on simulated groups: random planners, devices that keep a law, and devices that do not."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.links import ASSUMED, Link
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.problem import Planner, PlanRun, Problem, Reading, TailRun, TileRun, Wish
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.planning.samples import Samples
from legion_iot.runtime import campaign as machine
from legion_iot.runtime.campaign import Campaign, Member
from legion_iot.runtime.orchestrator_events import Consult
from legion_iot.wire.messages import Measured, PartTime, ProfilePart
from tests.runtime.networks import NETWORKS

LINK = Link(0.001, 2e6, 3e6)
OTHER = Link(0.004, 5e6, 6e6)
BOARDS = {"ant": "pi4", "bee": "pi4", "cat": "pi5"}
FACTORS = {"pi4": 3.0, "pi5": 1.0}


def whole_plan(network: Network, agent: str) -> Plan:
    whole = Region.whole(network.graph.tensors[network.units[-1].reference])
    return Plan("test", (Block(0, len(network.units) - 1, (Tile(agent, whole),)),), agent)


def law(board: str, part: ProfilePart) -> float:
    """Seconds of a part: anything that depends on nothing but the board and the part."""
    if part.units is None:
        return 0.5 * FACTORS[board]
    first, last = part.units
    top, bottom, *_ = part.region
    return FACTORS[board] * (0.01 * (1 + last - first) + 0.002 * (bottom - top) + 0.001 * top)


def random_planner(seed: int, network: Network, asked: list[tuple[Wish, Reading]]) -> Planner:
    """Asks for anything in batches of any size, the same things twice, too; remembers what it was told."""

    def plan(problem: Problem):  # type: ignore[no-untyped-def]
        draw = random.Random(seed)
        for _ in range(draw.randrange(1, 5)):
            wishes: list[Wish] = [a_wish(draw, network, problem.group.names) for _ in range(draw.randrange(0, 9))]
            readings: Mapping[Wish, Reading] = yield tuple(wishes)
            asked.extend((wish, readings[wish]) for wish in wishes)
        return whole_plan(network, draw.choice(problem.group.names))

    return plan


def a_wish(draw: random.Random, network: Network, names: tuple[str, ...]) -> Wish:
    device = draw.choice(names)
    kind = draw.random()
    if kind < 0.1:
        return PlanRun(whole_plan(network, device))
    if kind < 0.2 and network.tail:
        return TailRun(device)
    last = draw.randrange(len(network.units))
    first = draw.randrange(last + 1)
    whole = Region.whole(network.graph.tensors[network.units[last].reference])
    # The top of the map only: what is asked twice is then the same rows for the same law.
    bottom = draw.randrange(1, len(whole.rows) + 1)
    return TileRun(device, first, last, Region(Interval(0, bottom), whole.columns))


@dataclass
class Group:
    """Devices and a planner around a campaign, in virtual time; answers come in any order."""

    network: Network
    planner: Planner
    seed: int = 0
    budget: int = 1000  # parts that a device measures before it answers
    samples: Samples = field(default_factory=Samples)
    links: dict[str, Link] = field(default_factory=dict)
    names: tuple[str, ...] = tuple(BOARDS)
    silent: frozenset[str] = frozenset()
    lies: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        members = [Member(name, BOARDS[name], None, self.links.get(name)) for name in self.names]
        own = self.links.get(ORCHESTRATOR)
        self.campaign = Campaign(self.network, members, self.samples, own, itertools.count(100))
        self.now = 10.0
        self.draw = random.Random(self.seed)
        self.measured: Counter[tuple[str, ProfilePart]] = Counter()
        self.probed: list[str] = []
        self.pending: list[machine.Action] = []
        self.ended: machine.Finished | None = None
        self.left_out: dict[str, str] = {}
        self.planning = None

    def run(self) -> machine.Finished | None:
        self._do(self.campaign.begin(self.now))
        for _ in range(2000):
            if self.ended is not None or self.left_out:
                break
            self.now += 1.0
            self._do(self.campaign.tick(self.now, False))
            if self.pending and self.ended is None:
                action = self.pending.pop(self.draw.randrange(len(self.pending)))
                self._do(self._answer(action))
        return self.ended

    def _do(self, actions: list[machine.Action]) -> None:
        for action in actions:
            match action:
                case machine.Finished():
                    assert self.ended is None
                    self.ended = action
                case machine.LeaveOut(agent=agent, reason=reason):
                    self.left_out[agent] = reason
                case machine.ProbeLink():
                    assert not self.pending, "links are probed one after the other, and alone"
                    self.pending.append(action)
                case machine.Measure(agent=agent):
                    busy = [each.agent for each in self.pending if isinstance(each, machine.Measure)]
                    assert agent not in busy
                    self.pending.append(action)
                case machine.TryPlan():
                    assert not self.pending, "a plan is tried alone"
                    self.pending.append(action)
                case _:
                    self.pending.append(action)

    def _answer(self, action: machine.Action) -> list[machine.Action]:
        match action:
            case machine.ProbeLink(participant=name, number=number):
                self.probed.append(name)
                return self.campaign.linked(name, number, OTHER, "", self.now)
            case machine.Measure(agent=agent, number=number, parts=parts):
                if agent in self.silent:
                    return []
                done = parts[: max(1, self.budget)]
                self.measured.update((BOARDS[agent], part) for part in done)
                times = tuple(PartTime(self.lies.get(agent, law(BOARDS[agent], part)), 0.0, 3) for part in done)
                assert self.campaign.measured(agent, Measured(number + 1, times), self.now) == []
                return self.campaign.measured(agent, Measured(number, times), self.now)
            case machine.TryPlan(plan=plan):
                return self.campaign.tried(plan, Reading(7.0), "", self.now)
            case Consult(number=number, problem=problem, readings=readings):
                assert self.campaign.consulted(number - 1, "an older one", self.now) == []
                return self.campaign.consulted(number, self._plan(problem, readings), self.now)
        raise AssertionError(action)

    def _plan(self, problem: Problem, readings: Mapping[Wish, Reading] | None) -> tuple[Wish, ...] | Plan:
        try:
            if readings is None:
                self.planning = self.planner(problem)
                return next(self.planning)
            assert self.planning is not None
            return self.planning.send(readings)
        except StopIteration as end:
            plan: Plan = end.value
            return plan


@pytest.mark.parametrize("name", ["chain", "residual", "scales", "mixed"])
@pytest.mark.parametrize("seed", range(12))
def test_every_wish_gets_the_reading_of_its_part(name: str, seed: int) -> None:
    network, asked = NETWORKS[name], []
    group = Group(network, random_planner(seed, network, asked), seed, budget=1 + seed % 4)
    ended = group.run()
    assert ended is not None
    assert ended.plan is not None
    assert group.probed == [ORCHESTRATOR, *BOARDS]
    for wish, reading in asked:
        if isinstance(wish, PlanRun):
            assert reading.seconds == 7.0
        else:
            assert reading.seconds == pytest.approx(law(BOARDS[wish.device], machine._part(wish)))
    # A like board, or the same question again, costs no new run; parts may have equal keys, so there may be fewer.
    assert all(count == 1 for count in group.measured.values())
    wanted = {(BOARDS[w.device], machine._part(w)) for w, _ in asked if not isinstance(w, PlanRun)}
    assert set(group.measured) <= wanted
    effort = group.campaign.effort
    assert effort.parts == len(group.measured)
    assert effort.runs == 3 * effort.parts
    assert effort.links == 4


@pytest.mark.parametrize("seed", range(6))
def test_what_is_known_is_not_measured_again(seed: int) -> None:
    network, first, second = NETWORKS["residual"], [], []
    group = Group(network, random_planner(seed, network, first))
    group.run()
    links = dict.fromkeys((ORCHESTRATOR, *BOARDS), LINK)
    again = Group(network, random_planner(seed, network, second), links=links, samples=group.campaign.samples)
    assert again.run() is not None
    assert not again.measured
    assert again.probed == []
    assert again.campaign.effort.parts == 0
    assert [(w, r.seconds) for w, r in second] == [(w, r.seconds) for w, r in first]


def test_a_planner_sees_the_group_as_it_is() -> None:
    seen: list[Problem] = []
    network = NETWORKS["chain"]

    def planner(problem: Problem):  # type: ignore[no-untyped-def]
        seen.append(problem)
        return whole_plan(network, "cat")
        yield ()

    group = Group(network, planner, links={"ant": LINK})
    assert group.run() == machine.Finished(whole_plan(network, "cat"))
    (problem,) = seen
    assert problem.group.names == tuple(BOARDS)
    assert [device.link for device in problem.group.devices] == [LINK, OTHER, OTHER]
    assert [device.board for device in problem.group.devices] == list(BOARDS.values())
    assert problem.group.orchestrator == OTHER


def one_tile(device: str, network: Network) -> Planner:
    def planner(problem: Problem):  # type: ignore[no-untyped-def]
        whole = Region.whole(network.graph.tensors[network.units[0].reference])
        yield (TileRun(device, 0, 0, whole),)
        return whole_plan(network, device)

    return planner


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_device_that_reports_what_cannot_be_is_left_out_by_name(seconds: float) -> None:
    network = NETWORKS["chain"]
    group = Group(network, one_tile("bee", network), lies={"bee": seconds})
    assert group.run() is None
    assert list(group.left_out) == ["bee"]
    assert "reported a time" in group.left_out["bee"]
    assert sum(group.measured.values()) == machine.MOST_ASKED


def test_a_device_that_reports_absurd_times_is_clamped_and_named() -> None:
    network = NETWORKS["chain"]
    group = Group(network, one_tile("bee", network), lies={"bee": 1e200})
    ended = group.run()
    assert ended is not None
    assert ended.plan is not None
    assert "taken as" in group.campaign.doubts["bee"]
    assert all(sample.seconds < 1e4 for sample in group.campaign.samples)


def test_a_device_that_does_not_answer_is_left_out_but_not_while_requests_are_under_way() -> None:
    network = NETWORKS["chain"]
    group = Group(network, one_tile("bee", network), silent=frozenset({"bee"}))
    assert group.run() is None
    assert list(group.left_out) == ["bee"]
    assert f"{machine.ANSWER_TIMEOUT:g} s" in group.left_out["bee"]
    assert machine.ANSWER_TIMEOUT < group.now < 10 + machine.ANSWER_TIMEOUT + 20
    assert group.campaign.tick(group.now + 1.0, True) == []
    assert group.campaign.tick(group.now + machine.ANSWER_TIMEOUT, False) == []
    assert group.campaign.tick(group.now + machine.ANSWER_TIMEOUT + 2.0, False) != []


def test_a_planner_without_end_is_ended() -> None:
    network = NETWORKS["chain"]

    def planner(problem: Problem):  # type: ignore[no-untyped-def]
        while True:
            yield ()

    group = Group(network, planner)
    ended = group.run()
    assert ended is not None
    assert ended.plan is None
    assert f"{machine.CAMPAIGN_TIMEOUT:g} s" in ended.reason


@pytest.mark.parametrize("answer", [Measured(0, (), None, "no memory"), Measured(0)])
def test_a_device_that_cannot_measure_is_left_out(answer: Measured) -> None:
    network = NETWORKS["chain"]
    group = Group(network, one_tile("bee", network), links=dict.fromkeys((ORCHESTRATOR, *BOARDS), LINK))
    group._do(group.campaign.begin(1.0))
    group._do(group._answer(group.pending.pop()))
    (measure,) = group.pending
    assert isinstance(measure, machine.Measure)
    (action,) = group.campaign.measured("bee", Measured(measure.number, reason=answer.reason), 2.0)
    assert isinstance(action, machine.LeaveOut)
    assert action.agent == "bee"
    assert answer.reason in action.reason


def test_a_link_that_cannot_be_measured_is_assumed_and_named() -> None:
    network = NETWORKS["chain"]
    campaign = Campaign(network, [Member("ant", "pi4")], Samples(), LINK, itertools.count())
    (probe,) = campaign.begin(1.0)
    assert isinstance(probe, machine.ProbeLink)
    (consult,) = campaign.linked("ant", probe.number, None, "nothing comes back", 2.0)
    assert isinstance(consult, Consult)
    assert consult.problem.group["ant"].link == ASSUMED
    assert "nothing comes back" in campaign.doubts["ant"]


def test_a_device_that_does_not_probe_is_left_out() -> None:
    campaign = Campaign(NETWORKS["chain"], [Member("ant", "pi4")], Samples(), LINK, itertools.count())
    campaign.begin(1.0)
    assert campaign.tick(machine.ANSWER_TIMEOUT, False) == []
    (left_out,) = campaign.tick(machine.ANSWER_TIMEOUT + 2.0, False)
    assert isinstance(left_out, machine.LeaveOut)


def test_an_own_link_that_is_never_idle_is_assumed_after_a_while() -> None:
    campaign = Campaign(NETWORKS["chain"], [Member("ant", "pi4", None, LINK)], Samples(), None, itertools.count())
    campaign.begin(1.0)
    (consult,) = campaign.tick(machine.ANSWER_TIMEOUT + 2.0, False)
    assert isinstance(consult, Consult)
    assert consult.problem.group.orchestrator == ASSUMED


def test_a_plan_that_cannot_be_tried_and_a_planner_that_fails_end_the_campaign() -> None:
    network = NETWORKS["chain"]
    links = dict.fromkeys((ORCHESTRATOR, *BOARDS), LINK)

    def planner(problem: Problem):  # type: ignore[no-untyped-def]
        yield (PlanRun(whole_plan(network, "ant")),)

    group = Group(network, planner, links=links)
    group._do(group.campaign.begin(1.0))
    group._do(group._answer(group.pending.pop()))
    (trial,) = group.pending
    assert isinstance(trial, machine.TryPlan)
    (ended,) = group.campaign.tried(trial.plan, None, "no answer", 3.0)
    assert isinstance(ended, machine.Finished)
    assert "no answer" in ended.reason
    group = Group(network, planner, links=links)
    (consult,) = group.campaign.begin(1.0)
    assert isinstance(consult, Consult)
    assert group.campaign.consulted(consult.number, "no memory", 2.0) == [machine.Finished(None, "no memory")]


def test_a_planner_that_asks_for_a_stranger_is_ended() -> None:
    network = NETWORKS["chain"]
    ended = Group(network, one_tile("dog", network)).run()
    assert ended is not None
    assert "dog" in ended.reason
