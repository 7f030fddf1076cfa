"""Messages that the broker retains: what agents are and have measured, what is served, and by whom.

They are apart from the others (`messages`, which has them, too) for programs that only look on, and start at once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from legion_iot.planning.links import Link
from legion_iot.planning.samples import Sample

RegionBounds = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class AgentState:
    """Retained on `agents/<agent>/state`; `session` tells a late will of an old session from a newer one.

    `detail` says why an agent is degraded. One that is draining is about to end: it goes on until others have taken
    over.
    """

    state: str  # "online", "degraded", "draining" or "offline"
    session: str
    detail: str = ""

    @property
    def is_present(self) -> bool:
        """Whether the agent is there."""
        return self.state != "offline"


@dataclass(frozen=True, slots=True)
class CodecSpeed:
    """How many elements of a map one core of a device packs and unpacks per second."""

    codec: str
    packs: float
    unpacks: float


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """Retained on `agents/<agent>/info`: what the device is, and the models (SHA-256) it holds.

    `memory_bytes` is what the device may use for models; `cpu_share` the cores it is held to, 0 where nothing holds it;
    `codecs` are those it can pack and unpack.
    """

    board: str
    cores: int
    threads: int
    memory_bytes: int
    runtime: str
    runtime_version: str
    kernel_path: str
    version: str
    models: tuple[str, ...]
    cpu_share: float = 0.0
    codecs: tuple[CodecSpeed, ...] = ()

    @property
    def board_class(self) -> str:
        """Devices of one class are taken to be equally fast."""
        kernels = f"{self.runtime} {self.runtime_version} {self.kernel_path}"
        return _board_class(self.board, self.cpu_share, self.threads, kernels)


@functools.lru_cache(1024)
def _board_class(board: str, cpu_share: float, threads: int, kernels: str) -> str:
    share = f" at {cpu_share:g} cores" if cpu_share else ""
    return f"{board:.128}{share}, {threads} thread{'s' if threads != 1 else ''}, {kernels}"[:256]


@dataclass(frozen=True, slots=True)
class Profile:
    """Retained on `agents/<agent>/profile`: what was measured on the device, oldest first, whatever the model.

    `measured` is when anything was, in seconds since 1970 by the device's own clock; 0 is unknown.
    """

    board: str
    link: Link | None
    samples: tuple[Sample, ...]
    measured: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Retained on `models/<model>`: what the group serves, and how."""

    name: str
    sha256: str
    size: int
    input_shape: tuple[int, ...]
    input_dtype: str
    epoch: int
    agents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OrchestratorState:
    """Retained on `orchestrator/state`: `gathering`, `profiling`, `assigning`, `serving`, `idle` or `offline`.

    `agents` are those that the orchestrator sees online, whether they have work or not.
    """

    state: str
    session: str
    detail: str = ""
    agents: tuple[str, ...] = ()
