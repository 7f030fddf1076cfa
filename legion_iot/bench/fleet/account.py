"""Where the latency of a request goes: of real ones, from their traces, of the plan as predicted, and of the bound.

All three are laid along the chain of events that determined when the answer came, by the same code: what is predicted
is put in the form of a trace first. So one can be taken from the other, part by part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from legion_iot.model.blocks import Network
from legion_iot.planning.estimate import Bar, Estimate
from legion_iot.planning.links import LEAST_LATENCY, MOST_RATE, Link
from legion_iot.planning.problem import Group
from legion_iot.planning.routing import ORCHESTRATOR, Routing, Transfer
from legion_iot.planning.traffic import messages
from legion_iot.tracing.timeline import Timeline, TracedRequest
from legion_iot.tracing.times import InputSend, RequestTimes
from legion_iot.wire.messages import Heard, TileTiming


@dataclass(frozen=True, slots=True)
class Account:
    """Seconds of a latency, which sum to it, along the chain of events that determined when the answer came.

    - `client`: between the client and the orchestrator, through the broker, both ways.
    - `orchestrator`: reading the input, dividing it, publishing the answer.
    - `computing`: of the devices on the path, with what messages that come meanwhile take of their processors.
    - `links`: what the transfers on the path take alone on their two links, at the rates that were measured.
    - `sending`: what encoding and handing to the connection takes beyond that.
    - `waiting`: of those transfers, beyond both: behind others on a link, at the broker, and for processors to handle
      their messages; of a prediction that is all handling, sending included.
    - `queued`: inputs are complete, and the device's processor is busy with something else.
    """

    client: float = 0.0
    orchestrator: float = 0.0
    computing: float = 0.0
    links: float = 0.0
    sending: float = 0.0
    waiting: float = 0.0
    queued: float = 0.0

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.parts.values())

    @property
    def parts(self) -> Mapping[str, float]:
        """By name, in the order of the text above."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def mean(accounts: Sequence[Account]) -> Account:
    """Part by part; of none, nothing."""
    count = max(1, len(accounts))
    return Account(**{name: sum(each.parts[name] for each in accounts) / count for name in Account().parts})


class Accountant:
    """Accounts of requests through one plan of a network, with the links of its group."""

    def __init__(self, network: Network, group: Group, routing: Routing, wire: str) -> None:
        self._network, self._routing, self._wire = network, routing, wire
        self._links = {device.name: device.link for device in group.devices} | {ORCHESTRATOR: group.orchestrator}

    def measured(self, timeline: Timeline, traced: TracedRequest, seconds: float) -> Account | None:
        """Of a request that took its client so many seconds; None where its trace is not whole."""
        times = traced.times
        inside = max(times.published, times.ended) - times.taken
        own = (times.arrived - times.taken) + max(0.0, times.published - times.ended)
        return self._account(timeline, traced, max(0.0, seconds - inside), own)

    def predicted(self, estimate: Estimate) -> Account:
        """Of the plan's first turn, as it was predicted."""
        traced = as_traced(estimate, self._routing, self._links)
        account = self._account(Timeline(self._routing, (traced,), {}), traced, 0.0, 0.0)
        assert account is not None  # a prediction says of every step when it is done
        return account

    def _account(self, timeline: Timeline, traced: TracedRequest, client: float, own: float) -> Account | None:
        legs = timeline.legs(traced)
        if not legs:
            return None
        spent = dict.fromkeys(Account().parts, 0.0)
        spent["client"], spent["orchestrator"] = client, own
        transit = 0.0
        for leg in legs:
            seconds = leg.end - leg.start
            if leg.kind == "transit":
                transit = seconds
            elif leg.kind == "sending":  # legs go back in time: its transit came before it
                alone = min(transit + seconds, self._alone(leg.who, leg.target, leg.step))
                beyond = transit + seconds - alone
                encoding = min(seconds, beyond)
                spent["links"] += alone
                spent["sending"] += encoding
                spent["waiting"] += beyond - encoding
            elif leg.kind == "earlier attempts":
                spent["waiting"] += seconds
            else:
                spent[leg.kind] += seconds
        return Account(**spent)

    def _alone(self, source: str, target: str, step: int | None) -> float:
        """Seconds of all transfers from one participant to another for a step, with nothing else on their links."""
        tensors = self._network.graph.tensors
        sizes = [
            size
            for transfer in self._routing.transfers
            if (transfer.source, transfer.target, transfer.step) == (source, target, step)
            for size in messages(transfer, tensors[transfer.tensor], self._wire)
        ]
        return seconds_alone(sizes, self._links[source], self._links[target])


def seconds_alone(sizes: Iterable[int], source: Link, target: Link) -> float:
    """Of messages one after the other, each passed on by the broker when it has all of it."""
    sent = received = 0.0
    for size in sizes:
        sent += size / source.up
        received = max(received, sent + source.latency) + size / target.down
    return received + target.latency if received else 0.0


def without_links(group: Group) -> Group:
    """The group with links that take as good as no time."""
    instant = Link(LEAST_LATENCY, MOST_RATE, MOST_RATE)
    devices = tuple(replace(device, link=instant) for device in group.devices)
    return Group(devices, instant)


def as_traced(estimate: Estimate, routing: Routing, links: Mapping[str, Link]) -> TracedRequest:
    """What is predicted of a plan's first turn, as if it had been measured; the clocks of all are one."""
    ours = [bar for bar in estimate.bars if bar.replica == 0]
    computing = {(bar.step, bar.participant): (bar.start, bar.end) for bar in ours if bar.kind == "compute"}
    begun = _free_since(ours)
    came: dict[tuple[int | None, str], dict[str, float]] = {}  # by step and who needs it: from whom, until when
    for bar in ours:
        if bar.kind == "receive":
            by_peer = came.setdefault((bar.step, bar.participant), {})
            by_peer[bar.peer] = max(by_peer.get(bar.peer, 0.0), bar.end + links[bar.participant].latency)
    sources: dict[tuple[int, str], list[Transfer]] = {}
    for transfer in routing.transfers:
        sources.setdefault((transfer.step, transfer.target), []).append(transfer)
    made: dict[tuple[int | None, str], float] = {}
    timings: dict[tuple[int, str], TileTiming] = {}
    times = RequestTimes(0.0, 0.0)
    times.begin(1, 0.0)
    for work in routing.works:
        key = work.step, work.agent
        if work.replica:
            continue
        heard = came.get(key, {})
        kept = [made[each.made_in, each.source] for each in sources.get(key, ()) if each.source == work.agent]
        ready = max((*heard.values(), *kept), default=0.0)
        if work.agent == ORCHESTRATOR:
            times.outputs = {peer: (last, last) for peer, last in heard.items()}
            times.ended = estimate.latency if routing.replicas == 1 else ready  # the orchestrator handles messages, too
            continue
        start, end = computing.get(key, (ready, ready))  # a gathering computes nothing
        if begun.get(key, start) <= ready < start and ready in heard.values():
            # Nothing else was computed: what came last was still being handled.
            heard = {peer: start if last == ready else last for peer, last in heard.items()}
            ready = start
        made[key] = end
        first = min((*heard.values(), *kept), default=0.0)
        timings[key] = TileTiming(
            1, "", work.step, end - start, 0, begun=first, receiving=ready - first, queued=max(0.0, start - ready),
            heard=tuple(Heard(peer, last - first, last - first) for peer, last in heard.items()),
        )  # fmt: skip
        times.sends += [InputSend(work.agent, 0.0, 0.0, 0)] * (ORCHESTRATOR in heard)
    return TracedRequest("", times, timings)


def _free_since(bars: Sequence[Bar]) -> dict[tuple[int | None, str], float]:
    """When what a device computed before each step had ended; by step and device."""
    found: dict[tuple[int | None, str], float] = {}
    until: dict[str, float] = {}
    for bar in sorted((bar for bar in bars if bar.kind == "compute"), key=lambda bar: bar.start):
        found[bar.step, bar.participant] = until.get(bar.participant, 0.0)
        until[bar.participant] = bar.end
    return found
