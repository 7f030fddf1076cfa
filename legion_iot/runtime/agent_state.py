"""What an agent's machine remembers."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from legion_iot.runtime.arrivals import Arrivals
from legion_iot.runtime.attempts import Attempts
from legion_iot.runtime.fetch import Fetch
from legion_iot.runtime.held import HeldEpochs
from legion_iot.runtime.ready import ReadySteps

REMEMBERED = 64  # commands to measure that are not carried out when they come again


@dataclass(slots=True)
class State:
    """All an agent remembers. Only `step` changes it; `models` are the SHA-256 of those it holds."""

    name: str
    models: set[str] = field(default_factory=set)
    fetch: Fetch | None = None
    epochs: HeldEpochs = field(default_factory=HeldEpochs)
    attempts: Attempts = field(default_factory=Attempts)
    ready: ReadySteps = field(default_factory=ReadySteps)
    arrivals: Arrivals = field(default_factory=Arrivals)
    worked_at: float = -math.inf
    measured: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED))  # numbers of commands
    dropped: int = 0
