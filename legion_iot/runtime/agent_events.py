"""What happens to an agent, and what it does about it: the events and effects of `runtime.agent`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from legion_iot.runtime.exchange import TensorForm
from legion_iot.wire.messages import (
    Assignment,
    Chunk,
    ChunkRequest,
    Command,
    Failed,
    Fragment,
    ModelReference,
    Ready,
    TileTiming,
)
from legion_iot.wire.tensors import Array

# --- events ---


@dataclass(frozen=True, slots=True)
class AssignmentArrived:
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class AssignmentCleared:
    """The orchestrator has taken back what it had assigned of a model."""

    model: str


@dataclass(frozen=True, slots=True)
class CommandArrived:
    command: Command


@dataclass(frozen=True, slots=True)
class FragmentArrived:
    """`received` is when it had come, on the clock of `step`; None where it has not waited since."""

    sender: str
    header: Fragment
    body: memoryview
    received: float | None = None


@dataclass(frozen=True, slots=True)
class RoomMade:
    """A model may be fetched: `there` bytes of it are from an earlier fetch; `removed` models are not held any more."""

    sha256: str
    there: int = 0
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkArrived:
    chunk: Chunk
    body: memoryview


@dataclass(frozen=True, slots=True)
class ModelStored:
    """The file of a model is complete and verified, or (with a reason) it is not, and nothing of it is kept."""

    sha256: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelLost:
    """A model that was held is gone, or is not what its SHA-256 says; `command` could not be carried out for it."""

    model: ModelReference
    command: Command | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """Every sub-model of the assignment can run; `forms` are those of the tensors its steps read."""

    epoch: int
    forms: Mapping[int, TensorForm]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StepDone:
    """Outputs by tensor, each (rows, columns, channels); `ended` is when, on the clock of `step`."""

    epoch: int
    request: str
    attempt: int
    step: int
    outputs: Mapping[int, Array]
    seconds: float
    ended: float


@dataclass(frozen=True, slots=True)
class StepFailed:
    """Without an `attempt`, whichever is under way."""

    epoch: int
    request: str
    reason: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Idle:
    """All that came has been taken in, and nothing is being computed."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    AssignmentArrived | AssignmentCleared | CommandArrived | FragmentArrived | RoomMade | ChunkArrived | ModelStored
    | ModelLost | Loaded | StepDone | StepFailed | Idle | Tick
)  # fmt: skip

# --- effects ---


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """A model is to be fetched; answered by RoomMade, or by ModelStored with a reason. Those `needed` must stay."""

    model: ModelReference
    needed: frozenset[str]


@dataclass(frozen=True, slots=True)
class AskChunk:
    request: ChunkRequest


@dataclass(frozen=True, slots=True)
class StoreChunk:
    chunk: Chunk
    body: memoryview


@dataclass(frozen=True, slots=True)
class FinishModel:
    """Verify the fetched file and take it into the store; answered by ModelStored."""

    model: ModelReference


@dataclass(frozen=True, slots=True)
class PublishInfo:
    """Publish what the agent is and holds."""


@dataclass(frozen=True, slots=True)
class Load:
    """Cut and load the assignment's sub-models; answered by Loaded, or by ModelLost."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Unload:
    """Free the epoch's sub-models."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Compute:
    """Run a step; answered by StepDone or StepFailed, before anything else happens."""

    epoch: int
    request: str
    attempt: int
    step: int
    inputs: Mapping[int, Array]


@dataclass(frozen=True, slots=True)
class StartMeasuring:
    """Profile the command's parts of its model, or probe the link, while `may_measure`; report what came out.

    Answered by ModelLost where the model cannot be read any more.
    """

    command: Command


@dataclass(frozen=True, slots=True)
class ForgetMeasured:
    """Forget what was measured on this device, and what is still to be."""


@dataclass(frozen=True, slots=True)
class SendRegion:
    """Send `header.region` out of `values`, which cover the region `origin` (its first row and column)."""

    target: str
    header: Fragment
    values: Array
    origin: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Report:
    """Publish a report."""

    message: Ready | Failed


@dataclass(frozen=True, slots=True)
class ReportTiming:
    """Report the timing of a step whose sends went before, with the time since `computed` as what they took.

    The orchestrator is to hear of it `within` seconds; a step that `is_last` is the last one of its request here.
    """

    timing: TileTiming
    computed: float
    within: float = 0.0
    is_last: bool = True


Effect = (
    MakeRoom | AskChunk | StoreChunk | FinishModel | PublishInfo | Load | Unload | Compute | StartMeasuring
    | ForgetMeasured | SendRegion | Report | ReportTiming
)  # fmt: skip
