"""What happens to the orchestrator, and what it does about it: the events and effects of `runtime.orchestrator`."""

from __future__ import annotations

from dataclasses import dataclass

from legion_iot.wire.messages import (
    AgentInfo,
    AgentState,
    Assignment,
    Command,
    Failed,
    Fragment,
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
    report: Ready | Failed | TileTiming | Profile


@dataclass(frozen=True, slots=True)
class FragmentArrived:
    sender: str
    header: Fragment
    body: memoryview


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """An input for the network: one array for each of its inputs, of their shapes and dtypes."""

    request: str
    inputs: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = AgentStateArrived | AgentInfoArrived | ReportArrived | FragmentArrived | RequestArrived | Tick

# --- effects ---


@dataclass(frozen=True, slots=True)
class Assign:
    agent: str
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class SendCommand:
    agent: str
    command: Command


@dataclass(frozen=True, slots=True)
class SendRegion:
    """Send `header.region` of an input tensor, given whole as (rows, columns, channels)."""

    target: str
    header: Fragment
    values: Array


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The one end of a request; `outputs` in the order of the network's, empty on error.

    `replica` is the one it went through, where it has begun.
    """

    request: str
    epoch: int
    seconds: float
    outputs: tuple[Array, ...] = ()
    error: str = ""
    reason: str = ""
    replica: int = 0


@dataclass(frozen=True, slots=True)
class PublishState:
    """The group's phase has changed."""

    state: str
    detail: str


Effect = Assign | SendCommand | SendRegion | RequestEnded | PublishState
