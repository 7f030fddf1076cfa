"""What a group says of itself, as its broker retains it: all that whoever looks on knows.

Imports nothing that loads numpy: `legion status` is read by scripts, and starts as fast as they expect.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from legion_iot.errors import ProtocolError
from legion_iot.transport.connection import Message
from legion_iot.wire import codec
from legion_iot.wire.group import GroupMetrics, PlanInfo
from legion_iot.wire.retained import AgentInfo, AgentState, ModelInfo, OrchestratorState, Profile
from legion_iot.wire.topics import AgentTopic, ModelTopic, OrchestratorTopic, PlanTopic, Topics

MOST = 50_000  # topics that are remembered
NOBODY = OrchestratorState("offline", "")


@dataclass(slots=True)
class Observed:
    """What was last said, of agents and models by name."""

    topics: Topics = field(default_factory=Topics)
    states: dict[str, AgentState] = field(default_factory=dict)
    infos: dict[str, AgentInfo] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    models: dict[str, ModelInfo] = field(default_factory=dict)
    plans: dict[str, PlanInfo] = field(default_factory=dict)
    by_orchestrator: dict[str, Any] = field(default_factory=dict)  # by kind, as in topics
    said: set[str] = field(default_factory=set)  # topics of all of these,
    doubted: set[str] = field(default_factory=set)  # and of what nobody has said again since the link was lost

    def take(self, message: Message) -> None:
        """Take a message in; an empty one says that there is nothing any more.

        Raises ProtocolError where it is none of these.
        """
        held, name, kind = self._place(message.topic)
        if not message.payload:
            held.pop(name, None)
            self.said.discard(message.topic)
        elif message.topic in self.said or len(self.said) < MOST:
            held[name] = codec.from_json(kind, message.payload)
            self.said.add(message.topic)
        self.doubted.discard(message.topic)

    @classmethod
    def of(cls, topics: Topics, messages: Iterable[Message]) -> Observed:
        """What these say, as far as it makes sense."""
        observed = cls(topics)
        for message in messages:
            observed.heed(message)
        return observed

    def heed(self, message: Message) -> None:
        """Take a message in, unless it is of another version, or nobody's; the orchestrator says so."""
        with contextlib.suppress(ProtocolError):
            self.take(message)

    def says_goodbye(self, message: Message) -> bool:
        """Whether it says that somebody is offline who was not; raises ProtocolError where it says nothing."""
        held, name, kind = self._place(message.topic)
        if kind not in (AgentState, OrchestratorState) or not message.payload:
            return False
        offline: AgentState | OrchestratorState = codec.from_json(kind, message.payload)
        return offline.state == "offline" and name in held and held[name].state != "offline"

    def doubt(self) -> None:
        """The link was lost: what has been said may hold no more."""
        self.doubted = set(self.said)

    def forget_doubted(self) -> None:
        """What nobody has said again since then does not hold."""
        for topic in tuple(self.doubted):
            self.take(Message(topic, b""))

    @property
    def orchestrator(self) -> OrchestratorState:
        """What the orchestrator says of itself; `NOBODY` where there has never been one."""
        state: OrchestratorState = self.by_orchestrator.get("state", NOBODY)
        return state

    @property
    def metrics(self) -> GroupMetrics | None:
        """The orchestrator's figures, unless they are those of one that is gone."""
        metrics: GroupMetrics | None = self.by_orchestrator.get("metrics")
        state = self.orchestrator
        if metrics is None or state.state == "offline" or state.session != metrics.session:
            return None
        return metrics

    def _place(self, topic: str) -> tuple[dict[str, Any], str, type[Any]]:
        """Where what is said on a topic belongs, under which name, and what it is."""
        match self.topics.parse(topic):
            case AgentTopic(agent=agent, kind="state"):
                return self.states, agent, AgentState
            case AgentTopic(agent=agent, kind="info"):
                return self.infos, agent, AgentInfo
            case AgentTopic(agent=agent, kind="profile"):
                return self.profiles, agent, Profile
            case OrchestratorTopic(kind="state"):
                return self.by_orchestrator, "state", OrchestratorState
            case OrchestratorTopic(kind="metrics"):
                return self.by_orchestrator, "metrics", GroupMetrics
            case ModelTopic(model=model):
                return self.models, model, ModelInfo
            case PlanTopic(model=model):
                return self.plans, model, PlanInfo
        raise ProtocolError(f"{topic} is not what a group retains of itself")
