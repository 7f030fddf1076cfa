"""What was measured on the devices of a group, by what agents and orchestrator retain; for people who look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from legion_iot.errors import AgentError, UsageError
from legion_iot.orchestrator.following import client_id
from legion_iot.orchestrator.observed import Observed
from legion_iot.planning.links import Link
from legion_iot.planning.samples import Samples
from legion_iot.transport.connection import BrokerAddress, Message
from legion_iot.transport.retained import read_retained
from legion_iot.wire.topics import Topics


@dataclass(frozen=True, slots=True)
class AloneOn:
    """What a device is predicted to take for a request to a model, all by itself."""

    model: str
    ms: float


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What is known of one device.

    `samples` are those that it has measured itself, `of_class` those of all devices of its class of `board` that were
    read, which hold for it as well. `measured` is in seconds since 1970 by its own clock, None where it does not say.
    `doubt` says what is not to be believed.
    """

    agent: str
    state: str
    board: str
    link: Link | None
    samples: int
    of_class: int
    measured: int | None
    alone: tuple[AloneOn, ...] = ()
    doubt: str = ""


def read_profiles(address: BrokerAddress, base_topic: str, wanted: Sequence[str] = ()) -> tuple[DeviceProfile, ...]:
    """Those of the devices that are wanted, or of all, by name.

    Raises BrokerError where the broker cannot be used, UsageError for an unknown device, AgentError without any.
    """
    topics = Topics(base_topic)
    said = [topics.agent("+", kind) for kind in ("profile", "info", "state")]
    filters = [*said, topics.plan("+"), topics.orchestrator_state(), topics.orchestrator_metrics()]
    messages = read_retained(address, client_id(), filters)
    found = profiles(topics, messages)
    known = [profile.agent for profile in found]
    if strangers := [name for name in wanted if name not in known]:
        raise UsageError(f"there is no device {strangers[0]!r:.60}; known are: {', '.join(known) or 'none'}")
    if not found:
        raise AgentError("no agent has ever been online; start agents with: legion-agent --broker URL")
    return tuple(profile for profile in found if not wanted or profile.agent in wanted)


def profiles(topics: Topics, messages: Sequence[Message]) -> tuple[DeviceProfile, ...]:
    """Those of all devices that have said what they are, by name; what makes no sense is left out."""
    observed = Observed.of(topics, messages)
    seen = () if observed.metrics is None else observed.metrics.agents
    problems = {agent.agent: agent.problem for agent in seen}
    links = {agent.agent: agent.link for agent in seen}
    of_class = Samples()
    for profile in observed.profiles.values():
        of_class = of_class.merge(Samples.of(each for each in profile.samples if each.board == profile.board))
    found = []
    for name, info in sorted(observed.infos.items()):
        said, state, board = observed.profiles.get(name), observed.states.get(name), info.board_class
        own = Samples.of(each for each in said.samples if each.board == board) if said is not None else Samples()
        doubts = [doubt for doubt in (problems.get(name, ""), own.doubts.get(board, "")) if doubt]
        alone = [
            AloneOn(plan.model, each.ms)
            for plan in observed.plans.values()
            for each in plan.alone
            if each.agent == name
        ]
        found.append(
            DeviceProfile(
                name, state.state if state is not None else "unknown", board,
                (said.link if said is not None else None) or links.get(name), len(own), len(of_class.of_board(board)),
                (said.measured or None) if said is not None else None,
                tuple(sorted(alone, key=lambda each: each.model)), "; ".join(dict.fromkeys(doubts)),
            )
        )  # fmt: skip
    return tuple(found)
