"""Predicted times: cases computed by hand, and any plan against a simulation that is slow and written apart."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from legion_iot.errors import AgentError
from legion_iot.model.blocks import Network, divide
from legion_iot.model.builder import GraphBuilder
from legion_iot.model.geometry import Interval, Region
from legion_iot.planning.estimate import BROKER, Bar, Estimate, Estimator, estimate
from legion_iot.planning.links import Link
from legion_iot.planning.plan import Block, Plan, Tile
from legion_iot.planning.problem import Device, Group
from legion_iot.planning.routing import ORCHESTRATOR, route
from legion_iot.planning.traffic import EXACT, messages
from tests.planning.groups import FlopCosts, random_costs, random_group, with_handling
from tests.planning.plans import random_plan
from tests.planning.slow_simulation import SlowSimulation
from tests.runtime.networks import NETWORKS

PIECE = 1 << 19
ROWS = 64  # of a map of which each row is 512 KiB, so that of 32 rows or more each one is a fragment


@dataclass(frozen=True)
class RowCosts:
    """`seconds` of each device for each row of a tile, and for the tail."""

    seconds: Mapping[str, float]
    tail: float = 0.0

    def tile_seconds(self, device: str, first: int, last: int, region: Region) -> float:
        return self.seconds[device] * len(region.rows) * (last - first + 1)

    def tail_seconds(self, device: str) -> float:
        return self.tail


def pointwise(units: int, with_tail: bool = False) -> Network:
    """`units` 1×1 convolutions over a map of 64 rows of 512 KiB each."""
    net = GraphBuilder("pointwise")
    x = net.input((1, ROWS, 1 << 13, 16))
    for _ in range(units):
        x = net.conv2d(x, 16, 1)
    return divide(net.finish(net.global_mean(x) if with_tail else x))


def strips(*rows: tuple[str, int, int]) -> tuple[Tile, ...]:
    return tuple(Tile(agent, Region(Interval(a, b), Interval(0, 1 << 13))) for agent, a, b in rows)


def group(links: Mapping[str, Link], orchestrator: Link, broker: float = math.inf) -> Group:
    return Group(tuple(Device(name, name, link) for name, link in links.items()), orchestrator, broker)


# --- by hand: this link carries a row in 0.25 s up and in 0.125 s down ---

RATE = 4.0 * PIECE
EVEN = Link(0.01, RATE, 2 * RATE)


def test_one_device_receives_all_computes_and_answers() -> None:
    plan = Plan("single", (Block(0, 0, strips(("a", 0, 64))),), "a")
    result = estimate(pointwise(1), plan, group({"a": EVEN}, EVEN), RowCosts({"a": 0.5}))
    # 64 rows up, each 0.25 s, the last one down in 0.125 s; two latencies; the same way back.
    there = 64 * 0.25 + 0.125 + 0.02
    assert result.latency == pytest.approx(there + 32 + there)
    assert result.interval == pytest.approx(32)
    assert [(bar.participant, bar.kind, bar.size, bar.peer) for bar in result.bars] == [
        (ORCHESTRATOR, "send", 64 * PIECE, "a"),
        ("a", "receive", 64 * PIECE, ORCHESTRATOR),
        ("a", "compute", 0, ""),
        ("a", "send", 64 * PIECE, ORCHESTRATOR),
        (ORCHESTRATOR, "receive", 64 * PIECE, "a"),
    ]
    assert [bar.step for bar in result.bars] == [None, 0, 0, 0, 2]  # step 1 is the tail's, which there is none of


def test_a_slow_receiver_sets_the_pace() -> None:
    slow = Link(0.0, RATE, RATE / 4)  # a second for each row
    plan = Plan("single", (Block(0, 0, strips(("a", 0, 64))),), "a")
    result = estimate(pointwise(1), plan, group({"a": slow}, EVEN), RowCosts({"a": 0.0}))
    receive = next(bar for bar in result.bars if bar.kind == "receive")
    assert (receive.start, receive.end) == pytest.approx((0.25 + 0.01, 0.25 + 0.01 + 64))


def test_inputs_leave_one_after_the_other_and_answers_share_a_link() -> None:
    plan = Plan("halves", (Block(0, 0, strips(("a", 0, 32), ("b", 32, 64))),), "a")
    costs = RowCosts({"a": 1.0, "b": 0.5})
    result = estimate(pointwise(1), plan, group({"a": EVEN, "b": EVEN}, EVEN), costs)
    # Input: a's last row is sent at 8 s, b's at 16 s. Computing: a to 40.145 s, b to 32.145 s. Both answers are sent
    # for 8 s each, and do not meet.
    assert result.latency == pytest.approx(8 + 0.145 + 32 + 8 + 0.145)
    assert result.interval == pytest.approx(32)
    assert result.busy == pytest.approx({
        ("a", "compute"): 32, ("b", "compute"): 16, (ORCHESTRATOR, "send"): 16, (ORCHESTRATOR, "receive"): 8,
        ("a", "send"): 8, ("a", "receive"): 4, ("b", "send"): 8, ("b", "receive"): 4, (BROKER, "send"): 0,
        (BROKER, "receive"): 0,
    })  # fmt: skip


def test_answers_that_meet_take_turns_message_by_message() -> None:
    plan = Plan("halves", (Block(0, 0, strips(("a", 0, 32), ("b", 32, 64))),), "a")
    narrow = Link(0.0, 1e9 * RATE, RATE)  # the orchestrator receives a row in 0.25 s, as one device sends it
    result = estimate(pointwise(1), plan, group({"a": EVEN, "b": EVEN}, narrow), RowCosts({"a": 1.0, "b": 1.0}))
    answers = [bar for bar in result.bars if bar.participant == ORCHESTRATOR and bar.kind == "receive"]
    ends = sorted(bar.end for bar in answers)
    assert ends[1] - min(bar.start for bar in answers) == pytest.approx(64 * 0.25)
    assert ends[1] - ends[0] == pytest.approx(0.25)


def test_the_broker_itself_can_be_too_slow() -> None:
    plan = Plan("halves", (Block(0, 0, strips(("a", 0, 32), ("b", 32, 64))),), "a")
    links = {"a": EVEN, "b": EVEN}
    result = estimate(pointwise(1), plan, group(links, EVEN, RATE / 2), RowCosts({"a": 0.0, "b": 0.0}))
    assert result.busy[BROKER, "receive"] == result.busy[BROKER, "send"] == pytest.approx(128 * 0.5)
    assert result.interval == pytest.approx(64)
    assert result.latency > 64  # input and answer cannot pass it together: the answer waits for its input


def test_rows_that_stay_are_free_and_the_others_travel_while_computing_goes_on() -> None:
    """The lower half of block 1 belongs to b, which has made it; a quarter goes from a to b."""
    blocks = (
        Block(0, 0, strips(("a", 0, 32), ("b", 32, 64))),
        Block(1, 1, strips(("a", 0, 16), ("b", 16, 64))),
    )
    fast = Link(0.0, 1e9 * RATE, 1e9 * RATE)
    result = estimate(
        pointwise(2), Plan("moved", blocks, "a"), group({"a": EVEN, "b": EVEN}, fast), RowCosts({"a": 1.0, "b": 0.1})
    )
    between = [bar for bar in result.bars if bar.kind == "send" and bar.peer in ("a", "b") and bar.step is not None]
    assert [(bar.participant, bar.peer, bar.size, bar.block) for bar in between] == [("a", "b", 16 * PIECE, 0)]
    computing = {(bar.participant, bar.block): bar for bar in result.bars if bar.kind == "compute"}
    assert computing["a", 1].start == computing["a", 0].end
    assert computing["b", 1].start == pytest.approx(computing["a", 0].end + 16 * 0.25 + 0.125 / 2 + 0.02)  # half rows


def test_a_hub_gathers_and_scatters_everything_and_computes_meanwhile() -> None:
    tiles = strips(("a", 0, 32), ("b", 32, 64))
    blocks = (Block(0, 0, tiles), Block(1, 1, tiles))
    links = dict.fromkeys(("a", "b", "c"), EVEN)
    result = estimate(
        pointwise(2), Plan("hub", blocks, "c", "c"), group(links, EVEN), RowCosts({"a": 1.0, "b": 1.0, "c": 1.0})
    )
    assert result.busy["c", "receive"] == pytest.approx(2 * 64 * 0.125)
    assert result.busy["c", "send"] == pytest.approx(2 * 64 * 0.25)
    assert ("c", "compute") not in result.busy


def test_tail_follows_the_last_tile() -> None:
    plan = Plan("halves", (Block(0, 0, strips(("a", 0, 32), ("b", 32, 64))),), "b")
    result = estimate(
        pointwise(1, with_tail=True), plan, group({"a": EVEN, "b": EVEN}, EVEN), RowCosts({"a": 1.0, "b": 0.0}, 7.0)
    )
    made = 8 + 0.145 + 32
    assert result.latency == pytest.approx(made + 8 + 0.145 + 7 + 64 / RATE + 32 / RATE + 0.02)


def test_parts_let_rows_leave_before_the_tile_is_done() -> None:
    whole = Plan("whole", (Block(0, 0, strips(("a", 0, 64))),), "a")
    tile = whole.blocks[0].tiles[0]
    halves = tuple(Region(Interval(a, a + 32), Interval(0, 1 << 13)) for a in (0, 32))
    parts = Plan("parts", (Block(0, 0, (dataclasses.replace(tile, parts=halves),)),), "a")
    results = [estimate(pointwise(1), plan, group({"a": EVEN}, EVEN), RowCosts({"a": 0.25})) for plan in (whole, parts)]
    # Half of the input is computed while the other half comes, half of the answer leaves while the rest is computed.
    assert results[0].latency - results[1].latency == pytest.approx(8 + 8, abs=0.3)
    assert results[1].busy == pytest.approx(results[0].busy)


def test_replicas_share_requests_by_their_rates() -> None:
    fast = Link(0.0, 1e6 * RATE, 1e6 * RATE)
    plans = [Plan("one", (Block(0, 0, strips((name, 0, 64))),), name) for name in ("a", "b")]
    both = dataclasses.replace(plans[0], replicas=(plans[1],))
    costs = RowCosts({"a": 1.0, "b": 3.0})
    result = estimate(pointwise(1), both, group({"a": fast, "b": fast}, fast), costs)
    assert result.shares == pytest.approx((0.75, 0.25))
    assert result.interval == pytest.approx(1 / (1 / 64 + 1 / 192))
    assert result.latency == pytest.approx(0.75 * 64 + 0.25 * 192, rel=1e-4)
    # Through one narrow link both are as slow as it: 64 rows in 64 s.
    narrow = estimate(pointwise(1), both, group({"a": fast, "b": fast}, Link(0.0, RATE / 4, 1e6 * RATE)), costs)
    assert narrow.interval == pytest.approx(64)


def test_a_wire_dtype_makes_maps_between_agents_smaller_and_nothing_else() -> None:
    blocks = (Block(0, 0, strips(("a", 0, 64))), Block(1, 1, strips(("b", 0, 64))))
    links = {"a": EVEN, "b": EVEN}
    exact, half = (
        estimate(pointwise(2), Plan("moved", blocks, "a"), group(links, EVEN), RowCosts({"a": 0, "b": 0}), wire)
        for wire in (EXACT, "float16")
    )
    assert half.busy["a", "send"] == pytest.approx(exact.busy["a", "send"] / 2)
    assert half.busy[ORCHESTRATOR, "send"] == exact.busy[ORCHESTRATOR, "send"]
    assert half.busy["b", "send"] == exact.busy["b", "send"]


def test_an_agent_the_group_does_not_have_is_named() -> None:
    plan = Plan("single", (Block(0, 0, strips(("a", 0, 64))),), "a")
    with pytest.raises(AgentError, match="agent 'a'"):
        estimate(pointwise(1), plan, group({"b": EVEN}, EVEN), RowCosts({}))


def test_messages_take_the_processors_of_both_ends_before_they_count() -> None:
    """A device that gets the input, half a second of handling for each of its two messages, and returns as many."""
    members = group({"a": dataclasses.replace(EVEN, latency=0.0, message_seconds=0.5)}, Link(0.0, math.inf, math.inf))
    plan = Plan("single", (Block(0, 0, strips(("a", 0, 64))),), "a")
    costs = RowCosts({"a": 1 / 64})
    network = pointwise(1)
    sizes = [messages(t, network.graph.tensors[t.tensor]) for t in route(network, plan).transfers]
    assert [len(each) for each in sizes] == [64, 64]
    # The link brings a row every 1/8 s, so all but the first wait for the processor; rows leave in 1/4 s.
    result = estimate(network, plan, members, costs)
    assert result.latency == pytest.approx(1 / 8 + 64 / 2 + 1 + 64 / 2 + 1 / 4)
    assert result.busy["a", "compute"] == pytest.approx(64 / 2 + 1 + 64 / 2)
    assert result.interval == pytest.approx(65)


def test_what_comes_meanwhile_holds_up_what_is_computed() -> None:
    """Device a computes its half while the rows that b makes, and a needs for the next block, come and cost."""
    network, free = pointwise(2), Link(0.0, math.inf, math.inf)
    plan = Plan("any", (Block(0, 0, strips(("a", 0, 32), ("b", 32, 64))), Block(1, 1, strips(("a", 0, 64)))), "a")
    costs = RowCosts({"a": 1.0, "b": 0.25})
    before = estimate(network, plan, group({"a": free, "b": free}, free), costs)
    assert before.latency == pytest.approx(32 + 64)
    after = estimate(network, plan, group({"a": Link(0.0, math.inf, math.inf, 0.125), "b": free}, free), costs)
    # 32 messages of the input before the half can begin, 32 of b's while it is computed, 64 of the answer.
    assert after.latency == pytest.approx(32 / 8 + 32 + 32 / 8 + 64 + 64 / 8)
    first = next(bar for bar in after.bars if bar.kind == "compute" and bar.participant == "a")
    assert (first.start, first.end) == pytest.approx((32 / 8, 32 / 8 + 32 + 32 / 8))


# --- any plan ---


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(40))
def test_any_plan_takes_as_long_as_in_the_slow_simulation(name: str, seed: int) -> None:
    network, draw = NETWORKS[name], random.Random(seed)
    plan = dataclasses.replace(random_plan(network, draw), replicas=())
    members, costs = random_group(draw), random_costs(network, draw)
    members = with_handling(members, draw) if seed % 2 else members
    result = estimate(network, plan, members, costs)
    slow = SlowSimulation(network, plan, members, costs)
    assert result.latency == pytest.approx(slow.run(), rel=1e-9)
    ours = {(bar.step, bar.participant): (bar.start, bar.end) for bar in result.bars if bar.kind == "compute"}
    assert ours.keys() == slow.computing.keys()
    for key, times in slow.computing.items():
        assert ours[key] == pytest.approx(times, rel=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_busy_for_longer_than_the_request_takes(name: str, seed: int) -> None:
    network, draw = NETWORKS[name], random.Random(seed)
    plan = random_plan(network, draw)
    members, costs = with_handling(random_group(draw), draw), random_costs(network, draw)
    estimator = Estimator(network, members, costs)
    result = estimator.estimate(plan)
    assert sum(result.shares) == pytest.approx(1)
    for turn in plan.turns:
        alone = estimator.estimate(dataclasses.replace(turn, replicas=()))
        assert alone.interval == pytest.approx(max(alone.busy.values()))
        assert alone.latency >= alone.interval * (1 - 1e-9)
    _check_bars(result, network, plan, members)
    assert Estimator(network, members, costs).estimate(plan) == result


def _check_bars(result: Estimate, network: Network, plan: Plan, members: Group) -> None:
    """Every transfer is sent once and received once; a processor and a sending link do one thing at a time."""
    tensors = network.graph.tensors
    travelled = sorted(
        (t.source, t.target, sum(messages(t, tensors[t.tensor])))
        for t in route(network, plan).transfers
        if t.source != t.target
    )
    assert sorted((b.participant, b.peer, b.size) for b in result.bars if b.kind == "send") == travelled
    assert sorted((b.peer, b.participant, b.size) for b in result.bars if b.kind == "receive") == travelled
    rows: dict[tuple[str, str, int], list[Bar]] = {}
    for bar in result.bars:
        link = members.orchestrator if bar.participant == ORCHESTRATOR else members[bar.participant].link
        if bar.kind != "compute":
            assert bar.end - bar.start >= bar.size / (link.up if bar.kind == "send" else link.down) * (1 - 1e-9)
        rows.setdefault((bar.participant, bar.kind, bar.replica), []).append(bar)
    for (_, kind, _), bars in rows.items():
        if kind != "receive":
            bars.sort(key=lambda bar: (bar.start, bar.end))
            assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(bars))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(10))
def test_twice_as_fast_takes_half_as_long(name: str, seed: int) -> None:
    network, draw = NETWORKS[name], random.Random(seed)
    plan, members, costs = random_plan(network, draw), random_group(draw), random_costs(network, draw)
    members = with_handling(members, draw)

    def twice(link: Link) -> Link:
        half = (link.message_seconds / 2, link.byte_seconds / 2)
        return Link(link.latency / 2, link.up * 2, link.down * 2, *half)

    devices = tuple(dataclasses.replace(device, link=twice(device.link)) for device in members.devices)
    faster = Group(devices, twice(members.orchestrator), members.broker * 2)
    double = FlopCosts(
        network,
        {name: speed * 2 for name, speed in costs.speeds.items()},
        {name: fixed / 2 for name, fixed in costs.fixed.items()},
        {name: tail / 2 for name, tail in costs.tail.items()},
    )
    before, after = estimate(network, plan, members, costs), estimate(network, plan, faster, double)
    assert after.latency == pytest.approx(before.latency / 2)
    assert after.interval == pytest.approx(before.interval / 2)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(10))
def test_a_faster_link_never_makes_answers_rarer(name: str, seed: int) -> None:
    """Latency may rise, since what is ready earlier may get in the way (Graham's anomaly); the interval may not."""
    network, draw = NETWORKS[name], random.Random(seed)
    plan, members, costs = random_plan(network, draw), random_group(draw), random_costs(network, draw)
    plan = dataclasses.replace(plan, replicas=())
    first = members.devices[0]
    link = dataclasses.replace(first.link, up=first.link.up * 3, down=first.link.down * 3)
    better = dataclasses.replace(first, link=link)
    faster = dataclasses.replace(members, devices=(better, *members.devices[1:]))
    assert estimate(network, plan, faster, costs).interval <= estimate(network, plan, members, costs).interval * (
        1 + 1e-9
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(10))
def test_dearer_messages_never_make_answers_more_frequent(name: str, seed: int) -> None:
    network, draw = NETWORKS[name], random.Random(seed)
    plan, members, costs = random_plan(network, draw), random_group(draw), random_costs(network, draw)
    plan = dataclasses.replace(plan, replicas=())
    dearer = with_handling(members, draw)
    before, after = estimate(network, plan, members, costs), estimate(network, plan, dearer, costs)
    assert after.interval >= before.interval * (1 - 1e-9)
    assert after.busy[ORCHESTRATOR, "send"] == before.busy[ORCHESTRATOR, "send"]
