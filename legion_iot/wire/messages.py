"""Every message, as a frozen dataclass. `codec` writes and reads them; `docs/protocol.md` lists topics and senders.

Regions are (first row, end row, first column, end column), half open. Tensors and units are named by their index in
the model, which all participants hold under the same SHA-256. Those that the broker retains are in `retained`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from legion_iot.errors import ProtocolError
from legion_iot.planning.links import Link
from legion_iot.wire.dtypes import EXACT, check_wire
from legion_iot.wire.retained import (
    AgentInfo,
    AgentState,
    CodecSpeed,
    ModelInfo,
    OrchestratorState,
    Profile,
    RegionBounds,
)
from legion_iot.wire.topics import check_participant_name

__all__ = [
    "MAX_MODEL",
    "AgentInfo",
    "AgentState",
    "Answer",
    "AssignedStep",
    "Assignment",
    "Chunk",
    "ChunkRequest",
    "CodecSpeed",
    "Command",
    "Echo",
    "Failed",
    "Fragment",
    "Heard",
    "Measured",
    "Metrics",
    "ModelInfo",
    "ModelReference",
    "OrchestratorState",
    "OutputDigest",
    "Parcel",
    "PartTime",
    "PeerRegion",
    "Profile",
    "ProfilePart",
    "Ready",
    "Receipt",
    "RegionBounds",
    "Result",
    "TensorRegion",
    "TileTiming",
    "Timings",
]

MAX_MODEL = 16 << 30  # bytes

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Metrics:
    """On `agents/<agent>/metrics`, about every 2 s: how the device is, said by the thread that computes.

    So they are a sign that its loop turns. While it computes a step, loads a plan or runs a part of a model to measure
    it, none come: those before and after are as far apart as that takes. Seconds and counts are of this session; `load`
    is the machine's, over a minute; `temperature` (°C) is that of the hottest sensor; bytes are those of payloads.
    """

    session: str
    uptime: float
    load: float
    temperature: float | None
    throttled: bool
    memory_resident: int
    memory_limit: int
    tiles: int
    computing: float  # seconds that these tiles took altogether
    bytes_sent: int
    bytes_received: int
    dropped: int  # messages that made no sense


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model file by content. Raises ProtocolError for a hash that is none, since it names the file on the device."""

    name: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ProtocolError(f"{self.sha256!r:.80} is no SHA-256 of a model")
        if not 0 < self.size <= MAX_MODEL:
            raise ProtocolError(f"a model of {self.size} bytes is empty or above the limit of {MAX_MODEL}")


@dataclass(frozen=True, slots=True)
class ProfilePart:
    """What to run: units `first` to `last` for `region` of their block's reference map; without units, the tail."""

    units: tuple[int, int] | None = None
    region: RegionBounds = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Command:
    """On `agents/<agent>/command`: what an agent is to do once.

    `fetch` the model, `profile` parts of it, `probe` the link, which needs no model, `forget` what was measured on the
    device, or `release` all epochs of the model below `epoch`. `number` is given back with the answer. No part is begun
    after `seconds`, except for the first.
    """

    operation: str
    model: ModelReference | None = None
    number: int = 0
    parts: tuple[ProfilePart, ...] = ()
    seconds: float = 0.0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class PartTime:
    """The median of `runs` runs, and the standard deviation of a single one around it; both in seconds."""

    seconds: float
    deviation: float
    runs: int


@dataclass(frozen=True, slots=True)
class Measured:
    """On `report/measured`: the answer to a command to `profile` or to `probe`.

    `times` are those of the command's parts, in their order, as far as time allowed; `reason` says what went wrong.
    """

    number: int
    times: tuple[PartTime, ...] = ()
    link: Link | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TensorRegion:
    """A region of a tensor that a step needs or makes."""

    tensor: int
    region: RegionBounds


@dataclass(frozen=True, slots=True)
class PeerRegion:
    """A region of a tensor that goes to `peer`, or comes from it, for the receiver's `step`.

    Raises ProtocolError for a peer that cannot be one, since it becomes a level of a topic.
    """

    step: int
    tensor: int
    region: RegionBounds
    peer: str

    def __post_init__(self) -> None:
        check_participant_name(self.peer)


@dataclass(frozen=True, slots=True)
class AssignedStep:
    """One step of one agent; `units` are its block's first and last unit, None for the tail and for gathering.

    A step that `gathers` makes what it needs: regions of others become the agent's own. Steps of different replicas of
    a plan have nothing in common: a request goes through those of one `replica`.
    """

    step: int
    units: tuple[int, int] | None
    inputs: tuple[TensorRegion, ...]
    outputs: tuple[TensorRegion, ...]
    gathers: bool = False
    replica: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """Retained on `agents/<agent>/assignment/<model>`: the agent's part of a plan. Without steps it is out of the plan.

    `wire` is how float32 maps travel between agents (`quantised`). What the agent has loaded of an older epoch stays
    beside it until a command `release`s it, unless it is to be `alone`: of several epochs the one that is named
    `beside`, which is in force, and where none is named the last one. A feature map may hold NaN only where
    `nan_allowed` says so. To the agents of `pack_for`, maps go packed by `codec`. A timing is to be reported
    within so many seconds, so that several may travel together. Raises ProtocolError for a wire dtype that is not
    known.
    """

    epoch: int
    model: ModelReference
    steps: tuple[AssignedStep, ...]
    receives: tuple[PeerRegion, ...]
    sends: tuple[PeerRegion, ...]
    wire: str = EXACT
    alone: bool = False
    nan_allowed: bool = False
    codec: str = ""
    pack_for: tuple[str, ...] = ()
    beside: int = 0
    report_within: float = 0.0

    def __post_init__(self) -> None:
        check_wire(self.wire)


@dataclass(frozen=True, slots=True)
class Ready:
    """On `report/ready`: every sub-model of the epoch is loaded."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Failed:
    """On `report/failed`: the agent cannot do what was asked; `request` is empty where no request is concerned.

    `culprit` is another participant, where what it sent is the reason; it is `nan` where that was NaN. With epoch 0 a
    command has failed, and `model` is the SHA-256 of what it was about. Attempt 0 is whichever is under way.
    """

    epoch: int
    request: str
    reason: str
    culprit: str = ""
    model: str = ""
    attempt: int = 0
    nan: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """When the first and the last fragment of `peer` for a step came, in seconds from the step's first input on."""

    peer: str
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class TileTiming:
    """On `report/timing`, for each step of each request: what it took, in seconds of the agent's monotonic clock.

    `begun` is when the first input was taken in, counted from the moment the agent was ready for the epoch; then come
    `receiving` until the inputs are complete, `queued` until computing starts, `seconds` of computing, and `sending`
    until the last region for others is handed to the connection. `heard` tells from whom inputs came, and when. Only
    bytes from and to other participants count, `bytes_sent` before and `bytes_received` after packing.
    """

    epoch: int
    request: str
    step: int
    seconds: float
    bytes_sent: int
    bytes_received: int = 0
    begun: float = 0.0
    receiving: float = 0.0
    queued: float = 0.0
    sending: float = 0.0
    heard: tuple[Heard, ...] = ()
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Timings:
    """On `report/timings`: several timings that were held back to travel together, the oldest first."""

    timings: tuple[TileTiming, ...]


@dataclass(frozen=True, slots=True)
class Fragment:
    """Header of a region of a feature map; the body is the region's elements, row by row, channels last.

    The elements are of `dtype`, unless `wire` names the form (`quantised`) in which float32 ones travel. Where a
    `codec` (`zeros`) has made the body smaller, `packed` is its size.

    A large region travels as several fragments, each a region of its own. Any order will do, and one that comes twice
    changes nothing.
    """

    request: str
    attempt: int
    epoch: int
    step: int
    tensor: int
    region: RegionBounds
    channels: int
    dtype: str
    wire: str = ""
    codec: str = ""
    packed: int = 0


@dataclass(frozen=True, slots=True)
class Parcel:
    """Header of a message with fragments; the body is theirs, one after the other.

    `number` counts the parcels of `stream`, which is all that one run of one participant sends to another. Whatever
    lies below `floor` has been acknowledged or given up. `answer`, if not 0, asks for a `Receipt` that carries it: at
    once where it is `urgent`, otherwise soon. Of other parcels, `follows` bytes are sent right after this one, about: a
    receiver may take them in together.
    """

    stream: int
    number: int
    floor: int
    answer: int
    urgent: bool
    fragments: tuple[Fragment, ...]
    follows: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """To the sender of a stream: all parcels below the number `below` have come, and those `beyond` it.

    `answer` is that of the last parcel that asked.
    """

    stream: int
    answer: int
    below: int
    beyond: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    """To `orchestrator/inbox/<agent>`: the bytes of a model from `offset` on."""

    sha256: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Header of a part of a model file; the body are its bytes."""

    sha256: str
    offset: int


@dataclass(frozen=True, slots=True)
class Echo:
    """Header of what a participant sends to itself to find out how fast its link is; the body means nothing."""

    number: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One class of an answer, or one object that was found.

    The `box` of an object is (top, left, bottom, right), in fractions of the picture's height and width.
    """

    index: int
    label: str
    score: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class OutputDigest:
    """One output tensor of a result: its shape, dtype, and the SHA-256 of its bytes, for comparison to the bit.

    `values` are the real numbers it stands for, last index fastest, where they are few; None for one that is infinite
    or no number.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    values: tuple[float | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """On `infer/<model>/result`: the one end of a request, as an answer or as an error with its reason.

    `kind` says what the model answers with (`model.description.Answer`); `image` is the topic where a picture goes.
    """

    request: str
    ok: bool
    model: str
    epoch: int
    latency_ms: float
    answer: tuple[Answer, ...] = ()
    outputs: tuple[OutputDigest, ...] = ()
    error: str = ""
    reason: str = ""
    kind: str = ""
    image: str = ""
