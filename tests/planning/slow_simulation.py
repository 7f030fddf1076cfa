"""How long a plan takes, found by looking, again and again, at everything that could happen next."""

from __future__ import annotations

import math
from dataclasses import dataclass

from legion_iot.model.blocks import Network
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Group
from legion_iot.planning.routing import ORCHESTRATOR, Work, route
from legion_iot.planning.traffic import messages
from tests.planning.groups import FlopCosts

Choice = tuple[float, tuple[int, int], str, int]  # when, what goes first at the same time, kind, number


@dataclass
class Message:
    """`work` needs it, `maker` made it (−1: it is input); times are None before it has come so far."""

    maker: int
    work: int
    source: str
    target: str
    size: int
    packed: float | None = None  # handled by who sends it
    at_broker: float | None = None
    arrived: float | None = None
    here: float | None = None  # handled by who receives it


class SlowSimulation:
    """A plan without replicas; after `run`, `computing` says when each step (and agent) computed."""

    def __init__(self, network: Network, plan: Plan, members: Group, costs: FlopCosts) -> None:
        self.network, self.members, self.costs = network, members, costs
        self.routing = route(network, plan)
        self.messages = self._messages()
        self.done: dict[int, float] = {-1: 0.0}  # work → when its outputs are there
        self.free: dict[tuple[str, str], float] = {}  # processors and links
        self.computing: dict[tuple[int, str], tuple[float, float]] = {}

    def run(self) -> float:
        """The latency."""
        acts = {
            "pack": self._pack, "compute": self._compute,
            "up": self._upload, "down": self._download, "take": self._take,
        }  # fmt: skip
        while choices := [
            *self._packings(), *self._computations(), *self._uploads(), *self._downloads(), *self._takings()
        ]:  # fmt: skip
            when, _, kind, number = min(choices)
            acts[kind](number, when)
        answer = len(self.routing.works) - 1
        latency = self._ready(answer, self.routing.works[answer])
        assert latency is not None
        return latency

    def _messages(self) -> list[Message]:
        found, works = [], self.routing.works
        for transfer in self.routing.transfers:
            if transfer.source == transfer.target:
                continue
            made = [
                number
                for number, work in enumerate(works)
                if work.agent == transfer.source and work.step < transfer.step
                and transfer.region in work.outputs.get(transfer.tensor, ())
            ]  # fmt: skip
            target = next(n for n, w in enumerate(works) if (w.step, w.agent) == (transfer.step, transfer.target))
            for size in messages(transfer, self.network.graph.tensors[transfer.tensor]):
                found.append(Message(max(made, default=-1), target, transfer.source, transfer.target, size))
        return found

    def _link(self, name: str) -> Link:
        return self.members.orchestrator if name == ORCHESTRATOR else self.members[name].link

    def _packings(self) -> list[Choice]:
        return [
            (self.done[message.maker], (-1, number), "pack", number)
            for number, message in enumerate(self.messages)
            if message.maker in self.done and message.packed is None
        ]

    def _pack(self, number: int, when: float) -> None:
        message = self.messages[number]
        message.packed = self._handled(message.source, message.size, when)

    def _takings(self) -> list[Choice]:
        return [
            (message.arrived, (3, number), "take", number)
            for number, message in enumerate(self.messages)
            if message.arrived is not None and message.here is None
        ]

    def _take(self, number: int, when: float) -> None:
        message = self.messages[number]
        message.here = self._handled(message.target, message.size, when)

    def _handled(self, name: str, size: int, when: float) -> float:
        """When a participant has handled a message; what it computes then takes as much longer."""
        link = self._link(name)
        seconds = link.message_seconds + size * link.byte_seconds
        self.free[name, "handle"] = max(when, self.free.get((name, "handle"), 0.0)) + seconds
        for number, work in enumerate(self.routing.works):
            if work.agent == name and not work.gathers and self.done.get(number, -1.0) > when:
                start, end = self.computing[work.step, name]
                self.computing[work.step, name] = start + (seconds if start >= when else 0.0), end + seconds
                self.done[number] = self.free[name, "compute"] = end + seconds
        return self.free[name, "handle"]

    def _uploads(self) -> list[Choice]:
        """Of each sender, the message that was made first."""
        choices: list[Choice] = []
        for source in {message.source for message in self.messages}:
            waiting = [
                (self.done[message.maker], number)
                for number, message in enumerate(self.messages)
                if message.source == source and message.packed is not None and message.at_broker is None
            ]
            if waiting:
                number = min(waiting)[1]
                packed = self.messages[number].packed
                assert packed is not None
                choices.append((max(packed, self.free.get((source, "up"), 0.0)), (1, number), "up", number))
        return choices

    def _upload(self, number: int, when: float) -> None:
        message = self.messages[number]
        link = self._link(message.source)
        through = max(when, self.free.get(("broker", "in"), 0.0)) + message.size / self.members.broker
        self.free["broker", "in"] = through
        self.free[message.source, "up"] = max(when + message.size / link.up, through)
        message.at_broker = self.free[message.source, "up"] + link.latency

    def _downloads(self) -> list[Choice]:
        return [
            (message.at_broker, (2, number), "down", number)
            for number, message in enumerate(self.messages)
            if message.at_broker is not None and message.arrived is None
        ]

    def _download(self, number: int, when: float) -> None:
        message = self.messages[number]
        link = self._link(message.target)
        begin = max(when, self.free.get(("broker", "out"), 0.0))
        through = begin + message.size / self.members.broker
        self.free["broker", "out"] = through
        ended = max(begin, self.free.get((message.target, "down"), 0.0)) + message.size / link.down
        self.free[message.target, "down"] = max(ended, through)
        message.arrived = self.free[message.target, "down"] + link.latency

    def _computations(self) -> list[Choice]:
        """Of each device, of what is ready once it is free the lowest step; a hub gathers at once."""
        choices: list[Choice] = []
        for agent in self.members.names:
            ready = []
            for number, work in enumerate(self.routing.works):
                when = self._ready(number, work) if work.agent == agent and number not in self.done else None
                if when is not None and work.gathers:
                    choices.append((when, (0, work.step), "compute", number))
                elif when is not None:
                    ready.append((when, work.step, number))
            if ready:
                start = max(min(ready)[0], self.free.get((agent, "compute"), 0.0))
                step, number = min((step, number) for when, step, number in ready if when <= start)
                choices.append((start, (0, step), "compute", number))
        return choices

    def _compute(self, number: int, when: float) -> None:
        work = self.routing.works[number]
        if work.gathers:
            self.done[number] = when
            return
        begin = max(when, self.free.get((work.agent, "handle"), 0.0))
        self.done[number] = self.free[work.agent, "compute"] = begin + self._seconds(work)
        self.computing[work.step, work.agent] = begin, self.done[number]

    def _seconds(self, work: Work) -> float:
        if work.units is None:
            return self.costs.tail_seconds(work.agent)
        reference = self.network.units[work.units[1]].reference
        return self.costs.tile_seconds(work.agent, *work.units, work.outputs[reference])

    def _ready(self, number: int, work: Work) -> float | None:
        """When the last input came, from others or from itself; None where one has not."""
        times = [0.0]
        times += [math.inf if each.here is None else each.here for each in self.messages if each.work == number]
        for transfer in self.routing.transfers:
            if (transfer.step, transfer.target) == (work.step, transfer.source) and transfer.source == work.agent:
                times += [
                    self.done.get(maker, math.inf)
                    for maker, other in enumerate(self.routing.works)
                    if other.agent == work.agent and other.step < work.step and transfer.tensor in other.outputs
                    and other.outputs[transfer.tensor].intersection(transfer.region).area
                ]  # fmt: skip
        return None if math.inf in times else max(times)
