"""The orchestrator's requests, each from its arrival to its one end.

| a request is | event                                         | effects                             | then      |
|--------------|-----------------------------------------------|-------------------------------------|-----------|
| new          | it arrives, and the queue is full             | ended: `busy`                       | ended     |
| new          | it arrives                                    | none                                | waiting   |
| waiting      | a plan is in force, and the window has room   | its input's regions, for a replica  | under way |
| waiting      | its deadline; nobody is left                  | ended: `deadline`, `no-agents`      | ended     |
| under way    | the last fragment of its outputs              | ended, with its outputs             | ended     |
| under way    | a tile failed; an agent is lost               | none; the next attempt              | waiting   |
| under way    | its deadline                                  | ended: `deadline`                   | ended     |
| waiting      | an attempt beyond the last one                | ended: why the last one failed      | ended     |

What arrived first goes first, a second attempt before what has never been tried. Fragments and reports of another
epoch or attempt than the one that is under way are not taken.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from legion_iot.errors import ProtocolError
from legion_iot.model.blocks import Network
from legion_iot.planning.routing import ORCHESTRATOR
from legion_iot.runtime.attempts import Attempt
from legion_iot.runtime.epochs import Epoch
from legion_iot.runtime.orchestrator_events import Effect, RequestEnded, SendRegion
from legion_iot.runtime.progress import Progress
from legion_iot.wire.messages import Fragment, TileTiming
from legion_iot.wire.tensors import Array, as_map, bounds

WINDOW = 4  # requests under way at once,
WINDOW_OF_REPLICA = 2  # or so many for each replica, where that is more
QUEUE = 32  # requests that wait; one more is answered `busy`
REQUEST_TIMEOUT = 120.0  # seconds, from arrival to answer
MOST_ATTEMPTS = 6


@dataclass(slots=True, eq=False)
class Request:
    """One that has not ended, and does so after `seconds` at the latest; with an `epoch` it is under way.

    `blamed` are the agents at which attempts have failed, once for each; `left_out` are those who get no work for it.
    """

    request: str
    arrived: float
    inputs: tuple[Array, ...]
    seconds: float = REQUEST_TIMEOUT
    attempt: int = 1
    epoch: Epoch | None = None
    replica: int = 0
    progress: Progress | None = None
    blamed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def _window(epoch: Epoch) -> int:
    return max(WINDOW, WINDOW_OF_REPLICA * len(epoch.replicas))


class Requests:
    """All requests that have not ended."""

    def __init__(self, network: Network) -> None:
        self.waiting: deque[Request] = deque()
        self.under_way: dict[str, Request] = {}
        self._network = network

    @property
    def window(self) -> int:
        """How many may be under way: as many as any epoch allows that they run by."""
        epochs = {each.epoch for each in self.under_way.values() if each.epoch is not None}
        return max(map(_window, epochs), default=WINDOW)

    def arrive(
        self, request: str, inputs: tuple[Array, ...], epoch: int, now: float, seconds: float = math.inf
    ) -> list[Effect]:
        """A new request, for so many seconds at most; `epoch` is the newest."""
        if len(self.waiting) >= QUEUE:
            reason = f"{QUEUE} requests wait already; send it again later"
            return [RequestEnded(request, epoch, 0.0, error="busy", reason=reason)]
        self.waiting.append(Request(request, now, inputs, min(seconds, REQUEST_TIMEOUT)))
        return []

    def waited(self, now: float) -> float:
        """Seconds since the oldest of those that wait has arrived; 0 where none waits."""
        return now - self.waiting[0].arrived if self.waiting else 0.0

    def withdraw(self, prefix: str) -> None:
        """Forget those that wait and whose names begin so."""
        self.waiting = deque(request for request in self.waiting if not request.request.startswith(prefix))

    def beside(self, epoch: Epoch | None) -> bool:
        """Whether any is under way in another epoch."""
        return any(each.epoch is not epoch for each in self.under_way.values())

    # --- attempts ---

    def start(self, epoch: Epoch, now: float) -> list[Effect]:
        """Begin as many as the window has room for."""
        effects: list[Effect] = []
        while self.waiting and len(self.under_way) < _window(epoch):
            begun = self.waiting.popleft()
            begun.epoch, begun.replica = epoch, epoch.replicas.choose()
            begun.progress = Progress(epoch.dependencies, begun.replica, now)
            self.under_way[begun.request] = begun
            effects += self._send_inputs(begun, epoch, now)
        return effects

    def _send_inputs(self, begun: Request, epoch: Epoch, now: float) -> list[Effect]:
        """The regions of the network's inputs, each to whoever needs it; an input that is an output is the answer's."""
        maps = {t: as_map(array) for t, array in zip(self._network.graph.inputs, begun.inputs, strict=True)}
        effects: list[Effect] = []
        attempt = Attempt(begun.request, begun.attempt)
        for transfer in epoch.inputs[begun.replica]:
            values = maps[transfer.tensor]
            if transfer.target == ORCHESTRATOR:
                outputs = epoch.exchange.put(attempt, transfer.step, transfer.tensor, transfer.region, values)
                if outputs is not None:
                    effects.append(self._answer(begun, outputs, now))
                continue
            header = Fragment(
                *attempt, epoch.number, transfer.step, transfer.tensor, bounds(transfer.region),
                values.shape[2], str(values.dtype),
            )  # fmt: skip
            effects.append(SendRegion(transfer.target, header, values))
        return effects

    def again(self, failed: list[Request], error: str, reason: str, now: float) -> list[Effect]:
        """Give up the attempts that are under way; further ones are made, unless there were too many."""
        effects: list[Effect] = []
        for request in sorted(failed, key=lambda each: each.arrived, reverse=True):
            self._take_back(request)
            if request.attempt >= MOST_ATTEMPTS:
                text = f"{reason}; {MOST_ATTEMPTS} attempts were made"
                effects.append(self._end(request, now, error=error, reason=text))
                continue
            request.attempt += 1
            self.waiting.appendleft(request)
        return effects

    def _take_back(self, request: Request) -> None:
        """It is not under way any more."""
        epoch = request.epoch
        assert epoch is not None
        del self.under_way[request.request]
        epoch.replicas.ended(request.replica)
        epoch.exchange.forget(Attempt(request.request, request.attempt))
        request.epoch = request.progress = None

    # --- what comes ---

    def take(self, sender: str, header: Fragment, body: memoryview, now: float) -> list[Effect]:
        """A fragment of an output; raises ProtocolError where it is nobody's."""
        request = self.under_way.get(header.request)
        if request is None or request.epoch is None:
            raise ProtocolError(f"no request {header.request:.80} is under way")
        if (header.epoch, header.attempt) != (request.epoch.number, request.attempt):
            raise ProtocolError(f"a fragment of another attempt at {header.request:.80}")
        outputs = request.epoch.exchange.put_fragment(sender, header, body)
        return [] if outputs is None else [self._answer(request, outputs, now)]

    def _answer(self, request: Request, outputs: Mapping[int, Array], now: float) -> Effect:
        graph = self._network.graph
        values = tuple(outputs[t].reshape(graph.tensors[t].shape) for t in graph.outputs)
        return self.end(request, now, outputs=values)

    def computed(self, agent: str, timing: TileTiming, worked_before: float, now: float) -> None:
        """What an agent took for a step, if that can be; it had done another one at `worked_before`.

        What it did before that is not counted, as it is not when the agent is late: else a burst of requests, each of
        which waits for those before it, would leave long deadlines behind.
        """
        request = self.under_way.get(timing.request)
        if request is None or request.epoch is None or request.progress is None:
            return
        if (timing.epoch, timing.attempt) != (request.epoch.number, request.attempt):
            return
        if 0 <= timing.seconds <= REQUEST_TIMEOUT:
            request.epoch.replicas.measured(request.replica, timing.step, agent, timing.seconds)
        task = timing.step, agent
        waited = request.progress.reported(task, now)
        if waited is not None:
            request.epoch.pace.seen(task, min(waited, now - worked_before))

    def awaited(self) -> Iterator[tuple[Request, tuple[int, str], float]]:
        """The tasks that requests under way wait for, and since when."""
        for request in self.under_way.values():
            if request.progress is not None:
                for task, since in request.progress.waits_for():
                    yield request, task, since

    # --- the end ---

    def end(
        self, request: Request, now: float, *, outputs: tuple[Array, ...] = (), error: str = "", reason: str = ""
    ) -> RequestEnded:
        """The one end of a request that is under way."""
        epoch = request.epoch
        self._take_back(request)
        return self._end(request, now, epoch, outputs=outputs, error=error, reason=reason)

    def _end(
        self,
        request: Request,
        now: float,
        epoch: Epoch | None = None,
        *,
        outputs: tuple[Array, ...] = (),
        error: str = "",
        reason: str = "",
    ) -> RequestEnded:
        number = 0 if epoch is None else epoch.number
        seconds, attempts = now - request.arrived, request.attempt
        return RequestEnded(request.request, number, seconds, outputs, error, reason, request.replica, attempts)

    def end_under_way(self, now: float, error: str, reason: str) -> list[Effect]:
        """End all that are under way."""
        return [self.end(request, now, error=error, reason=reason) for request in list(self.under_way.values())]

    def end_waiting(self, now: float, error: str, reason: str) -> list[Effect]:
        """End all that wait."""
        effects: list[Effect] = []
        while self.waiting:
            effects.append(self._end(self.waiting.popleft(), now, error=error, reason=reason))
        return effects

    def deadlines(self, now: float, detail: str) -> list[Effect]:
        """End what has taken too long; `detail` says why requests wait."""
        effects: list[Effect] = []
        for request in list(self.under_way.values()):
            if now - request.arrived > request.seconds:
                reason = f"no answer within {request.seconds:g} s"
                effects.append(self.end(request, now, error="deadline", reason=reason))
        late = [request for request in self.waiting if now - request.arrived > request.seconds]
        for request in late:
            self.waiting.remove(request)
            reason = f"the group was not ready within {request.seconds:g} s ({detail})"
            effects.append(self._end(request, now, error="deadline", reason=reason))
        return effects
