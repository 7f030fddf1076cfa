"""A lower bound on the latency, or the interval, of every plan: what no planner can beat under `estimate`.

Theory. Take any plan, and give each resource r (a processor, one direction of a link, the broker's two) a weight
λ_r ≥ 0, with Σ λ_r = 1. A request keeps r busy for b_r seconds, and all of that happens between the earliest time
a_r at which anything can reach r, and the time e_r before the answer is complete (a_r + e_r being no more than what
passes in any plan, whether it uses r or not). So

    latency ≥ max_r (a_r + b_r + e_r) ≥ Σ_r λ_r (a_r + e_r) + Σ_r λ_r b_r.

It remains to bound the price Σ λ_r b_r from below. Every plan moves each chain (`chains`) through its blocks: in each
block one device owns the chain's row, computes it and, where it did not own the chain's row in the block before, gets
that one over its link from who did. Under

    (S)  a tile that computes at least the fraction x of every unit of a block takes at least x times as long as the
         whole block takes on that device, and a block no less than its last units alone,

which holds for fixed costs plus costs by row, each chain pays λ_d · its fraction of the block's seconds on device d,
and its fraction of a map's bytes over the rates of the links it crosses, times their weights. The cheapest way through
blocks and devices is a shortest path, and since all chains are alike, all of them together pay no less than that path.
Halos, rounding to rows, and fixed costs of the second device on count as nothing; hubs only add to what is moved.

Handling messages (`links.Link`) keeps processors busy, too, at both ends of each transfer. A byte that a chain moves is
paid for on both, and so is a message for each `MOST_PIECE` bytes. For the latency, it is not those messages that count
where they are received, but one for each device: nothing reaches it before that one is handled, so it belongs to a_r,
as what the orchestrator takes for the first message and for the last one does.

The weights are free: any yield a bound, and the best are the Lagrange multipliers of the fractional problem, in which
chains are divided among paths. The price is concave in them, and what the cheapest way keeps busy is its supergradient:
they are found by entropic ascent (Beck and Teboulle, Operations Research Letters 31, 2003) with Polyak's step, from
those of computing alone, and from equal ones.

What comes after the trunk counts in full: where all of the trunk is needed for it, no device begins with the tail
before all of that is done, and the answer can only leave after the tail.

For the interval between answers, the same holds without a_r and e_r: in steady state no resource is busy for longer
than all of the time, whichever replicas the requests go through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from legion_iot.model.blocks import Network
from legion_iot.model.cut import whole_or_flat
from legion_iot.model.geometry import Region
from legion_iot.planning.chains import Chains, chains
from legion_iot.planning.links import Link
from legion_iot.planning.problem import Costs, Device, Group, Objective
from legion_iot.planning.routing import ORCHESTRATOR, Transfer
from legion_iot.planning.traffic import EXACT, MOST_PIECE, least_element_bytes, messages

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MOST_ROUNDS = 150
FIRST_AIM, LAST_AIM = 0.1, 0.002  # relative
PATIENCE = 10  # rounds without a better bound before less is aimed for
LEAST_WEIGHT = 1e-9


def lower_bound(
    network: Network, group: Group, costs: Costs, wire: str = EXACT, objective: Objective = "latency"
) -> float:
    """Seconds that no plan can beat: of latency, or of the interval between answers; see the module's text.

    Devices of one board are asked for their costs once.
    """
    kinds = _kinds(group)
    prices = _Prices(network, group, kinds, _trunk(network, kinds, costs, wire), costs, objective)
    best = 0.0
    for weights in prices.first_weights():
        best = max(best, _ascend(prices, weights, best))
    return best


def _ascend(prices: _Prices, weights: Floats, best: float) -> float:
    """The best bound found from these weights on; Polyak's step towards a bound that is better by `aim`."""
    best_weights, aim, fruitless = weights, FIRST_AIM, 0
    for _ in range(MOST_ROUNDS):
        seconds = prices.cheapest(weights)
        value = float(weights @ seconds)
        if value > best:
            best, best_weights, fruitless = value, weights, 0
        else:
            fruitless += 1
        gain = seconds - value
        spread = float(weights @ gain**2)
        if spread <= 0 or aim < LAST_AIM:  # with no spread, all that count are busy for equally long: this is the best
            break
        if fruitless == PATIENCE:
            weights, aim, fruitless = best_weights, aim / 2, 0
            continue
        step = min((best * (1 + aim) - value) / spread, 3 / float(np.max(np.abs(gain))))
        weights = np.maximum(weights * np.exp(step * gain), LEAST_WEIGHT)
        weights /= np.sum(weights)
    return best


@dataclass(frozen=True, slots=True)
class _Kind:
    """Devices that differ in nothing but their name; `device` is one of them.

    The best weights of their resources are equal, so together they are one device that is as many times as fast.
    """

    device: str
    board: str
    link: Link
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class _Trunk:
    """What all chains together cost at least.

    `seconds[k, i, j]` of computing units i to j on a device of kind k; infinite where j < i. `bytes_at[i]` of the map
    before unit i: the network's input for i = 0, what is left in the end for the last i. `needed[i, j]` says that units
    i to j, as a block, need the map before them of whoever has it. What is left goes to the `target`: the tail, the
    answer, or neither. `precedes_tail` says that all of the trunk has to be done before the tail begins.
    """

    seconds: Floats
    bytes_at: Floats
    needed: Flags
    target: str
    precedes_tail: bool


def _kinds(group: Group) -> tuple[_Kind, ...]:
    members: dict[tuple[str, Link], list[Device]] = {}
    for device in group.devices:
        members.setdefault((device.board, device.link), []).append(device)
    return tuple(_Kind(devices[0].name, board, link, len(devices)) for (board, link), devices in members.items())


def _trunk(network: Network, kinds: tuple[_Kind, ...], costs: Costs, wire: str) -> _Trunk:
    graph, count = network.graph, len(network.units)
    if not count:
        inputs = sum(graph.tensors[t].nbytes for t in network.reads(network.tail))
        nothing = np.zeros((len(kinds), 0, 0))
        return _Trunk(nothing, np.array([float(inputs)]), np.zeros((0, 0), dtype=np.bool_), "tail", True)
    found = chains(network)
    needed = np.zeros((count, count), dtype=np.bool_)
    for k, links in enumerate(found.links):
        first = 0 if k == count else k + 1
        for j in range(first, count):
            needed[first, j] = any(m <= j and found.covered[j, m] for m in links)
    last = network.units[-1].reference
    target = "tail" if last in network.reads(network.tail) else "answer" if last in graph.outputs else ""
    bytes_at = np.zeros(count + 1)
    for i, tensor in enumerate((found.source, *(unit.reference for unit in network.units))):
        exact = i == 0 or (i == count and target == "answer")
        elements = graph.tensors[tensor].nbytes / graph.tensors[tensor].numpy_dtype.itemsize
        bytes_at[i] = elements * least_element_bytes(graph.tensors[tensor], EXACT if exact else wire)
    bytes_at *= np.roll(found.portion, 1)
    precedes = target == "tail" and _all_lead_to_the_last(found, count)
    return _Trunk(_block_seconds(network, kinds, costs, found), bytes_at, needed, target, precedes)


def _all_lead_to_the_last(found: Chains, count: int) -> bool:
    leads = [False] * count
    leads[-1] = True
    for k in range(count - 2, -1, -1):
        leads[k] = any(leads[m] for m in found.links[k])
    return all(leads)


def _block_seconds(network: Network, kinds: tuple[_Kind, ...], costs: Costs, found: Chains) -> Floats:
    count = len(network.units)
    boards: dict[str, Floats] = {}
    for kind in kinds:
        if kind.board in boards:
            continue
        seconds = boards[kind.board] = np.full((count, count), np.inf)
        for j, unit in enumerate(network.units):
            whole = Region.whole(network.graph.tensors[unit.reference])
            portion, first = 1.0, j
            for i in range(j, -1, -1):
                if i == j or (first == i + 1 and found.covered[j, i]):
                    first, portion = i, min(portion, float(found.portion[i]))
                    seconds[i, j] = costs.tile_seconds(kind.device, i, j, whole) * portion
                else:  # what the block does before this unit is not known to be each tile's
                    seconds[i, j] = seconds[first, j]
    return np.stack([boards[kind.board] for kind in kinds])


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """Least prices, by units that are done and kind of device, and how they are reached.

    `owned` where each device made its own chains' rows of the last map, `got` where it has them; `before` is the first
    unit of the block that ends there. `leave` is the price of a byte that leaves a device.
    """

    owned: Floats
    got: Floats
    before: npt.NDArray[np.int64]
    leave: Floats


class _Prices:
    """The cheapest way of all chains through a group, for any weights of its resources.

    Resources are, in this order: processors, links up, links down (each by kind of device); the orchestrator's link up
    and down; what the broker receives, and what it sends.
    """

    def __init__(
        self, network: Network, group: Group, kinds: tuple[_Kind, ...], trunk: _Trunk, costs: Costs,
        objective: Objective,
    ) -> None:  # fmt: skip
        counts = np.array([kind.count for kind in kinds])
        self._group, self._kinds, self._trunk, self._count = group, kinds, trunk, len(kinds)
        self._seconds = trunk.seconds / counts[:, None, None]
        self._by_end = np.ascontiguousarray(self._seconds.transpose(2, 1, 0))  # last unit, first unit, kind
        self._up = np.array([kind.link.up for kind in kinds]) * counts
        self._down = np.array([kind.link.down for kind in kinds]) * counts
        message = np.array([kind.link.message_seconds for kind in kinds])
        # Of the processor, for each byte that is received or sent.
        self._take = np.array([kind.link.byte_seconds for kind in kinds]) / counts
        self._give = self._take + message / counts / _largest_message(network)
        tail_follows = objective == "latency" and bool(network.tail) and trunk.precedes_tail
        self._offsets = np.zeros(3 * self._count + 4)
        if objective == "latency":
            latencies = np.array([kind.link.latency for kind in kinds])
            orchestrator = group.orchestrator.latency + group.orchestrator.message_seconds
            self._offsets = _offsets(latencies, latencies + message, orchestrator, tail_follows)
        else:
            self._take = self._give
        # What is added to each resource's seconds, by the kind of device that runs the tail.
        self._endings = np.zeros((self._count if network.tail else 1, len(self._offsets)))
        if network.tail:
            self._add_tail(network, costs, tail_follows)

    def _add_tail(self, network: Network, costs: Costs, follows: bool) -> None:
        made = {tensor for op in network.tail for tensor in network.graph.ops[op].outputs}
        tensors, group = network.graph.tensors, self._group
        transfers = [
            (Transfer(0, t, whole_or_flat(tensors[t]), "", ORCHESTRATOR), tensors[t])
            for t in network.graph.outputs
            if t in made
        ]
        sizes = [size for transfer, tensor in transfers for size in messages(transfer, tensor)]
        total, least = sum(sizes), min(sizes, default=0)
        for number, kind in enumerate(self._kinds):
            seconds = costs.tail_seconds(kind.device)
            up, down = kind.link.up, group.orchestrator.down
            if follows:
                answer = max(total / up + least / down, least / up + total / down)
                ends = (kind.link, group.orchestrator)
                passing = sum(link.latency + (link.handling_seconds(least) if sizes else 0.0) for link in ends)
                self._endings[number] = seconds + answer + passing
            else:
                self._endings[number, number] = seconds / kind.count + total * self._give[number]
                self._endings[number, self._count + number] = total / up / kind.count
                self._endings[number, -3:] = total / down, total / group.broker, total / group.broker

    def first_weights(self) -> tuple[Floats, Floats]:
        """As if computing were all there is, devices in proportion to their speed; and as if all were alike."""
        count = self._count
        work = self._seconds[:, 0, -1] if self._seconds.size else np.ones(count)
        speeds = np.zeros(3 * count + 4)
        speeds[:count] = 1 / np.maximum(work, 1e-12)
        return speeds / np.sum(speeds), np.full(len(speeds), 1 / len(speeds))

    def cheapest(self, weights: Floats) -> Floats:
        """Seconds by resource, with what comes before and after, where all chains go the cheapest way."""
        trunk, units = self._trunk, self._trunk.needed.shape[0]
        way = self._search(weights)
        answered = way.owned[units] + way.leave * trunk.bytes_at[units]
        here = way.got[units] if trunk.target == "tail" else np.zeros(len(self._endings))
        last = int(np.argmin(here + self._endings @ weights))
        seconds: Floats = self._offsets + self._endings[last]
        if trunk.target == "tail":
            device = self._fetch(way, seconds, units, last)
        elif trunk.target == "answer":
            device = int(np.argmin(answered))
            self._send(seconds, units, device)
            seconds[-3] += trunk.bytes_at[units] / self._group.orchestrator.down
        else:
            device = int(np.argmin(way.owned[units]))
        end = units
        while end:
            first = int(way.before[end, device])
            seconds[device] += self._seconds[device, first, end - 1]
            if trunk.needed[first, end - 1]:
                device = self._fetch(way, seconds, first, device)
            else:
                device = int(np.argmin(way.owned[first]))
            end = first
        return seconds

    def _search(self, weights: Floats) -> _Way:
        """A shortest path over blocks and devices."""
        trunk, count, sizes = self._trunk, self._count, self._trunk.bytes_at
        units = len(sizes) - 1
        through = (weights[-2] + weights[-1]) / self._group.broker
        leave = weights[count : 2 * count] / self._up + through + weights[:count] * self._give
        arrive = weights[2 * count : 3 * count] / self._down + weights[:count] * self._take
        computing = self._by_end * weights[:count]
        every = np.arange(count)
        owned, got = np.zeros((units + 1, count)), np.zeros((units + 1, count))
        cheapest = np.zeros((units + 1, 1))
        before = np.zeros((units + 1, count), dtype=np.int64)
        got[0] = sizes[0] * (weights[-4] / self._group.orchestrator.up + through + arrive)
        for end in range(1, units + 1):
            start = np.where(trunk.needed[:end, end - 1, None], got[:end], cheapest[:end])
            choices = start + computing[end - 1, :end]
            before[end] = choices.argmin(axis=0)
            owned[end] = choices[before[end], every]
            got[end] = np.minimum(owned[end], (owned[end] + leave * sizes[end]).min() + arrive * sizes[end])
            cheapest[end] = owned[end].min()
        return _Way(owned, got, before, leave)

    def _fetch(self, way: _Way, seconds: Floats, end: int, device: int) -> int:
        """Count what it takes to get the map of the units before `end`; who owned it."""
        owner = device
        if end:
            if way.owned[end, device] <= way.got[end, device]:
                return device
            owner = int(np.argmin(way.owned[end] + way.leave * self._trunk.bytes_at[end]))
        self._send(seconds, end, owner)
        seconds[2 * self._count + device] += self._trunk.bytes_at[end] / self._down[device]
        seconds[device] += self._trunk.bytes_at[end] * self._take[device]
        return owner

    def _send(self, seconds: Floats, end: int, owner: int) -> None:
        """Count what it takes to bring that map to the broker, and through it."""
        size = self._trunk.bytes_at[end]
        if end:
            seconds[self._count + owner] += size / self._up[owner]
            seconds[owner] += size * self._give[owner]
        else:
            seconds[-4] += size / self._group.orchestrator.up
        seconds[-2:] += size / self._group.broker


def _largest_message(network: Network) -> int:
    """Bytes that no message of feature maps exceeds: of a piece, or of one element of all channels."""
    maps = [network.graph.tensors[t] for t in (*network.graph.inputs, *(unit.reference for unit in network.units))]
    return max(MOST_PIECE, *(tensor.shape[-1] * tensor.numpy_dtype.itemsize for tensor in maps))


def _offsets(own: Floats, receiving: Floats, orchestrator: float, tail_follows: bool) -> Floats:
    """For each resource, what passes before anything can reach it, and after it to the answer.

    `own` are the devices' link latencies, `receiving` the same with handling one message, as `orchestrator` is. Where
    the tail follows the trunk, resources are done when it begins. A resource that a plan leaves idle has no part in it:
    nothing counts for more than what passes in any plan.
    """
    nearest = float(np.min(receiving))
    if tail_follows:
        always = orchestrator + nearest
        processors = down = orchestrator + receiving
        up = orchestrator + receiving + own + nearest
        rest = [orchestrator + nearest, 0.0, 0.0, orchestrator + nearest]
    else:
        always = 2 * orchestrator + nearest + float(np.min(own))
        processors = up = down = orchestrator + receiving + own + orchestrator
        rest = [always, always, orchestrator, 2 * orchestrator]
    offsets: Floats = np.minimum(np.concatenate([processors, up, down, rest]), always)
    return offsets
