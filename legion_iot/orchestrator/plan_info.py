"""A plan in force as others may see it, with what it is predicted to take."""

from __future__ import annotations

from dataclasses import dataclass, replace

from legion_iot.errors import LegionError
from legion_iot.model.blocks import Network
from legion_iot.planning.bound import lower_bound
from legion_iot.planning.costs import Predictor
from legion_iot.planning.estimate import Bar
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Objective, Problem
from legion_iot.planning.ranking import Ranking
from legion_iot.wire.group import AloneTime, PlanBar, PlanBlock, PlanInfo, PlanTile
from legion_iot.wire.tensors import bounds

MOST_BARS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """A plan that is to be described; `predictor` is None where nothing is to be predicted."""

    model: str
    network: Network
    epoch: int
    plan: Plan
    objective: Objective
    wire: str
    predictor: Predictor | None

    def info(self) -> PlanInfo:
        """The plan and its predicted times, without the bound."""
        info = PlanInfo(
            self.model, self.epoch, self.plan.planner, self.objective, self.wire, self.plan.agents, self._blocks,
            self.plan.tail_agent, len(self.plan.turns),
        )  # fmt: skip
        if self.predictor is None:
            return info
        problem = Problem(self.network, self.predictor.group, self.objective, wire=self.wire)
        ranking = Ranking(problem, self.predictor)
        try:
            estimate, alone = ranking.estimate(self.plan), ranking.alone()
        except LegionError:  # an agent of the plan has left meanwhile
            return info
        return replace(
            info,
            predicted_ms=_ms(estimate.latency),
            interval_ms=_ms(estimate.interval),
            alone_ms=_ms(alone[0].seconds) if alone else None,
            alone_agent=alone[0].device if alone else "",
            alone=tuple(AloneTime(each.device, _ms(each.seconds)) for each in alone),
            bars=tuple(_bar(bar) for bar in sorted(estimate.bars, key=lambda bar: bar.start)[:MOST_BARS]),
        )

    def bound_ms(self) -> float | None:
        """What no plan of the group is below, by the objective; takes up to seconds in large groups."""
        if self.predictor is None:
            return None
        return _ms(lower_bound(self.network, self.predictor.group, self.predictor, self.wire, self.objective))

    @property
    def _blocks(self) -> tuple[PlanBlock, ...]:
        return tuple(
            PlanBlock(
                (block.first, block.last), tuple(PlanTile(t.agent, bounds(t.region)) for t in block.tiles), number
            )
            for number, turn in enumerate(self.plan.turns)
            for block in turn.blocks
        )


def _bar(bar: Bar) -> PlanBar:
    return PlanBar(
        bar.participant, bar.kind, bar.step, bar.block, _ms(bar.start), _ms(bar.end), bar.size, bar.peer, bar.replica
    )


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
