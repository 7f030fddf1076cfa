"""A planning, carried out on a live group: what a planner wishes to know becomes commands, and their answers readings.

Theory. A campaign is made for the members of a group as they are; when one comes or goes, another campaign begins, for
which the samples of the old one are there already. It waits for one thing at a time:

| waits for       | event                        | then                                                              |
|-----------------|------------------------------|-------------------------------------------------------------------|
| a link          | its probe's answer           | the next link that is not known; after the last one, the planner  |
| the planner     | wishes                       | readings of what samples know; for the rest, the devices          |
| devices         | the times of some parts      | the device's further parts; after the last one, plans to be tried |
| a trial         | its reading                  | the next plan to be tried; after the last one, the planner        |
| the planner     | a plan                       | the end                                                           |

Links are probed one after the other, since several share the broker's. Devices compute at the same time, each for
itself. A device that cannot do what it is told, or reports what cannot be, is left out of the group.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from legion_iot.model.blocks import Network
from legion_iot.planning.costs import Predictor
from legion_iot.planning.links import ASSUMED, Link, bounded
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import (
    Device,
    Objective,
    PlanRun,
    Problem,
    Reading,
    TailRun,
    TileRun,
    Wish,
    measured_group,
)
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.planning.samples import Key, Samples
from legion_iot.planning.traffic import EXACT
from legion_iot.runtime.orchestrator_events import Consult
from legion_iot.wire.messages import Measured, PartTime, ProfilePart
from legion_iot.wire.tensors import bounds

MOST_PARTS = 256  # of one command
COMMAND_SECONDS = 20.0  # of measuring, after which a device tells what it has
TRIAL_TIMEOUT = 300.0  # seconds for a plan to be loaded and tried, in pauses that requests leave
ANSWER_TIMEOUT = 180.0  # seconds for a device to answer, those not counted in which requests are under way
CAMPAIGN_TIMEOUT = 1800.0
MOST_ASKED = 2  # times that a device may answer with a time that cannot be


@dataclass(frozen=True, slots=True)
class Member:
    """What a campaign needs to know of a device; `link` is None where it was not measured."""

    name: str
    board: str
    memory_bytes: int | None = None
    link: Link | None = None


@dataclass(frozen=True, slots=True)
class Effort:
    """What a campaign has cost: parts that were run, runs of them, seconds of computing, trials of whole plans.

    `known` counts the wishes that samples had the answer to.
    """

    parts: int = 0
    runs: int = 0
    seconds: float = 0.0
    links: int = 0
    trials: int = 0
    known: int = 0


# --- actions ---


@dataclass(frozen=True, slots=True)
class ProbeLink:
    """Have a participant's link probed; answered by `linked`."""

    participant: str
    number: int


@dataclass(frozen=True, slots=True)
class Measure:
    """Have parts of the model run by an agent; answered by `measured`."""

    agent: str
    number: int
    parts: tuple[ProfilePart, ...]


@dataclass(frozen=True, slots=True)
class TryPlan:
    """Run requests by this plan; answered by `tried`."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """An agent cannot take part."""

    agent: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The plan that was chosen, or (None) why there is none."""

    plan: Plan | None
    reason: str = ""


Action = ProbeLink | Measure | Consult | TryPlan | LeaveOut | Finished


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a device was told, and when."""

    number: int
    wishes: tuple[Wish, ...]
    since: float


class Campaign:
    """One campaign for `members`; `numbers` tells its commands from all others.

    `samples` and `links` grow with it, whatever becomes of it. `wire` is the plan's wire dtype.
    """

    def __init__(
        self,
        network: Network,
        members: Sequence[Member],
        samples: Samples,
        own_link: Link | None,
        numbers: Iterator[int],
        objective: Objective = "latency",
        wire: str = EXACT,
    ) -> None:
        self.members = {member.name: member for member in members}
        self.samples = samples
        self.links = {member.name: member.link for member in members if member.link is not None}
        if own_link is not None:
            self.links[ORCHESTRATOR] = own_link
        self.doubts: dict[str, str] = {}
        self.effort = Effort()
        self._network, self._objective, self._wire, self._numbers = network, objective, wire, numbers
        self._problem: Problem | None = None
        self._keys: Predictor | None = None
        self._begun: float | None = None
        self._probing: tuple[str, int] | None = None
        self._probing_since = 0.0
        self._consulting: int | None = None
        self._trial: Plan | None = None
        self._trial_since = 0.0
        self._wishes: tuple[Wish, ...] = ()
        self._readings: dict[Wish, Reading] = {}
        self._open: dict[str, list[Wish]] = {}
        self._asked: dict[str, _Asked] = {}
        self._refused: dict[Wish, int] = {}

    @property
    def waits_for(self) -> list[str]:
        """The participants that are being measured."""
        return sorted({*self._asked, *([self._probing[0]] if self._probing else [])})

    # --- events ---

    def begin(self, now: float) -> list[Action]:
        """The first actions."""
        self._begun = now
        return self._go_on(now)

    def answered(self, agent: str, answer: Measured, now: float) -> list[Action]:
        """The answer to a command, to probe or to measure."""
        if self._probing == (agent, answer.number):
            return self.linked(agent, answer.number, answer.link, answer.reason, now)
        return self.measured(agent, answer, now)

    def linked(self, participant: str, number: int, link: Link | None, reason: str, now: float) -> list[Action]:
        """A probe's answer; without a link, the reason."""
        if self._probing != (participant, number):
            return []
        self._probing = None
        self.links[participant] = ASSUMED if link is None else bounded(link)
        if link is None:
            self.doubts[participant] = f"its link could not be measured ({reason})"
        elif self.links[participant] != link:
            self.doubts[participant] = f"reported a link that cannot be ({link})"
        self.effort = replace(self.effort, links=self.effort.links + 1)
        return self._go_on(now)

    def consulted(self, number: int, answer: tuple[Wish, ...] | Plan | str, now: float) -> list[Action]:
        """The planner's answer: wishes, the plan, or why there is none."""
        if number != self._consulting:
            return []
        self._consulting = None
        if isinstance(answer, str):
            return [Finished(None, answer)]
        if isinstance(answer, Plan):
            return [Finished(answer)]
        self._wishes, self._readings, self._open = answer, {}, {}
        for wish in dict.fromkeys(answer):
            if isinstance(wish, PlanRun):
                continue
            if wish.device not in self.members:
                return [Finished(None, f"the planner asks for {wish.device}, which is not in the group")]
            if (reading := self._known(wish)) is not None:
                self._readings[wish] = reading
                self.effort = replace(self.effort, known=self.effort.known + 1)
            else:
                self._open.setdefault(wish.device, []).append(wish)
        return self._go_on(now)

    def measured(self, agent: str, answer: Measured, now: float) -> list[Action]:
        """The answer to a command to measure."""
        asked = self._asked.get(agent)
        if asked is None or asked.number != answer.number:
            return []
        del self._asked[agent]
        for wish, time in zip(asked.wishes, answer.times, strict=False):
            self._take(agent, wish, time)
        refused = [wish for wish in asked.wishes if self._refused.get(wish, 0) >= MOST_ASKED]
        if refused:
            return [LeaveOut(agent, self.doubts[agent])]
        if answer.reason or not answer.times:
            return [LeaveOut(agent, answer.reason or "reported no time at all")]
        return self._go_on(now)

    def refused(self, agent: str, reason: str) -> list[Action]:
        """What an agent reported could not be read."""
        return [LeaveOut(agent, reason)] if agent in self.waits_for else []

    def tried(self, plan: Plan, reading: Reading | None, reason: str, now: float) -> list[Action]:
        """How the requests of a trial went; without a reading, what went wrong."""
        if plan is not self._trial:
            return []
        self._trial = None
        if reading is None:
            return [Finished(None, f"a plan of {plan.planner} could not be tried: {reason}")]
        self._readings[PlanRun(plan)] = reading
        self.effort = replace(self.effort, trials=self.effort.trials + 1)
        return self._go_on(now)

    def tick(self, now: float, busy: bool) -> list[Action]:
        """Time has passed; `busy` says that requests are under way, for which devices put off measuring."""
        if busy:
            self._asked = {agent: replace(asked, since=now) for agent, asked in self._asked.items()}
            self._probing_since = now
        late = [agent for agent, asked in self._asked.items() if now - asked.since > ANSWER_TIMEOUT]
        if self._probing is not None and now - self._probing_since > ANSWER_TIMEOUT:
            late.append(self._probing[0])
        if ORCHESTRATOR in late:
            return self.linked(*self._probing, None, "it is never idle", now) if self._probing else []
        if late:
            return [LeaveOut(agent, f"did not measure within {ANSWER_TIMEOUT:g} s") for agent in late]
        if self._trial is not None and now - self._trial_since > TRIAL_TIMEOUT:
            return self.tried(self._trial, None, f"not done within {TRIAL_TIMEOUT:g} s", now)
        if self._begun is not None and now - self._begun > CAMPAIGN_TIMEOUT:
            return [Finished(None, f"planning did not end within {CAMPAIGN_TIMEOUT:g} s")]
        return []

    # --- what is next ---

    def _go_on(self, now: float) -> list[Action]:
        if self._problem is None:
            unknown = [name for name in (ORCHESTRATOR, *self.members) if name not in self.links]
            if unknown:
                self._probing, self._probing_since = (unknown[0], next(self._numbers)), now
                return [ProbeLink(*self._probing)]
            self._problem = self._new_problem()
            self._keys = Predictor.of(self._problem)
            return [self._consult(None)]
        if commands := self._commands(now):
            return commands
        if self._asked or self._trial is not None or self._consulting is not None:
            return []
        untried = [w for w in self._wishes if isinstance(w, PlanRun) and w not in self._readings]
        if untried:
            self._trial, self._trial_since = untried[0].plan, now
            return [TryPlan(self._trial)]
        return [self._consult(self._readings)]

    def _new_problem(self) -> Problem:
        devices = tuple(Device(m.name, m.board, self.links[m.name], m.memory_bytes) for m in self.members.values())
        return Problem(
            self._network, measured_group(devices, self.links[ORCHESTRATOR]), self._objective, self.samples, self._wire
        )

    def _consult(self, readings: Mapping[Wish, Reading] | None) -> Consult:
        assert self._problem is not None
        self._consulting = next(self._numbers)
        return Consult(self._consulting, self._problem, readings)

    def _commands(self, now: float) -> list[Action]:
        """What every device that is idle is to measure next; what a like board is at is waited for."""
        actions: list[Action] = []
        for agent, wishes in self._open.items():
            if agent in self._asked:
                continue
            for wish in list(wishes):
                if (reading := self._known(wish)) is not None:
                    self._readings[wish] = reading
                    wishes.remove(wish)
            under_way = {self._key(wish) for asked in self._asked.values() for wish in asked.wishes}
            todo = tuple(wish for wish in wishes if self._key(wish) not in under_way)[:MOST_PARTS]
            if todo:
                self._asked[agent] = _Asked(next(self._numbers), todo, now)
                actions.append(Measure(agent, self._asked[agent].number, tuple(_part(wish) for wish in todo)))
        return actions

    def _take(self, agent: str, wish: Wish, time: PartTime) -> None:
        """A time that a device reports, when it can be."""
        assert self._keys is not None
        sample = self._keys.sample(wish, Reading(time.seconds, time.deviation))
        assert sample is not None, "devices are told to run tiles and tails only"
        found = Samples.of([replace(sample, runs=time.runs)])
        if found.doubts:
            self.doubts[agent] = next(iter(found.doubts.values()))
        self.samples = self.samples.merge(found)
        effort = self.effort
        self.effort = replace(
            effort,
            parts=effort.parts + 1,
            runs=effort.runs + time.runs,
            seconds=effort.seconds + sum(each.seconds for each in found) * time.runs,
        )
        if not len(found):
            self._refused[wish] = self._refused.get(wish, 0) + 1

    def _key(self, wish: Wish) -> Key:
        assert self._keys is not None
        sample = self._keys.sample(wish, Reading(0.0))
        assert sample is not None, "a whole plan has no sample"
        return sample.key

    def _known(self, wish: Wish) -> Reading | None:
        """What samples of the device's class of board say of exactly this tile or tail."""
        kept = self.samples.by_key.get(self._key(wish), ())
        if not kept:
            return None
        return Reading(statistics.median(s.seconds for s in kept), statistics.median(s.deviation for s in kept))


def _part(wish: Wish) -> ProfilePart:
    match wish:
        case TileRun(first=first, last=last, region=region):
            return ProfilePart((first, last), bounds(region))
        case TailRun():
            return ProfilePart()
    raise AssertionError("a whole plan is no part")
