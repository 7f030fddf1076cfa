"""When what happened to a request at the orchestrator, on its own monotonic clock (seconds)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class InputSend:
    """The network's input, or a region of it, handed to the connection for one agent."""

    target: str
    start: float
    end: float
    size: int  # bytes of elements


@dataclass(slots=True)
class RequestTimes:
    """One request: latency runs from `arrived`, when its input has been read, to `ended`, when all outputs are there.

    `published` is when the answer was handed to the connection. What was sent and received is that of the last
    `attempt`, which began at `begun`, or has not begun (None). `outputs` are the times of each agent's first and last
    fragment of an output.
    """

    taken: float
    arrived: float
    attempt: int = 1
    begun: float | None = None
    sends: list[InputSend] = field(default_factory=list)
    outputs: dict[str, tuple[float, float]] = field(default_factory=dict)
    ended: float = 0.0
    published: float = 0.0
    bytes_received: int = 0

    @property
    def first_output(self) -> float:
        """When the first fragment of an output came; `ended` where none came from an agent."""
        return min((first for first, _ in self.outputs.values()), default=self.ended)

    def begin(self, attempt: int, now: float) -> None:
        """An attempt begins; what came of those before it does not count."""
        self.attempt, self.begun = attempt, now
        self.sends, self.outputs, self.bytes_received = [], {}, 0

    def received(self, agent: str, now: float, size: int) -> None:
        """A fragment of an output is here."""
        self.outputs[agent] = (self.outputs.get(agent, (now, now))[0], now)
        self.bytes_received += size
