"""Who may read and write which topic: the one table behind every broker's access rules (docs/protocol.md).

Nothing is allowed that does not stand here. An agent writes as itself only, since the sender stands in the topic; what
it says of itself, what it is told and what it is sent are topics of its own name. Inputs are for the orchestrator only,
and feature maps for the two whose names are in the topic: an observer sees neither, nor pictures that are answers,
which may look much like the inputs. Which models are served is not for every client to say: an operator may do what a
client may and see what an observer sees, and say that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from legion_iot.errors import UsageError
from legion_iot.wire.home_assistant import DiscoveryTopics
from legion_iot.wire.topics import ORCHESTRATOR, Topics, check_agent_name

Role: TypeAlias = Literal["agent", "orchestrator", "client", "operator", "observer", "home-assistant"]
Access: TypeAlias = Literal["read", "write"]
ROLES: tuple[Role, ...] = get_args(Role)

_ANY = "+"
_SAID = ("state", "info", "metrics", "profile")  # by an agent, of itself


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to read or to write whatever matches an MQTT topic filter."""

    access: Access
    filter: str


def check_member(role: str, name: str) -> Role:
    """The role, when there is such a one and its member may have that name; raises UsageError."""
    if role not in ROLES:
        raise UsageError(f"there is no role {role!r}; give {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    if (role, name) != (ORCHESTRATOR, ORCHESTRATOR):
        check_agent_name(name)
    return role


def grants(role: Role, name: str, topics: Topics) -> tuple[Grant, ...]:
    """All that a member of that role and name may do below the base topic."""
    read, write = _filters(role, name, topics)
    echo = topics.echo(name)
    return (*(Grant("write", each) for each in (*write, echo)), *(Grant("read", each) for each in (*read, echo)))


def _filters(role: Role, name: str, topics: Topics) -> tuple[list[str], list[str]]:
    """What may be read, and what may be written."""
    discovery = DiscoveryTopics(topics.base)
    match role:
        case "agent":
            return (
                [
                    topics.assignment(name, _ANY),
                    topics.agent(name, "command"),
                    topics.agent(name, "state"),
                    topics.inbox(name, _ANY),
                    topics.orchestrator_state(),
                ],
                [
                    *(topics.agent(name, kind) for kind in _SAID),
                    topics.report(name, _ANY),
                    topics.inbox(_ANY, name),
                    topics.inbox(ORCHESTRATOR, name),
                    topics.probe(name),
                ],
            )
        case "orchestrator":
            return (
                [
                    *(topics.agent(_ANY, kind) for kind in _SAID),
                    topics.report(_ANY, _ANY),
                    topics.inbox(ORCHESTRATOR, _ANY),
                    topics.infer(_ANY),
                    topics.bridge_request(_ANY),
                    # What an orchestrator before this one has left behind, or one beside it says.
                    topics.orchestrator_state(),
                    topics.assignment(_ANY, _ANY),
                    topics.model(_ANY),
                    topics.plan(_ANY),
                    discovery.device(_ANY),
                    discovery.status(),
                ],
                [
                    topics.assignment(_ANY, _ANY),
                    topics.agent(_ANY, "command"),
                    topics.inbox(_ANY, ORCHESTRATOR),
                    topics.inbox(ORCHESTRATOR, ORCHESTRATOR),
                    topics.probe(ORCHESTRATOR),
                    topics.orchestrator_state(),
                    topics.orchestrator_metrics(),
                    topics.model(_ANY),
                    topics.plan(_ANY),
                    topics.result(_ANY),
                    topics.bridge_response(_ANY),
                    topics.answer(_ANY, _ANY),
                    topics.result_image(_ANY),
                    topics.answer_image(_ANY, _ANY),
                    discovery.device(_ANY),
                ],
            )
        case "operator":
            read, write = _filters("client", name, topics)
            seen, _ = _filters("observer", name, topics)
            read = list(dict.fromkeys([*read, *seen, topics.bridge_response(_ANY)]))
            return read, [*write, topics.bridge_request(_ANY)]
        case "home-assistant":
            read, write = _filters("client", name, topics)
            said = [topics.agent(_ANY, "state"), topics.agent(_ANY, "metrics")]
            return (
                [*read, *said, discovery.device(_ANY), discovery.status()],
                [*write, topics.bridge_request("replan"), discovery.status()],
            )
        case "client":
            return [
                topics.result(_ANY),
                topics.answer(name, _ANY),
                topics.result_image(_ANY),
                topics.answer_image(name, _ANY),
                topics.model(_ANY),
                topics.plan(_ANY),
                topics.orchestrator_state(),
                topics.orchestrator_metrics(),
            ], [topics.infer(_ANY)]
        case "observer":
            return [
                *(topics.agent(_ANY, kind) for kind in (*_SAID, "command")),
                topics.assignment(_ANY, _ANY),
                topics.report(_ANY, _ANY),
                topics.orchestrator_state(),
                topics.orchestrator_metrics(),
                topics.model(_ANY),
                topics.plan(_ANY),
                topics.result(_ANY),
            ], []
