"""The orchestrator's requests, each from its arrival to its one end.

| a request is | event                                         | effects                             | then      |
|--------------|-----------------------------------------------|-------------------------------------|-----------|
| new          | it arrives, and the queue is full             | ended: `busy`                       | ended     |
| new          | it arrives                                    | none                                | waiting   |
| waiting      | the plan is in force, and the window has room | its input's regions, for a replica  | under way |
| waiting      | its deadline; nobody is left                  | ended: `deadline`, `no-agents`      | ended     |
| under way    | the last fragment of its outputs              | ended, with its outputs             | ended     |
| under way    | a tile failed; an agent left; its deadline    | ended: `tile-failed`, `agent-lost`… | ended     |
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from legion_iot.errors import ProtocolError
from legion_iot.model.blocks import Network
from legion_iot.planning.routing import ORCHESTRATOR, Routing, Transfer
from legion_iot.runtime.attempts import Attempt
from legion_iot.runtime.exchange import Exchange, tensor_forms
from legion_iot.runtime.orchestrator_events import Effect, RequestEnded, SendRegion
from legion_iot.runtime.replicas import Replicas
from legion_iot.wire.messages import Fragment, PeerRegion, TileTiming
from legion_iot.wire.tensors import Array, as_map, bounds

WINDOW = 4  # requests under way at once,
WINDOW_OF_REPLICA = 2  # or so many for each replica, where that is more
QUEUE = 32  # requests that wait; one more is answered `busy`
REQUEST_TIMEOUT = 120.0  # seconds, from arrival to answer


@dataclass(frozen=True, slots=True)
class Request:
    """One that has not ended; `replica` is the one it goes through, once it is under way."""

    request: str
    arrived: float
    inputs: tuple[Array, ...]
    replica: int = 0


class Requests:
    """All requests that have not ended. They run by the plan of the last `begin`, and only between `start`s."""

    def __init__(self, network: Network) -> None:
        self.waiting: deque[Request] = deque()
        self.under_way: dict[str, Request] = {}
        self.exchange: Exchange | None = None
        self.replicas = Replicas(1)
        self._network = network
        self._epoch = 0
        self._inputs: list[list[Transfer]] = []
        self._replica_of: dict[int, int] = {}

    @property
    def window(self) -> int:
        """How many may be under way at once."""
        return max(WINDOW, WINDOW_OF_REPLICA * len(self.replicas))

    def begin(self, epoch: int, routing: Routing) -> None:
        """From now on, requests run by this plan; none is under way."""
        self._epoch = epoch
        self.replicas = Replicas(routing.replicas)
        self._replica_of = {work.step: work.replica for work in routing.works}
        self._inputs = [[] for _ in range(routing.replicas)]
        for transfer in routing.transfers:
            if transfer.source == ORCHESTRATOR:
                self._inputs[transfer.replica].append(transfer)
        received = [t for t in routing.transfers if t.target == ORCHESTRATOR]
        self.exchange = Exchange(
            epoch,
            {answer.step: answer.inputs for answer in routing.answers},
            [PeerRegion(t.step, t.tensor, bounds(t.region), t.source) for t in received],
            tensor_forms(self._network),
            replicas={answer.step: answer.replica for answer in routing.answers},
        )

    def arrive(self, request: str, inputs: tuple[Array, ...], now: float) -> list[Effect]:
        """A new request."""
        if len(self.waiting) >= QUEUE:
            reason = f"{QUEUE} requests wait already; send it again later"
            return [RequestEnded(request, self._epoch, 0.0, error="busy", reason=reason)]
        self.waiting.append(Request(request, now, inputs))
        return []

    def waited(self, now: float) -> float:
        """Seconds since the oldest of those that wait has arrived; 0 where none waits."""
        return now - self.waiting[0].arrived if self.waiting else 0.0

    def withdraw(self, prefix: str) -> None:
        """Forget those that wait and whose names begin so."""
        self.waiting = deque(request for request in self.waiting if not request.request.startswith(prefix))

    def start(self, now: float) -> list[Effect]:
        """Send the input of as many as the window has room for."""
        effects: list[Effect] = []
        while self.waiting and len(self.under_way) < self.window:
            begun = replace(self.waiting.popleft(), replica=self.replicas.choose())
            self.under_way[begun.request] = begun
            effects += self._send_inputs(begun, now)
        return effects

    def _send_inputs(self, begun: Request, now: float) -> list[Effect]:
        """The regions of the network's inputs, each to whoever needs it; an input that is an output is the answer's."""
        maps = {t: as_map(array) for t, array in zip(self._network.graph.inputs, begun.inputs, strict=True)}
        effects: list[Effect] = []
        for transfer in self._inputs[begun.replica]:
            values = maps[transfer.tensor]
            if transfer.target == ORCHESTRATOR:
                assert self.exchange is not None
                attempt = Attempt(begun.request, 1)
                outputs = self.exchange.put(attempt, transfer.step, transfer.tensor, transfer.region, values)
                if outputs is not None:
                    effects.append(self._answer(begun.request, outputs, now))
                continue
            header = Fragment(
                begun.request, 1, self._epoch, transfer.step, transfer.tensor, bounds(transfer.region),
                values.shape[2], str(values.dtype),
            )  # fmt: skip
            effects.append(SendRegion(transfer.target, header, values))
        return effects

    def take(self, sender: str, header: Fragment, body: memoryview, now: float) -> list[Effect]:
        """A fragment of an output; raises ProtocolError where it is nobody's."""
        if self.exchange is None or header.request not in self.under_way:
            raise ProtocolError(f"no request {header.request:.80} is under way")
        outputs = self.exchange.put_fragment(sender, header, body)
        return [] if outputs is None else [self._answer(header.request, outputs, now)]

    def _answer(self, request: str, outputs: Mapping[int, Array], now: float) -> Effect:
        graph = self._network.graph
        return self.end(request, now, outputs=tuple(outputs[t].reshape(graph.tensors[t].shape) for t in graph.outputs))

    def computed(self, agent: str, timing: TileTiming) -> None:
        """What an agent took for a step, if that can be."""
        replica = self._replica_of.get(timing.step)
        if replica is not None and 0 <= timing.seconds <= REQUEST_TIMEOUT:
            self.replicas.measured(replica, timing.step, agent, timing.seconds)

    def end(
        self, request: str, now: float, *, outputs: tuple[Array, ...] = (), error: str = "", reason: str = ""
    ) -> RequestEnded:
        """The one end of a request that is under way."""
        ended = self.under_way.pop(request)
        self.replicas.ended(ended.replica)
        if self.exchange is not None:
            self.exchange.forget(Attempt(request, 1))
        return RequestEnded(request, self._epoch, now - ended.arrived, outputs, error, reason, ended.replica)

    def end_under_way(self, now: float, error: str, reason: str) -> list[Effect]:
        """End all that are under way."""
        return [self.end(request, now, error=error, reason=reason) for request in list(self.under_way)]

    def end_waiting(self, now: float, error: str, reason: str, before: float = math.inf) -> list[Effect]:
        """End all that wait and have arrived before then."""
        effects: list[Effect] = []
        while self.waiting and self.waiting[0].arrived < before:
            old = self.waiting.popleft()
            effects.append(RequestEnded(old.request, self._epoch, now - old.arrived, error=error, reason=reason))
        return effects

    def deadlines(self, now: float, detail: str) -> list[Effect]:
        """End what has taken too long; `detail` says why requests wait."""
        effects: list[Effect] = []
        for request, begun in list(self.under_way.items()):
            if now - begun.arrived > REQUEST_TIMEOUT:
                reason = f"no answer within {REQUEST_TIMEOUT:g} s"
                effects.append(self.end(request, now, error="deadline", reason=reason))
        reason = f"the group was not ready within {REQUEST_TIMEOUT:g} s ({detail})"
        return effects + self.end_waiting(now, "deadline", reason, before=now - REQUEST_TIMEOUT)
