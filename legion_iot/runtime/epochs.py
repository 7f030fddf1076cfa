"""Plans in force: each one is an epoch, from its assignments to the end of the last request that runs by it.

| epoch    | event                              | then                                                          |
|----------|------------------------------------|---------------------------------------------------------------|
| new      | it is assigned                     | building; another one that was being built is gone            |
| building | all agents of its plan are ready   | in force; the one in force before it is retiring              |
| building | an agent of its plan is lost       | gone                                                          |
| in force | an agent of its plan is lost       | retiring: what can go on without that agent ends on it        |
| retiring | its last request has ended         | gone; agents are told to free it                              |

Agents hold two epochs of a model at most, so a new one is not assigned while there are two with requests.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from legion_iot.model.blocks import Network
from legion_iot.planning.plan import Plan
from legion_iot.planning.routing import ORCHESTRATOR, Routing, Transfer
from legion_iot.runtime.drift import Tempo
from legion_iot.runtime.exchange import Exchange, tensor_forms
from legion_iot.runtime.progress import Dependencies, Pace
from legion_iot.runtime.replicas import Replicas
from legion_iot.wire.messages import PeerRegion, TileTiming
from legion_iot.wire.tensors import bounds

TIMINGS = 256  # kept per task


@dataclass(slots=True, eq=False)
class Epoch:
    """A plan, and what is going on by it; `alone` is how it was assigned, `timings` are by step and agent.

    `packs` names for each sender those to whom its maps go packed.
    """

    number: int
    plan: Plan
    agents: frozenset[str]
    routing: Routing
    exchange: Exchange
    dependencies: Dependencies
    pace: Pace
    replicas: Replicas
    inputs: list[list[Transfer]]  # of each replica
    alone: bool = False
    assigned: float = 0.0
    ready: dict[str, float] = field(default_factory=dict)  # when
    timings: dict[tuple[int, str], deque[TileTiming]] = field(default_factory=dict)
    packs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tempos: dict[str, Tempo] = field(default_factory=dict)

    @property
    def loading(self) -> list[str]:
        """The agents of its plan that are not ready."""
        return sorted(name for name in self.agents if name not in self.ready)

    @property
    def is_ready(self) -> bool:
        """Whether all of them are."""
        return all(name in self.ready for name in self.agents)

    def needs(self, agent: str, replica: int) -> bool:
        """Whether a request through a replica cannot do without the agent."""
        return agent in self.dependencies.agents[replica]

    def keep(self, agent: str, timing: TileTiming) -> None:
        self.timings.setdefault((timing.step, agent), deque(maxlen=TIMINGS)).append(timing)


def new_epoch(network: Network, number: int, plan: Plan, routing: Routing, pace: Pace, nan_allowed: bool) -> Epoch:
    """An epoch that nothing is known of yet."""
    inputs: list[list[Transfer]] = [[] for _ in range(routing.replicas)]
    for transfer in routing.transfers:
        if transfer.source == ORCHESTRATOR:
            inputs[transfer.replica].append(transfer)
    received = [t for t in routing.transfers if t.target == ORCHESTRATOR]
    exchange = Exchange(
        number,
        {answer.step: answer.inputs for answer in routing.answers},
        [PeerRegion(t.step, t.tensor, bounds(t.region), t.source) for t in received],
        tensor_forms(network),
        replicas={answer.step: answer.replica for answer in routing.answers},
        nan_allowed=nan_allowed,
    )
    agents = frozenset(plan.agents)
    return Epoch(
        number, plan, agents, routing, exchange, Dependencies(routing), pace, Replicas(routing.replicas), inputs
    )


@dataclass(slots=True)
class Epochs:
    """The epoch in force, the one that is being built, and the last number that agents were told to free up to."""

    force: Epoch | None = None
    building: Epoch | None = None
    released: int = 0

    @property
    def target(self) -> Epoch | None:
        """What is, or is to be, in force."""
        return self.building or self.force

    def ready(self, agent: str, number: int, now: float) -> bool:
        """An agent has loaded an epoch; whether that is one of ours."""
        found = next((e for e in (self.building, self.force) if e is not None and e.number == number), None)
        if found is not None:
            found.ready.setdefault(agent, now)
        return found is not None

    def switch(self) -> bool:
        """Whether the epoch that was being built has just come into force."""
        if self.building is None or not self.building.is_ready:
            return False
        self.force, self.building = self.building, None
        return True

    def lose(self, agent: str) -> bool:
        """An agent can do nothing any more; whether the epoch in force, which it had work in, is not any more."""
        if self.building is not None and agent in self.building.agents:
            self.building = None
        if self.force is None or agent not in self.force.agents:
            return False
        self.force = None
        return True
