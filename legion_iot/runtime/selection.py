"""Which plan a group is to run: found by a campaign, and until then one that needs no measuring.

| the members are            | and                              | the plan that is wanted                             |
|----------------------------|----------------------------------|-----------------------------------------------------|
| those of the last campaign | it has found a plan              | that one                                            |
| those of the last campaign | it has ended without one         | one by the speeds that are known                    |
| any other                  | –                                | none yet: a campaign begins, when it is its turn    |
| those of the last campaign | somebody asks for it             | none yet: another campaign begins, as for new ones  |
| those of a campaign        | it tries a plan                  | that one                                            |
| those of a campaign        | requests wait, without any plan  | one by the speeds that are known                    |

A plan that is in force stays so until another one is wanted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from legion_iot.errors import AgentError, ModelError
from legion_iot.model.blocks import Network
from legion_iot.planning.costs import Predictor
from legion_iot.planning.links import ASSUMED, Link, bounded
from legion_iot.planning.plan import Plan, check
from legion_iot.planning.planners.balanced import MakePlan, speeds
from legion_iot.planning.problem import Device, Group, Objective
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.planning.samples import Samples
from legion_iot.runtime import drift
from legion_iot.runtime.campaign import Action, Campaign, Effort, Finished, Member, TryPlan
from legion_iot.runtime.orchestrator_events import RequestEnded
from legion_iot.runtime.shared import Shared
from legion_iot.runtime.trial import Trial
from legion_iot.wire.messages import Profile

INTERIM_AFTER = 0.5  # seconds that a request waits for a campaign before a plan is made without it


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a plan was found: what it has cost, in parts and in seconds from begin to end, and why there is none."""

    effort: Effort
    seconds: float
    reason: str = ""


class Selection:
    """The state of it. What is `shared` is known, and grows; `doubts` are by participant.

    It `waits` while another model's campaign has the turn. `wire` is the wire dtype that plans are made for.
    """

    def __init__(self, network: Network, make_plan: MakePlan, shared: Shared, objective: Objective, wire: str) -> None:
        self.shared = shared
        self.waits = False
        self.campaign: Campaign | None = None
        self.trial: Trial | None = None
        self.outcome: Outcome | None = None
        self.doubts: dict[str, str] = {}
        self._network, self._make_plan, self._objective, self._wire = network, make_plan, objective, wire
        self._members: tuple[Member, ...] = ()
        self._of_late = Samples()
        self._interim: tuple[tuple[object, ...], Plan] | None = None  # the plan by known speeds, and by what
        self._chosen: Plan | None = None
        self._begun = 0.0

    # --- what is wanted ---

    def begin(self, members: tuple[Member, ...], now: float) -> list[Action]:
        """Begin a campaign, unless these members have theirs; another model's has to end first."""
        if [_kind(member) for member in members] != [_kind(member) for member in self._members]:
            self.forget()
            self._members, self.waits = members, True
        if not self.waits or not self.shared.begin_measuring(self):
            return []
        self._members, self.waits, self._begun = members, False, now  # with links as they were measured meanwhile
        shared = self.shared
        self.campaign = Campaign(
            self._network, members, self._known, shared.own_link, shared.numbers, self._objective, self._wire
        )
        return self.after(self.campaign.begin(now), now)

    def forget(self) -> None:
        """The group is not what it was: what is under way does not count."""
        self.campaign = self.trial = self._chosen = None
        self._members, self.waits = (), False
        self.shared.end_measuring(self)

    def forget_measured(self, boards: Collection[str]) -> None:
        """What was measured on these classes of board does not count any more."""
        self.shared.samples = self.shared.samples.without(boards)
        self._of_late = Samples.of(each for each in self._of_late if drift.own_class(each.board) not in boards)

    def wanted(self, waited: float) -> Plan | None:
        """The plan that is to be in force, or None to leave things as they are.

        `waited` are the seconds that a request has waited for any plan. Raises LegionError where none can be made.
        """
        if self.trial is not None:
            return self.trial.plan
        if self._chosen is None and waited >= INTERIM_AFTER:
            return self._by_known_speeds()
        return self._chosen

    def predictor(self) -> Predictor:
        """What samples say of the members; raises AgentError where there are none."""
        devices = tuple(Device(m.name, m.board, m.link or ASSUMED, m.memory_bytes) for m in self._members)
        return Predictor(self._network, Group(devices, self.shared.own_link or ASSUMED), self._known)

    def _by_known_speeds(self) -> Plan:
        """Raises AgentError where the plan is none for these members."""
        known = self._members, self.shared.samples, self._of_late, self.shared.own_link
        if self._interim is None or any(new is not old for new, old in zip(known, self._interim[0], strict=True)):
            self._interim = known, self._new_by_known_speeds()
        return self._interim[1]

    def _new_by_known_speeds(self) -> Plan:
        plan = self._make_plan(self._network, speeds(self.predictor()))
        if wrong := self._wrong(plan):
            raise AgentError(wrong)
        return plan

    # --- what happens ---

    def drifted(self, board: str, slowdown: float) -> None:
        """A device of a class has become so many times slower: what is known of the class holds for it so changed.

        This is not kept for later: another time, the device is as it was.
        """
        self._of_late = self._of_late.merge(drift.scaled(self.shared.samples, board, slowdown))

    @property
    def _known(self) -> Samples:
        """All that is known of devices, as they are now."""
        return self.shared.samples.merge(self._of_late) if self._of_late else self.shared.samples

    def learn(self, agent: str, profile: Profile) -> Link | None:
        """What an agent knows of its class of board; returns its link, as it can be."""
        found = Samples.of(sample for sample in profile.samples if sample.board == profile.board)
        self.shared.samples = self.shared.samples.merge(found)
        if self.campaign is not None:
            self.campaign.samples = self._known
        if found.doubts:
            self.doubts[agent] = next(iter(found.doubts.values()))
        if profile.link is None or bounded(profile.link) == profile.link:
            return profile.link
        self.doubts[agent] = f"reported a link that cannot be ({profile.link})"
        return bounded(profile.link)

    def after(self, actions: list[Action], now: float) -> list[Action]:
        """What the campaign wants of others, from all it wants."""
        assert self.campaign is not None
        if self._of_late:
            self._of_late = self.campaign.samples
            self.shared.samples = self.shared.samples.merge(drift.lasting(self.campaign.samples))
        else:
            self.shared.samples = self.campaign.samples
        if ORCHESTRATOR not in self.campaign.doubts:  # else it is only assumed, and worth another try
            self.shared.own_link = self.campaign.links.get(ORCHESTRATOR)
        self.doubts |= self.campaign.doubts
        others: list[Action] = []
        for action in actions:
            match action:
                case TryPlan(plan=plan) if not (wrong := self._wrong(plan)):
                    self.trial = Trial(plan, self._objective, self.shared.numbers)
                case TryPlan():
                    self._finish(None, wrong, now)
                case Finished(plan=plan, reason=reason):
                    self._finish(plan, reason, now)
                case _:
                    others.append(action)
        return others

    def trial_ended(self, ended: RequestEnded, now: float) -> list[Action]:
        """A request of a trial has ended; those of an older one change nothing."""
        trial = self.trial
        if trial is None or self.campaign is None:
            return []
        trial.ended(ended, now)
        if not trial.done:
            return []
        self.trial = None
        return self.after(self.campaign.tried(trial.plan, trial.reading, trial.failure, now), now)

    def _finish(self, plan: Plan | None, reason: str, now: float) -> None:
        assert self.campaign is not None
        if plan is not None:
            reason = self._wrong(plan)
        self.outcome = Outcome(self.campaign.effort, now - self._begun, reason)
        self.campaign = self.trial = None
        self.shared.end_measuring(self)
        self._chosen = self._by_known_speeds() if plan is None or reason else plan

    def _wrong(self, plan: Plan) -> str:
        """What is wrong with a planner's plan; empty where nothing is."""
        names = {member.name for member in self._members}
        if strangers := sorted(set(plan.agents) - names):
            return f"the plan gives work to {', '.join(strangers)}, not online; start those agents first"
        try:
            check(plan, self._network)
        except ModelError as error:
            return str(error)
        return ""


def _kind(member: Member) -> tuple[str, str, int | None]:
    """What makes a plan for one member another one than that for another; its link is measured meanwhile."""
    return member.name, member.board, member.memory_bytes
