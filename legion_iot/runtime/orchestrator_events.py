"""What happens to the orchestrator, and what it does about it: the events and effects of `runtime.orchestrator`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from legion_iot.planning.links import Link
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Problem, Reading, Wish
from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Assignment,
    Command,
    Failed,
    Fragment,
    Measured,
    Metrics,
    Profile,
    Ready,
    TileTiming,
)
from legion_iot.wire.tensors import Array

# --- events ---


@dataclass(frozen=True, slots=True)
class AgentStateArrived:
    agent: str
    state: AgentState


@dataclass(frozen=True, slots=True)
class AgentInfoArrived:
    agent: str
    info: AgentInfo


@dataclass(frozen=True, slots=True)
class ReportArrived:
    agent: str
    report: Ready | Failed | TileTiming | Measured


@dataclass(frozen=True, slots=True)
class ProfileArrived:
    agent: str
    profile: Profile


@dataclass(frozen=True, slots=True)
class ReportRefused:
    """What an agent reported of its measuring is of no known form."""

    agent: str
    reason: str


@dataclass(frozen=True, slots=True)
class OwnLinkProbed:
    """The answer to ProbeOwnLink; without a link, the reason."""

    number: int
    link: Link | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PlannerAnswered:
    """The answer to Consult: wishes, the plan, or why there is none."""

    number: int
    answer: tuple[Wish, ...] | Plan | str


@dataclass(frozen=True, slots=True)
class FragmentArrived:
    sender: str
    header: Fragment
    body: memoryview


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """An input for the network: one array for each of its inputs, of their shapes and dtypes.

    After `seconds`, where its sender says so, nobody waits for the answer any more.
    """

    request: str
    inputs: tuple[Array, ...]
    seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class MetricsArrived:
    """An agent's loop turns."""

    agent: str
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class ReplanAsked:
    """Somebody wants the plan to be found anew.

    What was measured on the `forgotten` agents, which have been told to forget it as well, does not count any more, nor
    what was on others of their classes of board; nor does the orchestrator's `own_link`, if that is said.
    """

    forgotten: frozenset[str] = frozenset()
    own_link: bool = False


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The broker cannot be reached."""


@dataclass(frozen=True, slots=True)
class LinkFound:
    """The broker can be reached, for the first time or again."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    AgentStateArrived | AgentInfoArrived | ProfileArrived | ReportArrived | ReportRefused | OwnLinkProbed
    | PlannerAnswered | FragmentArrived | RequestArrived | MetricsArrived | ReplanAsked | LinkLost | LinkFound | Tick
)  # fmt: skip

# --- effects ---


@dataclass(frozen=True, slots=True)
class Assign:
    agent: str
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class ClearAssignment:
    """Retain nothing for an agent that is not there."""

    agent: str


@dataclass(frozen=True, slots=True)
class SendCommand:
    agent: str
    command: Command


@dataclass(frozen=True, slots=True)
class ProbeOwnLink:
    """Measure the orchestrator's own link, while no request is under way; answered by OwnLinkProbed."""

    number: int


@dataclass(frozen=True, slots=True)
class Consult:
    """Let the planner begin, or (with readings) go on; answered by PlannerAnswered."""

    number: int
    problem: Problem
    readings: Mapping[Wish, Reading] | None


@dataclass(frozen=True, slots=True)
class SendRegion:
    """Send `header.region` of an input tensor, given whole as (rows, columns, channels)."""

    target: str
    header: Fragment
    values: Array


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The one end of a request; `outputs` in the order of the network's, empty on error.

    `replica` is the one it went through, where it has begun; `epoch` is 0 where it has not.
    """

    request: str
    epoch: int
    seconds: float
    outputs: tuple[Array, ...] = ()
    error: str = ""
    reason: str = ""
    replica: int = 0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class PublishState:
    """The group's phase has changed."""

    state: str
    detail: str


Effect = Assign | ClearAssignment | SendCommand | ProbeOwnLink | Consult | SendRegion | RequestEnded | PublishState
