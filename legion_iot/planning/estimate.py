"""How long a plan takes, without running it: its steps and messages, event by event.

What is modelled.

- A device computes one step after the other: of those that are ready, the lowest.
- A step is ready when its last input has come. What a participant keeps for itself is there at once.
- A participant's link carries both directions at the same time, and in each one message after the other. It sends in
  the order in which results are ready, those of one step in the routing's order. All messages of a transfer are as
  large as those that really travel (`traffic`).
- The broker passes a message on when it has all of it, in the order in which messages come, while the next ones are
  still arriving. A transfer of several messages is under way on both links at once. The broker's own link carries them
  too, in each direction at its rate; packets are not held up there, so it costs time only where several links together
  are faster than it.
- Each way, to the broker and from it, adds the link's latency, during which the link is free for others.
- Handling a message takes the processor of who sends it before it sets off, and of who receives it before it counts as
  delivered (`links.Link`). What is to be handled goes before computing: it holds up what is being computed, or what
  would begin, for as long as it takes.
- Gathering at a hub takes no processor, but for the messages.

What is left out: headers, receipts, and small fragments that overtake large ones; the credit of what a sender has under
way (it follows the rate, so it does not bind).

Several requests. In steady state the busiest resource (a processor, one direction of a link) is busy all the time, so
`interval`, the time between answers, is its busy time per request. Where a plan has replicas, they get requests in
proportion to the rates they would have alone, and all of them fewer where they share a resource that is then too busy.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from legion_iot.errors import AgentError
from legion_iot.model.blocks import Network
from legion_iot.model.geometry import Region
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Plan
from legion_iot.planning.problem import Costs, Group
from legion_iot.planning.routing import ORCHESTRATOR, Router, Routing, Transfer, Work
from legion_iot.planning.traffic import EXACT, messages

Kind = Literal["compute", "send", "receive"]
Resource = tuple[str, Kind]  # of a participant, or of BROKER: what it receives, what it sends
BROKER = "broker"


@dataclass(frozen=True, slots=True)
class Bar:
    """What one participant does from `start` to `end`, in seconds after the request.

    `step` and `block` are those of the work that computes, that made what is sent, or that needs what is received; None
    for the network's input, and for a block where there is none. `size` is in bytes, `peer` the other participant.
    Computing lasts longer where messages come meanwhile, which take its processor.
    """

    participant: str
    kind: Kind
    step: int | None
    block: int | None
    start: float
    end: float
    size: int = 0
    peer: str = ""
    replica: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan takes, in seconds: `latency` of a request in an idle group, `interval` between answers in a busy one.

    `shares` says which part of the requests each of the plan's turns gets; with replicas, latency is their mean.
    `busy` are the seconds each resource works per request, likewise, a processor's with the messages it handles; `bars`
    are those of every turn.
    """

    latency: float
    interval: float
    shares: tuple[float, ...]
    busy: Mapping[Resource, float]
    bars: tuple[Bar, ...]


def estimate(network: Network, plan: Plan, group: Group, costs: Costs, wire: str = EXACT) -> Estimate:
    """What a plan takes; `wire` is the dtype in which float32 maps travel between agents.

    Raises AgentError where the plan has an agent that the group has not.
    """
    return Estimator(network, group, costs, wire).estimate(plan)


class Estimator:
    """Estimates plans of one network on one group; remembers tiles, so that many like plans are estimated fast."""

    def __init__(self, network: Network, group: Group, costs: Costs, wire: str = EXACT) -> None:
        self._network, self._group, self._costs, self._wire = network, group, costs, wire
        self.router = Router(network)
        self._links = {device.name: device.link for device in group.devices} | {ORCHESTRATOR: group.orchestrator}
        self._tile_seconds: dict[tuple[str, int, int, Region], float] = {}

    def estimate(self, plan: Plan) -> Estimate:
        """Like the function of this name."""
        for agent in plan.agents:
            if agent not in self._links:
                raise AgentError(f"the plan needs agent {agent!r}, which the group does not have")
        routing = self.router.route(plan)
        turns = [self._turn(routing, plan, number) for number in range(len(plan.turns))]
        shares, interval = _shares([turn.busy for turn in turns])
        busy: dict[Resource, float] = {}
        for share, turn in zip(shares, turns, strict=True):
            for resource, seconds in turn.busy.items():
                busy[resource] = busy.get(resource, 0.0) + share * seconds
        latency = sum(share * turn.latency for share, turn in zip(shares, turns, strict=True))
        return Estimate(latency, interval, shares, busy, tuple(bar for turn in turns for bar in turn.bars))

    def _turn(self, routing: Routing, plan: Plan, number: int) -> _Run:
        works = [work for work in routing.works if work.replica == number]
        seconds = list(self._seconds(plan.turns[number], works))
        transfers = [transfer for transfer in routing.transfers if transfer.replica == number]
        run = _Run(self._links, self._group.broker, works, seconds, self._deliveries(works, transfers))
        run.run()
        return run

    def _seconds(self, plan: Plan, works: list[Work]) -> Iterator[float]:
        """Of computing, for each work."""
        goes = {
            (number, tile.agent): iter(tile.goes) for number, block in enumerate(plan.blocks) for tile in block.tiles
        }
        for work in works:
            if work.units is not None and work.block is not None:
                yield self._tile(work, goes[work.block, work.agent])
            elif work.agent == ORCHESTRATOR or work.gathers:
                yield 0.0
            else:
                yield self._costs.tail_seconds(work.agent)

    def _tile(self, work: Work, goes: Iterator[Region]) -> float:
        assert work.units is not None
        # A part that owns no row of any output has no work.
        reference = self._network.units[work.units[1]].reference
        region = next(go for go in goes if work.outputs.get(reference, go) == go)
        key = (work.agent, *work.units, region)
        if key not in self._tile_seconds:
            self._tile_seconds[key] = self._costs.tile_seconds(*key)
        return self._tile_seconds[key]

    def _deliveries(self, works: list[Work], transfers: list[Transfer]) -> list[_Delivery]:
        """Each transfer with the work that made what it carries, and the one that needs it; in the routing's order."""
        tensors = self._network.graph.tensors
        index = {(work.step, work.agent): number for number, work in enumerate(works)}
        deliveries = []
        for transfer in transfers:
            maker = -1 if transfer.made_in is None else index[transfer.made_in, transfer.source]
            target = index[transfer.step, transfer.target]
            sizes = messages(transfer, tensors[transfer.tensor], self._wire)
            deliveries.append(_Delivery(maker, target, transfer.source, transfer.target, sizes))
        return deliveries


@dataclass(slots=True)
class _Delivery:
    """A transfer under way: its messages, how many have been sent and have been passed on."""

    maker: int  # the work's number; −1 for the network's input
    target_work: int
    source: str
    target: str
    sizes: tuple[int, ...]
    handled: list[float] = field(default_factory=list)  # when each message is ready to be sent
    sent: int = 0
    passed: int = 0
    taken: int = 0
    send_start: float = 0.0
    receive_start: float = 0.0


@dataclass(slots=True)
class _Participant:
    """A link and a processor: until when each direction is busy, and what waits."""

    link: Link
    outbox: deque[_Delivery] = field(default_factory=deque)
    sending_until: float = 0.0
    receiving_until: float = 0.0
    ready: list[tuple[int, int]] = field(default_factory=list)  # step, work
    is_computing: bool = False
    computing_since: float = 0.0
    computing_until: float = 0.0
    handling_until: float = 0.0

    def handle(self, size: int, now: float) -> float:
        """When a message that is to be handled from now on has been, which computing waits for."""
        seconds = self.link.handling_seconds(size)
        self.handling_until = max(now, self.handling_until) + seconds
        if now <= self.computing_since:
            self.computing_since += seconds
        self.computing_until += seconds
        return self.handling_until


_SEND, _ARRIVE, _RECEIVED, _DELIVERED, _COMPUTED = range(5)


class _Run:
    """One request through one turn of a plan."""

    def __init__(
        self,
        links: Mapping[str, Link],
        broker: float,
        works: list[Work],
        seconds: list[float],
        deliveries: list[_Delivery],
    ) -> None:
        self._works, self._seconds, self._broker = works, seconds, broker
        self._participants = {name: _Participant(link) for name, link in links.items()}
        self._from: list[list[_Delivery]] = [[] for _ in range(len(works) + 1)]  # the last: the network's input
        self._missing = [0] * len(works)
        for delivery in deliveries:
            self._from[delivery.maker].append(delivery)
            self._missing[delivery.target_work] += 1
        self._events: list[tuple[float, int, int, _Delivery | int]] = []  # time, order, kind, what
        self._order = itertools.count()
        self._broker_receiving = self._broker_sending = 0.0
        self.latency = 0.0
        self.bars: list[Bar] = []
        self.busy: dict[Resource, float] = {}
        self._count_busy(deliveries)

    def _count_busy(self, deliveries: list[_Delivery]) -> None:
        busy = self.busy
        for work, seconds in zip(self._works, self._seconds, strict=True):
            if seconds:
                busy[work.agent, "compute"] = busy.get((work.agent, "compute"), 0.0) + seconds
        sent: dict[Resource, int] = {}
        for delivery in deliveries:
            if delivery.source != delivery.target:
                size = sum(delivery.sizes)
                for resource in ((delivery.source, "send"), (delivery.target, "receive")):
                    sent[resource] = sent.get(resource, 0) + size
                for kind in ("send", "receive"):
                    sent[BROKER, kind] = sent.get((BROKER, kind), 0) + size
                for name in (delivery.source, delivery.target):
                    link = self._participants[name].link
                    if link.takes_processor:
                        seconds = sum(map(link.handling_seconds, delivery.sizes))
                        busy[name, "compute"] = busy.get((name, "compute"), 0.0) + seconds
        for (name, kind), size in sent.items():
            rate = self._broker if name == BROKER else self._rate(name, kind)
            busy[name, kind] = size / rate

    def _rate(self, name: str, kind: Kind) -> float:
        link = self._participants[name].link
        return link.up if kind == "send" else link.down

    def run(self) -> None:
        """Let everything happen; then `latency`, `busy` and `bars` are there."""
        self._has(-1, 0.0)
        for number in range(len(self._works)):
            if not self._missing[number]:
                self._ready(number, 0.0)
        while self._events:
            now, _, kind, what = heapq.heappop(self._events)
            if isinstance(what, int):
                self._computed(what, now)
            elif kind == _SEND:
                self._send(what, now)
            elif kind == _ARRIVE:
                self._pass_on(what, now)
            elif kind == _RECEIVED:
                self._take(what, now)
            else:
                self._delivered(what, now)

    def _at(self, time: float, kind: int, what: _Delivery | int) -> None:
        heapq.heappush(self._events, (time, next(self._order), kind, what))

    def _has(self, number: int, now: float) -> None:
        """A work's outputs, or the network's input, are there."""
        for delivery in self._from[number]:
            if delivery.source == delivery.target:
                self._delivered(delivery, now)
                continue
            source = self._participants[delivery.source]
            if source.link.takes_processor:
                delivery.handled = [source.handle(size, now) for size in delivery.sizes]
            source.outbox.append(delivery)
            if len(source.outbox) == 1:
                self._at_send(delivery, max(now, source.sending_until))

    def _at_send(self, delivery: _Delivery, free: float) -> None:
        """Send the transfer's next message when the link is free, and it has been handled."""
        self._at(max(free, delivery.handled[delivery.sent]) if delivery.handled else free, _SEND, delivery)

    def _send(self, delivery: _Delivery, now: float) -> None:
        """The source's link is free for the transfer's next message; the next one follows it."""
        source = self._participants[delivery.source]
        size = delivery.sizes[delivery.sent]
        begun = max(now, self._broker_receiving)
        self._broker_receiving = begun + size / self._broker
        end = max(now + size / source.link.up, self._broker_receiving)
        if not delivery.sent:
            delivery.send_start = now
        delivery.sent += 1
        source.sending_until = end
        self._at(end + source.link.latency, _ARRIVE, delivery)
        if delivery.sent < len(delivery.sizes):
            self._at_send(delivery, end)
            return
        self._bar("send", delivery, delivery.send_start, end)
        source.outbox.popleft()
        if source.outbox:
            self._at_send(source.outbox[0], end)

    def _pass_on(self, delivery: _Delivery, now: float) -> None:
        """The broker has the transfer's next message."""
        target = self._participants[delivery.target]
        size = delivery.sizes[delivery.passed]
        begun = max(now, self._broker_sending)
        self._broker_sending = begun + size / self._broker
        start = max(begun, target.receiving_until)
        target.receiving_until = max(start + size / target.link.down, self._broker_sending)
        if not delivery.passed:
            delivery.receive_start = start
        delivery.passed += 1
        is_last = delivery.passed == len(delivery.sizes)
        if is_last:
            self._bar("receive", delivery, delivery.receive_start, target.receiving_until)
        if target.link.takes_processor:
            self._at(target.receiving_until + target.link.latency, _RECEIVED, delivery)
        elif is_last:
            self._at(target.receiving_until + target.link.latency, _DELIVERED, delivery)

    def _take(self, delivery: _Delivery, now: float) -> None:
        """The target has the transfer's next message, and is to handle it."""
        done = self._participants[delivery.target].handle(delivery.sizes[delivery.taken], now)
        delivery.taken += 1
        if delivery.taken == len(delivery.sizes):
            self._at(done, _DELIVERED, delivery)

    def _delivered(self, delivery: _Delivery, now: float) -> None:
        self._missing[delivery.target_work] -= 1
        if not self._missing[delivery.target_work]:
            self._ready(delivery.target_work, now)

    def _ready(self, number: int, now: float) -> None:
        work = self._works[number]
        if work.agent == ORCHESTRATOR:
            self.latency = now
        elif work.gathers:
            self._has(number, now)
        else:
            heapq.heappush(self._participants[work.agent].ready, (work.step, number))
            self._compute(work.agent, now)

    def _compute(self, name: str, now: float) -> None:
        """Begin with what the plan puts first, where the processor is free."""
        device = self._participants[name]
        if device.is_computing or not device.ready:
            return
        number = heapq.heappop(device.ready)[1]
        device.is_computing = True
        device.computing_since = max(now, device.handling_until)
        device.computing_until = device.computing_since + self._seconds[number]
        self._at(device.computing_until, _COMPUTED, number)

    def _computed(self, number: int, now: float) -> None:
        work = self._works[number]
        device = self._participants[work.agent]
        if device.computing_until > now:  # messages have come meanwhile
            self._at(device.computing_until, _COMPUTED, number)
            return
        start = device.computing_since
        self.bars.append(Bar(work.agent, "compute", work.step, work.block, start, now, replica=work.replica))
        self._has(number, now)
        device.is_computing = False
        self._compute(work.agent, now)

    def _bar(self, kind: Kind, delivery: _Delivery, start: float, end: float) -> None:
        who, peer = delivery.source, delivery.target
        work = self._works[delivery.maker] if delivery.maker >= 0 else None
        replica = self._works[delivery.target_work].replica
        if kind == "receive":
            who, peer, work = peer, who, self._works[delivery.target_work]
        step, block = (work.step, work.block) if work is not None else (None, None)
        self.bars.append(Bar(who, kind, step, block, start, end, sum(delivery.sizes), peer, replica))


def _shares(turns: list[Mapping[Resource, float]]) -> tuple[tuple[float, ...], float]:
    """Which part of the requests each turn gets, and the interval between answers."""
    rates = [1 / longest if (longest := max(busy.values(), default=0.0)) else float("inf") for busy in turns]
    if float("inf") in rates:  # nobody does anything: the input is the answer
        return tuple(1.0 if number == rates.index(float("inf")) else 0.0 for number in range(len(rates))), 0.0
    load: dict[Resource, float] = {}
    for rate, busy in zip(rates, turns, strict=True):
        for resource, seconds in busy.items():
            load[resource] = load.get(resource, 0.0) + rate * seconds
    total = sum(rates)
    return tuple(rate / total for rate in rates), max(load.values()) / total
